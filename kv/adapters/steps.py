"""What an adapter does, written once for both colours: a generator of calls on the store and of pauses, run step by step."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Generator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from kv.errors import InvalidTTL
from kv.expiry import ttl_ms

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kv.expiry import TTL

R = TypeVar("R")
_sleep: Callable[[float], object] = time.sleep

Steps: TypeAlias = Generator[Callable[[], Any] | float, Any, R]
"""Yields a call, of either colour, and is sent its answer or has its error raised there; or seconds to pause for."""


def run(steps: Steps[R]) -> R:
    """Take the steps with a sync store."""
    try:
        step = next(steps)
        while True:
            try:
                answer = step() if callable(step) else step and _sleep(step)  # not even for a moment where it is 0
            except BaseException as e:
                step = steps.throw(e)
            else:
                step = steps.send(answer)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


async def run_async(steps: Steps[R]) -> R:
    """Take the steps with an async store."""
    try:
        step = next(steps)
        while True:
            try:
                answer = await (step() if callable(step) else asyncio.sleep(step))
            except BaseException as e:
                step = steps.throw(e)
            else:
                step = steps.send(answer)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


def check_store(store: Any, adapter: object, end: str) -> None:
    """Raise `TypeError` where the store is of the other colour, or none; `end` names the method that closes one."""
    if not hasattr(store, end):
        kind = "kv.Store" if end == "close" else "kv.AsyncStore"
        raise TypeError(f"{type(adapter).__name__} stands on a {kind}, not on {type(store).__name__}")


FIRST_PAUSE = 0.005
LONGEST_PAUSE = 0.25


def pauses(
    timeout: float | None, *, longest: float = LONGEST_PAUSE, clock: Callable[[], float] = time.monotonic
) -> Iterator[float]:
    """Give the seconds to pause before each of several tries: none before the first, the last ends with the timeout.

    They grow to `longest`, and are jittered, so that many who wait do not all ask at once.
    """
    end = math.inf if timeout is None else clock() + timeout
    pause = FIRST_PAUSE
    yield 0.0
    while (left := end - clock()) > 0:
        yield min(left, pause * random.uniform(0.5, 1))
        pause = min(pause * 1.5, longest)


def check_timeout(timeout: float | None) -> float | None:
    """Give the timeout in seconds, None for none, or raise `TypeError` or `ValueError`."""
    return None if timeout is None or timeout == math.inf else seconds(timeout, "timeout")


def seconds(value: float | timedelta, what: str) -> float:
    """Give a time of zero or more in seconds, or raise `TypeError` or `ValueError`."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{what} must be seconds (int or float) or a timedelta, not {type(value).__name__}")
    if not 0 <= value <= 10**10:  # NaN neither
        raise ValueError(f"{what} must be from 0 to 10,000,000,000 seconds, and is {value}")
    return float(value)


def lasting(value: TTL, what: str) -> float:
    """Give a time that ends in seconds, to the millisecond, or raise `InvalidTTL`."""
    ms = ttl_ms(value)
    if ms is None or ms > 10**13:
        raise InvalidTTL(f"{what} must end: give seconds, 10,000,000,000 at most, or a timedelta")
    return ms / 1000


def micros(value: float) -> int:
    """Give seconds in microseconds."""
    return round(value * 1_000_000)
