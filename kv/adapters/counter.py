"""A counter over time: how often something happened in each of the last minutes, by all processes together."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, NamedTuple, TypeVar

from kv.keys import check_key, shown
from kv.store import AsyncStore, Store
from kv.values import check_amount, to_int

from .steps import check_store, run, run_async, seconds

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    from .steps import Steps

__all__ = ["AsyncCounter", "Bucket", "Counter"]

S = TypeVar("S", bound=Store | AsyncStore)

MOST: Final = 100_000
"""How many buckets are kept at most: so many may be read by one call."""


class Bucket(NamedTuple):
    """What was counted from a time on, for as long as the counter's `every`."""

    begin: float
    """Seconds since 1970."""
    total: int


class _Counter(Generic[S]):
    """What both colours share: what is stored, and every step."""

    _end: ClassVar[str]

    def __init__(
        self,
        store: S,
        name: str,
        *,
        every: float | timedelta = 60.0,
        keep: float | timedelta = 86_400.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        check_store(store, self, self._end)
        self.name = check_key(name, "the name of a counter")
        self._every = round(seconds(every, "every") * 1e3)
        self._keep = round(seconds(keep, "keep") * 1e3)
        if self._every < 1:
            raise ValueError(f"every must be 0.001 seconds or more, and is {every}")
        if not self._every <= self._keep <= self._every * MOST:
            raise ValueError(f"keep must be from 1 to {MOST:,} times every, and is {keep} for {every}")
        self._store = store
        self._entries: Any = store.namespace("counter").namespace(self.name)
        self._clock = clock

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {shown(self.name)} on {self._store!r}>"

    def _now(self) -> int:
        """Give the number of the bucket that is being filled."""
        return math.floor(self._clock() * 1e3 / self._every)

    def _key(self, number: int) -> str:
        return f"{self._every}:{number}"

    def _adding(self, amount: int) -> Steps[int]:
        key = self._key(self._now())
        amount = check_amount(amount, key)
        ttl = (self._keep + self._every) / 1e3  # from its begin on, at the latest
        return (yield lambda: self._entries.increment(key, amount, ttl_if_new=ttl))  # type: ignore[no-any-return]

    def _reading(self, last: float | timedelta | None) -> Steps[list[Bucket]]:
        span = self._keep if last is None else round(seconds(last, "last") * 1e3)
        if not 0 < span <= self._keep:
            raise ValueError(
                f"last must be more than 0 and at most the {self._keep / 1e3:g} seconds kept, and is {last}"
            )
        now = self._now()
        numbers = range(now + 1 - -(-span // self._every), now + 1)
        found: dict[str, bytes] = yield lambda: self._entries.get_many(map(self._key, numbers))
        return [
            Bucket(number * self._every / 1e3, to_int(found[key], key) if (key := self._key(number)) in found else 0)
            for number in numbers
        ]

    def _adding_up(self, last: float | timedelta | None) -> Steps[int]:
        return sum(bucket.total for bucket in (yield from self._reading(last)))


class Counter(_Counter[Store]):
    """A counter that many processes share, in buckets of time.

        visits = Counter(store, "visits", every=60, keep=86400)
        visits.add()
        visits.total(3600)        # of the last hour
        visits.series(3600)       # for each of its minutes

    In which bucket something falls is told by the clock of whoever counts it. Stored is an integer for each bucket in which something was
    counted, in the namespace `counter` and one below it; it expires.

    Args:
        store: an open store. It is not closed here.
        name: any name of a namespace: up to 255 bytes.
        every: how long a bucket is: seconds or a `timedelta`, to the millisecond.
        keep: for how long buckets are kept, so too; at most 100,000 of them.
        clock: seconds since 1970.
    """

    _end = "close"

    def add(self, amount: int = 1) -> int:
        """Count. Gives what this bucket has now. One atomic call.

        Raises:
            TypeError: the amount is not an `int`.
            NotAnInteger: what is stored is no counter's; it was left as it is.
        """
        return run(self._adding(amount))

    def series(self, last: float | timedelta | None = None) -> list[Bucket]:
        """Give the buckets of the last so many seconds, oldest first, that which is being filled too; None: all. One read.

        Raises:
            ValueError: so much is not kept.
        """
        return run(self._reading(last))

    def total(self, last: float | timedelta | None = None) -> int:
        """Add up what `series` gives."""
        return run(self._adding_up(last))


class AsyncCounter(_Counter[AsyncStore]):
    """See `Counter`."""

    _end = "aclose"

    async def add(self, amount: int = 1) -> int:
        """See `Counter.add`."""
        return await run_async(self._adding(amount))

    async def series(self, last: float | timedelta | None = None) -> list[Bucket]:
        """See `Counter.series`."""
        return await run_async(self._reading(last))

    async def total(self, last: float | timedelta | None = None) -> int:
        """See `Counter.total`."""
        return await run_async(self._adding_up(last))
