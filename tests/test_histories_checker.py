"""The checker of histories: what it must refuse, what it must accept, and that it agrees with trying every order."""

from __future__ import annotations

from itertools import combinations, permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from linearizable import DONE, NOT_AN_INTEGER, UNKNOWN, Call, after, check, check_each_key, stepped

K = ("k",)


def one(method: str, arg: Any, result: Any, start: int, end: int, key: str = "k") -> Call:
    return Call("who", method, (key,), (arg,), UNKNOWN if result is UNKNOWN else (result,), start, end)


FAULTY = {
    "a stale read": [one("set", b"1", None, 0, 1), one("set", b"2", None, 2, 3), one("get", None, b"1", 4, 5)],
    "a read of what was never written": [one("set", b"1", None, 0, 1), one("get", None, b"9", 0, 3)],
    "a read from the future": [one("get", None, b"1", 0, 1), one("set", b"1", None, 2, 3)],
    "a lost write": [one("set", b"1", None, 0, 1), one("get", None, None, 2, 3)],
    "new, then old": [
        one("set", b"1", None, 0, 1),
        one("set", b"2", None, 2, 9),
        one("get", None, b"2", 3, 4),
        one("get", None, b"1", 5, 6),
    ],
    "two orders of two writes": [
        one("set", b"1", None, 0, 9),
        one("set", b"2", None, 0, 9),
        one("get", None, b"1", 10, 11),
        one("get", None, b"2", 12, 13),
    ],
    "a lost update": [one("update", 1, (None, b"1"), 0, 9), one("update", 2, (None, b"2"), 0, 9)],
    "an update that gives what it does not store": [
        one("update", 1, (None, b"1"), 0, 1),
        one("get", None, None, 2, 3),
    ],
    "a lost increment": [one("increment", 1, 1, 0, 9), one("increment", 1, 1, 0, 9)],
    "a double increment": [one("increment", 1, 1, 0, 1), one("get", None, b"2", 2, 3)],
    "an increment of what is no number": [one("set", b"x", None, 0, 1), one("increment", 1, 1, 2, 3)],
    "no number, where there is one": [one("set", b"1", None, 0, 1), one("increment", 1, NOT_AN_INTEGER, 2, 3)],
    "an add that two win": [one("add", b"1", True, 0, 9), one("add", b"2", True, 0, 9)],
    "an add that nobody wins": [one("add", b"1", False, 0, 9), one("add", b"2", False, 0, 9)],
    "an add that leaves its loser's value": [
        one("add", b"1", True, 0, 9),
        one("add", b"2", False, 0, 9),
        one("get", None, b"2", 10, 11),
    ],
    "a pop that two get": [
        one("set", b"1", None, 0, 1),
        one("pop", None, b"1", 2, 9),
        one("pop", None, b"1", 2, 9),
    ],
    "a delete that two have done": [
        one("set", b"1", None, 0, 1),
        one("delete", None, True, 2, 9),
        one("delete", None, True, 2, 9),
    ],
    "a deleted entry that is back": [
        one("set", b"1", None, 0, 1),
        one("delete", None, True, 2, 3),
        one("exists", None, True, 4, 5),
    ],
    "a compare_and_set that two win": [
        one("set", b"0", None, 0, 1),
        one("compare_and_set", (b"0", b"1"), True, 2, 9),
        one("compare_and_set", (b"0", b"2"), True, 2, 9),
    ],
    "a compare_and_set that loses for no reason": [
        one("set", b"0", None, 0, 1),
        one("compare_and_set", (b"0", b"1"), False, 2, 9),
    ],
    "an unknown seen and then unseen": [
        one("set", b"1", None, 0, 1),
        one("set", b"2", UNKNOWN, 2, 3),
        one("get", None, b"2", 4, 5),
        one("get", None, b"1", 6, 7),
    ],
    "an unknown seen before it began": [one("get", None, b"2", 0, 1), one("set", b"2", UNKNOWN, 2, 3)],
    "an unknown that happened twice": [
        one("increment", 1, UNKNOWN, 0, 1),
        one("get", None, b"1", 2, 3),
        one("get", None, b"2", 4, 5),
    ],
    "a size of another value": [one("set", b"12", None, 0, 1), one("size", None, 1, 2, 3)],
    "an order against the clock": [
        one("pop", None, b"1", 0, 1),
        one("add", b"1", True, 2, 3),
        one("get", None, None, 4, 5),
    ],
    "what has happened, unseen": [
        one("set", b"1", None, 0, 1),
        one("delete", None, DONE, 2, 3),
        one("get", None, b"1", 4, 5),
    ],
}

SOUND = {
    "nothing": [],
    "a read of either side of a write": [
        one("set", b"1", None, 0, 9),
        one("get", None, None, 1, 2),
        one("get", None, b"1", 3, 4),
        one("get", None, b"1", 5, 6),
    ],
    "two writes in the order of the reads": [
        one("set", b"1", None, 0, 9),
        one("set", b"2", None, 0, 9),
        one("get", None, b"2", 1, 2),
        one("get", None, b"1", 3, 4),
    ],
    "an unknown that never happened": [
        one("set", b"1", None, 0, 1),
        one("set", b"2", UNKNOWN, 2, 3),
        one("get", None, b"1", 4, 5),
    ],
    "an unknown that happened late": [
        one("set", b"1", None, 0, 1),
        one("set", b"2", UNKNOWN, 2, 3),
        one("get", None, b"1", 4, 5),
        one("get", None, b"2", 6, 7),
    ],
    "unknown increments of which one happened": [
        one("increment", 1, UNKNOWN, 0, 1),
        one("increment", 1, UNKNOWN, 0, 1),
        one("increment", 1, 2, 2, 3),
    ],
    "an unknown pop, then an add": [
        one("set", b"1", None, 0, 1),
        one("pop", None, UNKNOWN, 2, 3),
        one("add", b"2", True, 4, 5),
    ],
    "an unknown that only another unknown explains": [
        one("compare_and_set", (b"1", b"2"), UNKNOWN, 0, 1),
        one("set", b"1", UNKNOWN, 2, 3),
        one("get", None, b"2", 4, 5),
    ],
    "a delete that could have met nothing, and met something": [
        one("delete", None, DONE, 0, 9),
        one("add", b"1", True, 1, 2),
        one("get", None, None, 10, 11),
    ],
    "two that touch at one instant": [one("set", b"1", None, 0, 1), one("get", None, None, 1, 2)],
    "other keys": [one("set", b"1", None, 0, 1), one("get", None, None, 2, 3, "other")],
    "an increment of nothing, and of what is no number": [
        one("increment", 5, 5, 0, 1),
        one("set", b"x", None, 2, 3),
        one("increment", 1, NOT_AN_INTEGER, 4, 5),
    ],
}


@pytest.mark.parametrize("calls", FAULTY.values(), ids=[*FAULTY])
def test_what_cannot_have_happened_is_refused_and_shown(calls: list[Call]) -> None:
    violation = check_each_key(calls).violation
    assert violation == check(calls).violation
    assert violation
    assert violation.call in calls
    assert str(violation).count("\n> ") == 1


@pytest.mark.parametrize("calls", SOUND.values(), ids=[*SOUND])
def test_what_can_have_happened_is_accepted(calls: list[Call]) -> None:
    assert check_each_key(calls).violation is None
    assert check(calls).violation is None


def test_a_search_that_is_given_up_says_so() -> None:
    calls = [one("increment", 2**n, UNKNOWN, 0, 1) for n in range(10)] + [one("get", None, b"9999", 2, 3)]
    assert check(calls, most=500) == (None, 500, False)
    assert check(calls).violation
    assert check([*calls[:-1], one("get", None, b"1023", 2, 3)]).violation is None


def many(method: str, args: tuple[Any, ...], results: Any, start: int, end: int) -> Call:
    return Call("who", method, ("a", "b"), args, results, start, end)


BOTH = many("set", (b"1", b"1"), (None, None), 0, 1)


@pytest.mark.parametrize(
    ("calls", "each"),
    [
        ([BOTH, many("set", (b"2", b"2"), (None, None), 2, 9), many("get", K * 2, (b"2", b"1"), 3, 4)], True),
        ([BOTH, many("update", (1, 2), ((b"1", b"4"), (None, b"2")), 2, 3)], False),
        (
            [
                many("set", (b"1", b"1"), (None, None), 0, 9),
                many("set", (b"2", b"2"), (None, None), 0, 9),
                many("get", K * 2, (b"1", b"2"), 10, 11),
            ],
            True,
        ),
        (
            [
                BOTH,
                one("set", b"2", None, 2, 9, "a"),
                one("set", b"3", None, 2, 9, "b"),
                many("get", K * 2, (b"2", b"1"), 3, 4),
                many("get", K * 2, (b"1", b"3"), 3, 4),
            ],
            True,
        ),
    ],
    ids=["half a write", "an update of what was not there", "a mix of two", "two snapshots that contradict"],
)
def test_what_each_key_alone_would_explain_is_refused_for_all_together(calls: list[Call], each: bool) -> None:
    assert (check_each_key(calls).violation is None) is each
    assert check(calls).violation


# against every order there is

VALUES = [None, b"1", b"2"]
METHODS = st.one_of(
    st.tuples(st.sampled_from(["get", "exists", "size", "delete", "pop"]), st.none()),
    st.tuples(st.sampled_from(["set", "add"]), st.sampled_from([b"1", b"2", b"x"])),
    st.tuples(st.just("compare_and_set"), st.tuples(st.sampled_from(VALUES), st.sampled_from(VALUES))),
    st.tuples(st.just("increment"), st.sampled_from([1, -1])),
    st.tuples(st.just("update"), st.sampled_from([1, 2, 5])),
)


@st.composite
def histories(draw: st.DrawFn, most: int = 60) -> list[Call]:
    """Calls made one after another, each at an instant between its start and its end, some with an unknown outcome."""
    value: bytes | None = None
    calls = []
    for instant, (method, arg) in enumerate(draw(st.lists(METHODS, max_size=most))):
        start = instant * 10 - draw(st.integers(0, 30))
        end = instant * 10 + draw(st.integers(0, 30))
        outcome = draw(st.sampled_from(["known"] * 8 + ["happened", "did not"]))
        result, left = stepped(method, value, arg)
        value = value if outcome == "did not" else left
        calls.append(one(method, arg, result if outcome == "known" else UNKNOWN, start, end))
    return calls


def orders_explain(calls: list[Call]) -> bool:
    """Try every order of the calls, with every choice of the unknown ones."""
    known = [call for call in calls if call.known]
    unknown = [call for call in calls if not call.known]
    for n in range(len(unknown) + 1):
        for some in combinations(unknown, n):
            for order in permutations([*known, *some]):
                ends = [call.end if call.known else 10**9 for call in order]
                if any(end < call.start for i, call in enumerate(order) for end in ends[i + 1 :]):
                    continue
                state: Any = (None,)
                for call in order:
                    state = after(state, call, (0,))
                    if state is None:
                        break
                if state is not None:
                    return True
    return False


@given(histories())
@settings(deadline=None)
def test_what_has_happened_one_after_another_is_accepted(calls: list[Call]) -> None:
    checked = check(calls, K)
    assert checked.violation is None, str(checked.violation)


RESULTS = st.sampled_from([None, b"1", b"2", b"x", True, False, 0, 1, 2, (None, b"1"), (b"1", b"5"), NOT_AN_INTEGER])


@given(histories(most=6), st.data())
@settings(deadline=None, max_examples=200)
def test_a_changed_result_is_judged_as_by_trying_every_order(calls: list[Call], data: st.DataObject) -> None:
    if calls:
        i = data.draw(st.integers(0, len(calls) - 1))
        calls[i] = calls[i]._replace(results=(data.draw(RESULTS),))
    assert (check(calls, K).violation is None) is orders_explain(calls)
