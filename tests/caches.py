"""Caches of either colour in one test, and factories that go on when the test says so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adapted import now, on
from waiting import until, wait_for

from kv.adapters import AsyncCache, Cache

if TYPE_CHECKING:
    from collections.abc import Callable


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def cache_on(store: Any, *args: Any, **options: Any) -> Any:
    return on(store, Cache, AsyncCache, *args, **options)


def counted(outcome: object = None) -> tuple[Callable[[], Any], list[int]]:
    """Give a factory of 1, 2, 3, ..., or of something else or that raises, and its calls."""
    calls: list[int] = []

    def factory() -> object:
        calls.append(len(calls) + 1)
        if isinstance(outcome, BaseException):
            raise outcome
        return calls[-1] if outcome is None else outcome

    return factory, calls


def waiting(cache: Any, key: str = "k") -> int:
    """Give how many wait for another one's call of the factory."""
    flight = next((flight for (_, one), flight in [*cache._flights._flights.items()] if one == key), None)
    if flight is None:
        return 0
    return flight.waiters - 1 if flight.task else len(flight.future._condition._waiters)


def refreshing(cache: Any) -> bool:
    """Give whether values are made in the background."""
    return any(map(cache._goes_on, [*cache._refreshers.values()]))


def slow(cache: Any, until_true: Callable[[], object], outcome: Callable[[], object]) -> Callable[[], Any]:
    """Give a factory that goes on when something is so."""

    def plain() -> object:
        wait_for(until_true)
        return outcome()

    async def coroutine() -> object:
        await until(until_true)
        return outcome()

    return coroutine if isinstance(cache, AsyncCache) else plain


async def ask(cache: Any, factory: Callable[[], Any], key: str = "k", **options: Any) -> Any:
    return await now(cache.get_or_set(key, factory, **options))
