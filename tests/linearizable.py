"""Whether calls that overlapped could have happened one after another: a checker of linearizability (Wing and Gong's
definition; Lowe's search, in which a call takes its place in the order no sooner than something needs it to).

A call that was an `OutcomeUnknown` may have taken effect at any instant after its start, or never.
"""

from __future__ import annotations

import re
from itertools import count
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    State = tuple[bytes | None, ...]
    """The values of some keys, in the order of these."""

UNKNOWN: Final = "unknown"
"""The results of a call that may or may not have happened."""
DONE: Final = "done"
"""The result of a call that has happened, and did not say what it met under this key."""
NOT_AN_INTEGER: Final = "NotAnInteger"
READS: Final = ("get", "exists", "size", "expire")
"""Methods that never change a value."""

EXCERPT: Final = 12
"""So many calls before a violation are shown."""


class Call(NamedTuple):
    """One call, of a method on one key or of its form for many: the same is done to each key at one instant."""

    who: str
    method: str
    keys: tuple[str, ...]
    args: tuple[Any, ...]
    """One for each key."""
    results: tuple[Any, ...] | str
    """One for each key, or `UNKNOWN`."""
    start: int
    """Nanoseconds of the system's monotonic clock, as the end."""
    end: int

    def on(self, key: str) -> Call:
        """The part of it that one key sees."""
        i = self.keys.index(key)
        results = (self.results[i],) if self.known else self.results
        return self._replace(keys=(key,), args=(self.args[i],), results=results)

    @property
    def known(self) -> bool:
        """Whether it has happened, between its start and its end."""
        return self.results != UNKNOWN


def changed(value: bytes | None, arg: int) -> bytes | None:
    """What `update` is asked to do: never the same twice, and now and then to delete."""
    if arg % 5 == 0:
        return None
    number = numeral(value)
    return b"%d" % (arg if number is None else (number * 3 + arg) % 10**12)


def numeral(value: bytes | None) -> int | None:
    """The integer that a value is, if it is one."""
    return None if value is None or not re.fullmatch(rb"0|-?[1-9][0-9]*", value) else int(value)


def stepped(method: str, value: bytes | None, arg: Any) -> tuple[object, bytes | None]:
    """What a method gives, and leaves, where it finds this value: the whole specification."""
    match method:
        case "get":
            return value, value
        case "exists" | "expire":  # with a deadline that is far
            return value is not None, value
        case "size":
            return None if value is None else len(value), value
        case "set":
            return None, arg
        case "delete":
            return value is not None, None
        case "pop":
            return value, None
        case "add":
            return value is None, arg if value is None else value
        case "compare_and_set":
            expected, new = arg
            return value == expected, new if value == expected else value
        case "update":  # its result is what `fn` got, and what came back
            new = changed(value, arg)
            return (value, new), new
        case "increment":
            number = 0 if value is None else numeral(value)
            return (NOT_AN_INTEGER, value) if number is None else (number + arg, b"%d" % (number + arg))
    raise ValueError(method)


def after(state: State, call: Call, places: Sequence[int]) -> State | None:
    """The state that a call leaves; None: it could not have given its results there."""
    values = list(state)
    for i, place in enumerate(places):
        result, values[place] = stepped(call.method, values[place], call.args[i])
        if call.known and call.results[i] not in (DONE, result):
            return None
    return tuple(values)


class Violation(NamedTuple):
    """A call that fits nowhere."""

    call: Call
    keys: tuple[str, ...]
    states: list[State]
    """Those of which the store could have been in one before it."""
    near: list[Call]
    """What overlaps with it, and what came before."""

    def __str__(self) -> str:
        zero = min(call.start for call in self.near)
        lines = [
            f"{'>' if call is self.call else ' '} {call.who:<12} {(call.start - zero) / 1e6:9.3f} to "
            f"{format((call.end - zero) / 1e6, '9.3f') if call.known else '  unknown'} ms  "
            f"{call.method}{call.keys} {call.args} gave {call.results}"
            for call in sorted(self.near, key=lambda call: call.start)
        ]
        return (
            f"no order of the calls explains the one marked, on {self.keys}; the values after what had ended by then "
            f"could be {self.states[:5]}:\n" + "\n".join(lines)
        )


class Checked(NamedTuple):
    """What a search came to."""

    violation: Violation | None
    states: int
    """How many it has looked at."""


def check(calls: Iterable[Call], keys: Sequence[str] | None = None) -> Checked:
    """Search for an order of the calls that gives their results and keeps who ended before whom began.

    Args:
        calls: in any order; every key is missing at first.
        keys: all that they name, where known.
    """
    calls = sorted(calls, key=lambda call: call.start)
    keys = tuple(keys or dict.fromkeys(key for call in calls for key in call.keys))
    place = {key: i for i, key in enumerate(keys)}
    places = [[place[key] for key in call.keys] for call in calls]
    pending: dict[int, int] = {}  # by its bit, a call that has begun, and not ended
    bits: dict[int, int] = {}
    unknown = 0  # their bits
    # a state, and the pending calls that have happened in it
    reached: set[tuple[State, int]] = {((None,) * len(keys), 0)}
    looked = 0
    for ends, i in _events(calls):
        if not ends:
            bits[i] = bit = next(1 << n for n in count() if 1 << n not in pending)
            pending[bit] = i
            if not calls[i].known:
                unknown |= bit
            continue
        bit = bits.pop(i)
        seen, stack, reachable = set(reached), [*reached], set()
        while stack:
            state, done = stack.pop()
            if done & bit:
                reachable.add((state, done ^ bit))
                continue
            steps = []
            for other, j in pending.items():
                if done & other or (state_after := after(state, calls[j], places[j])) is None:
                    continue
                if calls[j].method in READS and calls[j].known:  # must happen, and changes nothing: best where it can
                    steps = [(state, done | other)]
                    break
                if state_after != state or calls[j].known:
                    steps.append((state_after, done | other))
            new = [step for step in steps if step not in seen]
            seen.update(new)
            stack.extend(new)
        looked += len(seen)
        if not reachable:
            return Checked(_violation(calls, keys, i, reached), looked)
        del pending[bit]
        reached = _fewest(reachable, unknown) if unknown else reachable
    return Checked(None, looked)


def _events(calls: Sequence[Call]) -> Iterator[tuple[bool, int]]:
    """Starts and ends in order of time; at one instant starts first, so that these calls overlap."""
    events = [(call.start, False, i) for i, call in enumerate(calls)]
    events += [(call.end, True, i) for i, call in enumerate(calls) if call.known]
    for _, ends, i in sorted(events):
        yield ends, i


def _fewest(reached: set[tuple[State, int]], unknown: int) -> set[tuple[State, int]]:
    """Of those that differ only in which unknown calls have happened, keep the ones with the fewest: the rest may follow."""
    groups: dict[tuple[State, int], list[int]] = {}
    for state, done in sorted(reached, key=lambda one: (one[1] & unknown).bit_count()):
        kept = groups.setdefault((state, done & ~unknown), [])
        if not any(fewer & done == fewer for fewer in kept):
            kept.append(done & unknown)
    return {(state, known | some) for (state, known), kept in groups.items() for some in kept}


def _violation(calls: list[Call], keys: tuple[str, ...], i: int, reached: set[tuple[State, int]]) -> Violation:
    call = calls[i]
    before = [other for other in calls if other.known and other.end < call.start]
    before = sorted(before, key=lambda other: other.end)[-EXCERPT:]
    beside = [o for o in calls if o.start <= call.end and (o.end >= call.start or not o.known)]
    states = sorted({state for state, _ in reached}, key=repr)
    return Violation(call, keys, states, [*before, *beside])


def check_each_key(calls: Iterable[Call]) -> Checked:
    """The same of each key alone, which is quicker: what is linearizable for each key is so for all."""
    parts: dict[str, list[Call]] = {}
    for call in calls:
        for key in call.keys:
            parts.setdefault(key, []).append(call.on(key))
    looked = 0
    for key, part in parts.items():
        violation, states = check(part, (key,))
        looked += states
        if violation:
            return Checked(violation, looked)
    return Checked(None, looked)
