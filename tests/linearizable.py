"""Whether calls that overlapped could have happened one after another: a checker of linearizability (Wing and Gong's
definition; Lowe's search, in which a call takes its place in the order no sooner than an end needs it to).

A call that was an `OutcomeUnknown` may have taken effect at any instant after its start, or never.
"""

from __future__ import annotations

import re
from itertools import count
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

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
    decided: bool = True
    """Whether it came to an end."""


class _End(NamedTuple):
    """The end of a call, at which it must have happened."""

    bit: int
    """Of the call, while it is pending."""
    call: int
    pending: list[tuple[int, int]]
    """The calls that have begun, and not ended before, each with its bit: the likeliest one to be next is the last."""
    unknown: int
    """The bits of those that are unknown."""


def check(calls: Iterable[Call], keys: Sequence[str] | None = None, most: int | None = None) -> Checked:
    """Search for an order of the calls that gives their results and keeps who ended before whom began.

    Args:
        calls: in any order; every key is missing at first.
        keys: all that they name, where known.
        most: after so many states the search is given up. Many unknown calls on many keys have very many orders.
    """
    calls = sorted(calls, key=lambda call: call.start)
    keys = tuple(keys or dict.fromkeys(key for call in calls for key in call.keys))
    place = {key: i for i, key in enumerate(keys)}
    places = [[place[key] for key in call.keys] for call in calls]
    ends = _ends(calls)
    # what has ended by now, the values, and which of the pending calls have happened
    stack: list[tuple[int, State, int]] = [(0, (None,) * len(keys), 0)]
    seen: dict[tuple[int, State, int], list[int]] = {}
    arrived: list[set[State]] = [{stack[0][1]}, *(set() for _ in ends)]
    looked = 0
    while stack:
        n, state, done = stack.pop()
        if n == len(ends):
            return Checked(None, looked)
        bit, _, pending, unknown = ends[n]
        if not _is_new(seen, (n, state, done & ~unknown), done & unknown):
            continue
        looked += 1
        if looked == most:
            return Checked(None, looked, decided=False)
        if done & bit:
            stack.append((n + 1, state, done ^ bit))
            arrived[n + 1].add(state)
            continue
        steps = []
        for other, i in pending:
            if done & other or (left := after(state, calls[i], places[i])) is None:
                continue
            if calls[i].method in READS and calls[i].known:  # it must happen, and changes nothing: best where it can
                steps = [(n, state, done | other)]
                break
            if left != state or calls[i].known:
                steps.append((n, left, done | other))
        stack += steps
    last = max(n for n, states in enumerate(arrived) if states)
    return Checked(_violation(calls, keys, ends[last].call, arrived[last]), looked)


def _is_new(seen: dict[tuple[int, State, int], list[int]], node: tuple[int, State, int], unknown: int) -> bool:
    """Whether nobody was there with as few of the unknown calls, or fewer: the others may happen later, or never."""
    before = seen.setdefault(node, [])
    if any(fewer & unknown == fewer for fewer in before):
        return False
    before.append(unknown)
    return True


def _ends(calls: Sequence[Call]) -> list[_End]:
    """Every end in order of time. At one instant starts come before ends."""
    events = [(call.start, False, i) for i, call in enumerate(calls)]
    events += [(call.end, True, i) for i, call in enumerate(calls) if call.known]
    pending: dict[int, int] = {}
    bits: dict[int, int] = {}
    ends: list[_End] = []
    unknown = 0
    for _, is_end, i in sorted(events):
        if is_end:
            likely = sorted(pending.items(), key=lambda one: (calls[one[1]].known, -calls[one[1]].end))
            ends.append(_End(bits[i], i, likely, unknown))
            del pending[bits[i]]
        else:
            bits[i] = bit = next(1 << n for n in count() if 1 << n not in pending)
            pending[bit] = i
            unknown |= 0 if calls[i].known else bit
    return ends


def _violation(calls: list[Call], keys: tuple[str, ...], i: int, states: set[State]) -> Violation:
    call = calls[i]
    before = [other for other in calls if other.known and other.end < call.start]
    before = sorted(before, key=lambda other: other.end)[-EXCERPT:]
    beside = [o for o in calls if o.start <= call.end and (o.end >= call.start or not o.known)]
    return Violation(call, keys, sorted(states, key=repr), [*before, *beside])


def check_each_key(calls: Iterable[Call]) -> Checked:
    """The same of each key alone, which is quicker: what is linearizable for each key is so for all."""
    parts: dict[str, list[Call]] = {}
    for call in calls:
        for key in call.keys:
            parts.setdefault(key, []).append(call.on(key))
    looked = 0
    for key, part in parts.items():
        checked = check(part, (key,))
        looked += checked.states
        if checked.violation:
            return checked._replace(states=looked)
    return Checked(None, looked)
