"""Calls of an async store that share a statement: what many tasks read, set and count at once. See `kv.backends.gathering`.

A call that a shared statement did not serve goes by itself after all, so errors and waits are its own: one whose row
somebody else has locked, one that is refused, or all of a statement that the server did not do.
"""

from __future__ import annotations

import asyncio
import weakref
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

from kv.backends.gathering import Gatherings, own
from kv.errors import BackendError, OutcomeUnknown, Unavailable, ValueTooLarge
from kv.values import INT_MAX, INT_MIN

from .asyncpg_sources import affected, first, rows, value
from .errors import lost, sqlstate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kv.backends.gathering import Batch

    from .rows import Step
    from .through_asyncpg import Database

LARGE: Final = 1 << 16
"""Values of more bytes are set one by one: to share a statement gains them nothing, and it would hold all of them."""
_ALONE: Final = object()
"""What tells a call to go by itself."""


class Together:
    """What shares statements: the gets of all rows, the sets of all rows, and the increments of each."""

    def __init__(self, db: Database) -> None:
        self._db: Database = weakref.proxy(db)  # whoever calls holds it; a circle would keep it open when nobody does
        self._gets: Gatherings[tuple[Any, ...]] = Gatherings(self._read)
        self._sets: Gatherings[tuple[Any, ...]] = Gatherings(self._store)
        # of rows that are being counted on: their callers hold them
        self._sums: weakref.WeakValueDictionary[tuple[Any, ...], Gatherings[Step]] = weakref.WeakValueDictionary()

    async def get(self, step: Step) -> Any:
        """`Database.value` of `Statements.get`."""
        found = await self._gets.here().go(step[1], lambda: self._db.value(step))
        return await self._db.value(step) if found is _ALONE else found

    async def set(self, step: Step) -> int:
        """`Database.write` of `Statements.set` or `set_until`."""
        if len(step[1][4]) > LARGE:
            return await self._db.write(step)
        done = await self._sets.here().go(step[1], lambda: self._db.write(step))
        return await self._db.write(step) if done is _ALONE else int(done)

    async def increment(self, step: Step) -> Any:
        """`Database.returned` of `Statements.increment`."""
        row = step[1][:4]
        gatherings = self._sums.get(row)
        if gatherings is None:
            gatherings = self._sums[row] = Gatherings(self._count)
        found = await gatherings.here().go(step, lambda: self._db.returned(step))
        return await self._db.returned(step) if found is _ALONE else found

    async def _read(self, batch: Batch[tuple[Any, ...]]) -> None:
        if len(batch) == 1:
            await self._single(batch, (self._db.settings.sql.get, batch[0].asks), value, writing=False)
            return
        asked = [*dict.fromkeys(one.asks for one in batch)]
        step = self._db.settings.sql.get_each, tuple(map(list, zip(*asked, strict=True)))
        try:
            found = dict(await self._db._perform(step, rows, writing=False))
        except BaseException as e:
            self._failed(batch, e, writing=False)
            return
        values = {asks: found.get(i) for i, asks in enumerate(asked, 1)}
        for one in batch:
            one.done(values[one.asks])

    async def _store(self, batch: Batch[tuple[Any, ...]]) -> None:
        """Of a key that is set twice the last value is stored: nobody could have seen the one before."""
        texts = self._db.settings.sql
        if len(batch) == 1:
            asks = batch[0].asks
            await self._single(batch, (texts.set if len(asks) == 5 else texts.set_until, asks), affected, writing=True)
            return
        last = {one.asks[:4]: one.asks for one in batch}
        sql = texts.set_each
        ordered = sorted(last.values())
        if any(len(asks) > 5 for asks in ordered):
            sql = texts.set_each_until
            ordered = [(*asks, None)[:6] for asks in ordered]
        step = sql, tuple(map(list, zip(*ordered, strict=True)))
        try:
            stored = {(row[0], row[1].hex) for row in await self._db._perform(step, rows, writing=True)}
        except BaseException as e:
            self._failed(batch, e, writing=True)
            return
        for one in batch:
            one.done(1 if one.asks[:2] in stored else _ALONE)

    async def _count(self, batch: Batch[Step]) -> None:
        """Add all amounts at once, and give each the sum that it made."""
        (sql, args) = batch[0].asks
        amounts = [one.asks[1][4] for one in batch]
        total = sum(amounts)
        found = None
        if sum(map(abs, amounts)) <= INT_MAX:
            try:
                found = await self._db._perform((sql, (*args[:4], total)), first, writing=True)
            except BaseException as e:
                self._failed(batch, e, writing=True)
                return
        if found is None:  # refused, or too large to be added at once
            for one in batch:
                one.done(_ALONE)
            return
        for one, made in zip(batch, sums_of(amounts, int(found[0]) - total), strict=True):
            one.done((made,))  # as the row that it would have got

    async def _single(
        self, batch: Batch[Any], step: Step, run: Callable[[Any, Step], Awaitable[Any]], *, writing: bool
    ) -> None:
        """Run the plain statement where only one waits."""
        try:
            batch[0].done(await self._db._perform(step, run, writing=writing))
        except BaseException as e:
            self._failed(batch, e, writing=writing)

    def _failed(self, batch: Batch[Any], error: BaseException, *, writing: bool) -> None:
        """Give each what would have come of it alone; what the server did not do for all is tried for each."""
        cancelled = isinstance(error, asyncio.CancelledError)
        known = error
        if cancelled and writing:  # by somebody who ends every task, also that of whom he has not cancelled
            known = OutcomeUnknown(
                f"{self._db.shown}: the task that wrote for several was cancelled; they may or may not have been written. "
                "Read before you try again"
            )
        alone = not writing if cancelled else len(batch) > 1 and undone(error)
        for one in batch:
            one.done(_ALONE) if alone else one.failed(own(known))
        if cancelled:
            raise error


def sums_of(amounts: list[int], start: int) -> list[int]:
    """Give the sum that each amount made, one after the other.

    Where that leaves 64 bits on the way, those go first that lead back from the edge: all together they add no more than
    the half of what there is.
    """
    sums = [*accumulate(amounts, initial=start)][1:]
    if min(sums) >= INT_MIN and max(sums) <= INT_MAX:
        return sums
    for i in sorted(range(len(amounts)), key=lambda i: (amounts[i] > 0) is (start >= 0)):
        start += amounts[i]
        sums[i] = start
    return sums


def undone(error: BaseException) -> bool:
    """Whether the server did not do a statement, for a reason that may be one caller's or that of all being together."""
    if isinstance(error, Unavailable):  # refused, as by `statement_timeout`; where it was lost nobody tries again
        cause = error.__cause__
        return cause is not None and sqlstate(cause) != "" and not lost(cause)
    return isinstance(error, BackendError | ValueTooLarge) and not isinstance(error, OutcomeUnknown)
