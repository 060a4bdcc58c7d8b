"""Counters: what each bucket holds, for how long, and who may count."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from colours import around, both, run
from programs import pythons

import kv
from kv.adapters import AsyncCounter, Counter
from kv.testing.suite import together

if TYPE_CHECKING:
    from collections.abc import Callable


class Clock:
    """A clock that is set by hand."""

    def __init__(self, now: float = 600_030.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@both
def test_what_was_counted_is_found_in_its_bucket(opens: Callable[..., Any], anywhere: str) -> None:
    clock = Clock()

    async def body(store: kv.AsyncStore) -> None:
        counter = around(store, Counter, AsyncCounter, "visits", every=60, keep=600, clock=clock)
        assert await counter.add() == 1
        assert await counter.add(4) == 5
        clock.now += 60
        assert await counter.add() == 1
        clock.now += 60
        assert await counter.add(10) == 10
        assert await counter.add(-3) == 7
        assert await counter.series(150) == [(600_000.0, 5), (600_060.0, 1), (600_120.0, 7)]
        assert await counter.series(60) == [(600_120.0, 7)]
        assert await counter.series(1) == [(600_120.0, 7)]
        assert await counter.total(timedelta(minutes=2)) == 8
        assert len(await counter.series()) == 10
        assert await counter.total() == 13
        clock.now += 9 * 60
        assert await counter.total() == 7
        other = around(store, Counter, AsyncCounter, "others", clock=clock)
        assert await other.total() == 0

    run(opens(anywhere), body)


@both
def test_side_by_side_nothing_is_lost(opens: Callable[..., Any], anywhere: str) -> None:
    async def body(store: kv.AsyncStore) -> None:
        counter = around(store, Counter, AsyncCounter, "visits", clock=Clock())
        assert sorted(await together(store, *(counter.add() for _ in range(30)))) == [*range(1, 31)]

    run(opens(anywhere), body)


def test_among_processes_nothing_is_lost(shared: str) -> None:
    pythons(
        """
        import sys, kv
        from kv.adapters import Counter
        with kv.open(sys.argv[1]) as store:
            for n in range(40):
                Counter(store, "visits", clock=lambda: 600_000.0 + 60 * (n % 4)).add(n)
        """,
        shared,
    )
    with kv.open(shared) as store:
        counted = Counter(store, "visits", clock=Clock(600_180.0)).series(240)
        assert [count for _, count in counted] == [4 * sum(range(rest, 40, 4)) for rest in range(4)]


def test_buckets_expire_and_those_of_another_length_are_others(memory: kv.Store) -> None:
    clock = Clock()
    for every in (60, 3600, 0.5):
        Counter(memory, "visits", every=every, keep=7200, clock=clock).add()
        assert Counter(memory, "visits", every=every, keep=7200, clock=clock).total() == 1
    entries = memory.namespace("counter").namespace("visits")
    assert {key: entries.ttl(key) for key in entries.keys()} == {  # noqa: SIM118
        "60000:10000": pytest.approx(7260, abs=60),
        "3600000:166": pytest.approx(10800, abs=60),
        "500:1200060": pytest.approx(7200.5, abs=60),
    }


def test_what_is_no_count_stays_as_it_is(memory: kv.Store) -> None:
    counter = Counter(memory, "visits", clock=Clock())
    counter.add()
    entries = memory.namespace("counter").namespace("visits")
    entries.set("60000:10000", b"foreign")
    for call in (counter.add, counter.series, counter.total):
        with pytest.raises(kv.NotAnInteger):
            call()
    assert entries.get("60000:10000") == b"foreign"


def test_bad_arguments_are_refused_before_any_io() -> None:
    store = kv.open("memory://")
    counter = Counter(store, "visits", every=60, keep=600)
    store.close()
    for amount in (1.0, True, "1", None):
        with pytest.raises(TypeError, match="amount must be an int"):
            counter.add(amount)  # type: ignore[arg-type]
    with pytest.raises(kv.IntegerOverflow):
        counter.add(2**63)
    for last in (0, -1, 601, math.nan, math.inf):
        with pytest.raises(ValueError, match="last must be"):
            counter.series(last)
    with pytest.raises(TypeError, match="last must be"):
        counter.total(True)
    for options in ({"every": 0}, {"every": -1}, {"keep": 59}, {"keep": 60 * 100_001}, {"every": math.nan}):
        with pytest.raises(ValueError, match=r"every|keep"):
            Counter(store, "visits", **options)
    for name in ("", "a\x00", "x" * 256, None):
        with pytest.raises(kv.InvalidKey):
            Counter(store, name)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="AsyncCounter stands on"):
        AsyncCounter(store, "visits")  # type: ignore[arg-type]
    assert repr(counter) == "<Counter 'visits' on <MemoryStore>>"
