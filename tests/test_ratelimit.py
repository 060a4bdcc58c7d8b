"""Rate limits: exactly so many, by which clock, and what is refused."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from adapted import CutOff
from colours import around, both, run
from hypothesis import given
from hypothesis import strategies as st
from programs import pythons

import kv
from kv.adapters import AsyncRateLimiter, Decision, RateLimiter
from kv.testing.suite import together

if TYPE_CHECKING:
    from collections.abc import Callable

    from kv.adapters.ratelimit import Algorithm

ALGORITHMS: list[Algorithm] = ["fixed", "sliding", "bucket"]
each = pytest.mark.parametrize("algorithm", ALGORITHMS)

PER = 1000.0
"""Seconds of a window: more than any test takes by the store's clock."""


class Clock:
    """A clock that is set by hand."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def limiter(store: kv.Store, limit: int = 3, per: Any = PER, **options: Any) -> RateLimiter:
    return RateLimiter(store, limit, per, **{"clock": Clock(), **options})


@each
@both
def test_so_many_are_allowed_and_then_none_until_the_time_that_is_said(
    opens: Callable[..., Any], anywhere: str, algorithm: str
) -> None:
    clock = Clock()

    async def body(store: kv.AsyncStore) -> None:
        limit = around(store, RateLimiter, AsyncRateLimiter, 3, PER, algorithm=algorithm, clock=clock)
        assert [await limit.check("a") for _ in range(3)] == [(True, 2, 0.0), (True, 1, 0.0), (True, 0, 0.0)]
        refused = await limit.check("a")
        assert not refused
        assert refused == await limit.check("a") == await limit.peek("a") == (False, 0, refused.retry_after)
        assert await limit.check("b", 2) == (True, 1, 0.0)
        clock.now += refused.retry_after - 0.001
        assert (await limit.check("a"))[:2] == (False, 0)
        clock.now += 0.001
        assert await limit.peek("a")
        assert await limit.check("a")
        await limit.reset("a")
        assert await limit.check("a", 3) == (True, 0, 0.0)
        assert await store.keys() == []  # all is below the namespace

    run(opens(anywhere), body)


@each
@both
def test_side_by_side_exactly_so_many_are_allowed(opens: Callable[..., Any], anywhere: str, algorithm: str) -> None:
    async def body(store: kv.AsyncStore) -> None:
        limit = around(store, RateLimiter, AsyncRateLimiter, 15, PER, algorithm=algorithm, clock=Clock())
        decisions: list[Decision] = await together(store, *(limit.check("a") for _ in range(40)))
        assert sorted(one.remaining for one in decisions if one.allowed) == [*range(15)]

    run(opens(anywhere), body)


def test_100_allowed_among_processes_means_100(shared: str) -> None:
    said = pythons(
        """
        import asyncio, sys, kv
        from kv.adapters import AsyncRateLimiter, RateLimiter
        url, per, clock = sys.argv[1], 1000, lambda: 1_000_000.0
        costs = [1, 1, 3] * 20
        def sync():
            with kv.open(url) as store:
                for kind in "fixed", "sliding", "bucket":
                    limit = RateLimiter(store, 100, per, algorithm=kind, clock=clock)
                    print(sum(bool(limit.check("ones")) for _ in range(60)))
                    print(sum(cost * limit.check("costs", cost).allowed for cost in costs))
        async def main():
            async with kv.open_async(url) as store:
                for kind in "fixed", "sliding", "bucket":
                    limit = AsyncRateLimiter(store, 100, per, algorithm=kind, clock=clock)
                    print(sum([bool(await limit.check("ones")) for _ in range(60)]))
                    print(sum([cost * (await limit.check("costs", cost)).allowed for cost in costs]))
        asyncio.run(main()) if me % 2 else sync()
        """,
        shared,
    )
    allowed = [sum(map(int, counts)) for counts in zip(*(out.split() for out in said), strict=True)]
    assert allowed == [100] * 6


# each by itself, on the store that needs no server


def test_a_fixed_window_begins_anew_at_its_multiples(memory: kv.Store) -> None:
    clock = Clock(1090.0)
    limit = limiter(memory, per=100, clock=clock)
    assert limit.check("a", 2) == (True, 1, 0.0)
    assert limit.check("a", 2) == (False, 1, 10.0)
    assert limit.check("a") == (True, 0, 0.0)
    clock.now = 1100.0
    assert limit.check("a", 3) == (True, 0, 0.0)
    clock.now = 1099.0  # it goes back: the window before has been used up
    assert limit.check("a") == (False, 0, 1.0)
    entries = memory.namespace("ratelimit").namespace("fixed 3/100")
    assert [entries.ttl(key) for key in entries.keys()] == [pytest.approx(200, abs=5)] * 2  # noqa: SIM118


def test_a_sliding_window_frees_each_call_when_it_is_so_long_ago(memory: kv.Store) -> None:
    clock = Clock(1000.0)
    limit = limiter(memory, 4, 100, algorithm="sliding", clock=clock)
    for clock.now in (1000.0, 1010.0, 1020.0, 1030.0):
        assert limit.check("a")
    assert limit.check("a") == (False, 0, 70.0)
    assert limit.check("a", 3) == (False, 0, 90.0)
    clock.now = 1100.0
    assert limit.check("a") == (True, 0, 0.0)
    assert limit.check("a") == (False, 0, 10.0)
    entries = memory.namespace("ratelimit").namespace("sliding 4/100")
    assert entries.size("a") == 1 + 4 * 16
    assert entries.ttl("a") == pytest.approx(200, abs=5)


def test_a_bucket_fills_evenly_up_to_its_burst(memory: kv.Store) -> None:
    clock = Clock()
    limit = limiter(memory, 7, 100, algorithm="bucket", burst=3, clock=clock)
    assert limit.check("a", 3) == (True, 0, 0.0)
    assert limit.check("a") == (False, 0, 14.285715)  # 100/7, up to the next microsecond
    assert limit.check("a", 2).retry_after == 28.571429
    clock.now += 14.285715
    assert limit.check("a") == (True, 0, 0.0)
    clock.now += 1000
    assert limit.peek("a") == (True, 3, 0.0)
    for _ in range(3):
        assert limit.check("a")
    assert not limit.check("a")
    assert memory.namespace("ratelimit").namespace("bucket 7/100 3").ttl("a") == pytest.approx(200, abs=5)


def test_more_calls_in_a_microsecond_than_one_are_counted_exactly(memory: kv.Store) -> None:
    clock = Clock()
    limit = limiter(memory, 3_000_000, 1, algorithm="bucket", burst=5, clock=clock)
    assert limit.check("a", 5)
    assert not limit.check("a")
    clock.now += 1e-6
    assert limit.check("a", 3)
    assert not limit.check("a")


steps = st.lists(st.tuples(st.integers(-50, 200), st.integers(1, 4)), max_size=60)


def allowed(
    limit_on: Callable[[kv.Store, Clock], RateLimiter], steps: list[tuple[int, int]]
) -> list[tuple[float, int]]:
    """Give when how much was allowed, while the clock goes on and back, by less than a window."""
    clock, done, latest = Clock(), [], 0.0
    with kv.open("memory://") as store:
        limit = limit_on(store, clock)
        for step, cost in steps:
            clock.now = max(clock.now + step, latest - 90)
            if limit.check("a", cost):
                latest = max(latest, clock.now)  # the time stands still where the clock goes back
                done.append((latest, cost))
    return done


@given(steps)
def test_a_sliding_window_never_allows_more_than_the_limit_in_any_window(steps: list[tuple[int, int]]) -> None:
    done = allowed(lambda store, clock: limiter(store, 4, 100, algorithm="sliding", clock=clock), steps)
    for end, _ in done:
        assert sum(cost for at, cost in done if end - 100 < at <= end) <= 4


@given(steps)
def test_a_bucket_never_allows_more_than_its_burst_and_what_flowed_in(steps: list[tuple[int, int]]) -> None:
    done = allowed(lambda store, clock: limiter(store, 3, 100, algorithm="bucket", burst=4, clock=clock), steps)
    for begin, _ in done:
        for end, _ in done:
            if begin <= end:
                assert sum(cost for at, cost in done if begin <= at <= end) <= 4 + (end - begin) * 3 / 100


@pytest.mark.parametrize("algorithm", ["sliding", "bucket"])
def test_a_clock_that_goes_back_allows_nothing_twice_and_a_wrong_one_locks_nobody_out(
    memory: kv.Store, algorithm: Algorithm
) -> None:
    clock = Clock()
    limit = limiter(memory, per=100, algorithm=algorithm, clock=clock)
    assert limit.check("a", 3)
    clock.now -= 60
    refused = limit.check("a")
    assert not refused
    clock.now += refused.retry_after
    assert limit.check("a")
    clock.now += 10_000_000
    limit.check("a", 3)
    clock.now -= 10_000_000 - 200
    assert limit.check("a", 3)  # what was stored would have held for months
    assert not limit.check("a")


@each
def test_a_check_is_one_atomic_call_and_a_refusal_writes_nothing(memory: kv.Store, algorithm: Algorithm) -> None:
    store = CutOff(memory)
    limit = limiter(store, algorithm=algorithm)
    limit.check("a")
    limit.check("a", 2)
    limit.check("a", 2)
    assert store.calls == ["increment" if algorithm == "fixed" else "update", "update", "update"]
    view = memory.namespace("ratelimit")
    entries = view.namespace(view.namespaces()[0])
    before = [*entries.scan()]
    store.calls.clear()
    limit.check("a", 3)
    limit.peek("a")
    assert [*entries.scan()] == before
    assert store.calls == ["update", "get"]


def test_limits_that_differ_share_nothing_and_those_alike_do(memory: kv.Store) -> None:
    limits = [limiter(memory, 3, per, algorithm=kind) for kind in ALGORITHMS for per in (60, 60.001, 600)]
    limits += [limiter(memory, 4, 60), limiter(memory, 3, 60, algorithm="bucket", burst=4)]
    assert all(limit.check("a", 3) for limit in limits)
    assert not limiter(memory, 3, timedelta(minutes=1)).check("a")
    assert limiter(memory.namespace("login"), 3, 60).check("a")


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"limit": 0}, ValueError, "limit must be 1 or more, and is 0"),
        ({"limit": -5}, ValueError, "limit must be 1 or more, and is -5"),
        ({"limit": True}, TypeError, "limit must be an int, not bool"),
        ({"limit": 1.5}, TypeError, "limit must be an int, not float"),
        ({"limit": math.nan}, TypeError, "limit must be an int, not float"),
        ({"per": 0}, ValueError, "per must be 0.001 seconds or more, and is 0"),
        ({"per": -1}, ValueError, "per must be from 0"),
        ({"per": timedelta(0)}, ValueError, "per must be 0.001 seconds or more"),
        ({"per": math.nan}, ValueError, "per must be from 0 .*, and is nan"),
        ({"per": math.inf}, ValueError, "per must be from 0 .*, and is inf"),
        ({"per": True}, TypeError, "per must be seconds .*, not bool"),
        ({"per": None}, TypeError, "per must be seconds .*, not NoneType"),
        ({"algorithm": "leaky"}, ValueError, "algorithm must be .*, not 'leaky'"),
        ({"burst": 5}, ValueError, 'burst goes with algorithm="bucket" alone'),
        ({"algorithm": "bucket", "burst": 0}, ValueError, "burst must be 1 or more"),
    ],
)
def test_limits_that_are_none_are_refused(
    memory: kv.Store, options: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        limiter(memory, **options)


@each
def test_bad_calls_are_refused_before_any_io(algorithm: Algorithm) -> None:
    store = kv.open("memory://")
    limit = limiter(store, algorithm=algorithm)
    store.close()
    for cost, error in ((0, ValueError), (-1, ValueError), (4, ValueError), (True, TypeError), (1.0, TypeError)):
        with pytest.raises(error, match="cost"):
            limit.check("a", cost)  # type: ignore[arg-type]
    for key in ("", "a\x00", "é" * 1001, None):
        for call in (limit.check, limit.peek, limit.reset):
            with pytest.raises(kv.InvalidKey, match="key"):
                call(key)  # type: ignore[arg-type]
    with pytest.raises(kv.StoreClosed):
        limit.check("é" * 1000)


def test_a_store_of_the_other_colour_is_refused(memory: kv.Store) -> None:
    with pytest.raises(TypeError, match="AsyncRateLimiter stands on"):
        AsyncRateLimiter(memory, 1, 1)  # type: ignore[arg-type]


FOREIGN = [b"", b"x", b"1.5", b"007", b"\x03" + b"\xff" * 16, b"\x03" + b"\x01" * 15]


@pytest.mark.parametrize(
    ("algorithm", "value"),
    [*((kind, value) for kind in ALGORITHMS for value in FOREIGN), ("bucket", b"-1"), ("sliding", b"5")],
)
def test_what_is_not_a_limiters_stays_as_it_is(memory: kv.Store, algorithm: Algorithm, value: bytes) -> None:
    limit = limiter(memory, algorithm=algorithm)
    limit.check("a")
    view = memory.namespace("ratelimit")
    entries = view.namespace(view.namespaces()[0])
    (key,) = entries.keys()
    entries.set(key, value)
    error = kv.NotAnInteger if algorithm == "fixed" else kv.CorruptData
    for call in (limit.check, limit.peek, lambda key: limit.check(key, 2)):
        with pytest.raises(error, match=r"left it as it was|it was left as it is"):
            call("a")
    assert entries.get(key) == value


def test_what_shows_of_a_limiter(memory: kv.Store) -> None:
    assert repr(limiter(memory, 10, 0.5, algorithm="bucket")) == "<RateLimiter bucket 10/0.5 10 on <MemoryStore>>"
