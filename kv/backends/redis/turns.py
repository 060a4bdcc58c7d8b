"""Turns: updates of one key within one process come one after the other, where they would only overtake each other.

Between processes the first to store wins and the others begin again; of n tasks that did so among themselves, each would
call its function n times. Nothing depends on a turn: who has waited long goes on without, as the function of an update
may itself wait for another one.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

_LONG: Final = 1.0
"""Seconds to wait for a turn at most."""


class Turns:
    """Those of threads."""

    def __init__(self) -> None:
        self._locks: weakref.WeakValueDictionary[bytes, Any] = weakref.WeakValueDictionary()

    @contextmanager
    def of(self, names: Sequence[bytes]) -> Iterator[None]:
        """Wait for the turn of these keys. A thread that has it may take it again."""
        lock = self._locks.setdefault(min(names, default=b""), threading.RLock())
        held = lock.acquire(timeout=_LONG)
        try:
            yield
        finally:
            if held:
                lock.release()


class AsyncTurns:
    """Those of the tasks of each event loop."""

    def __init__(self) -> None:
        self._locks: weakref.WeakValueDictionary[tuple[object, bytes], asyncio.Lock] = weakref.WeakValueDictionary()

    @asynccontextmanager
    async def of(self, names: Sequence[bytes]) -> AsyncIterator[None]:
        """Wait for the turn of these keys."""
        lock = self._locks.setdefault((asyncio.get_running_loop(), min(names, default=b"")), asyncio.Lock())
        held = True
        try:
            async with asyncio.timeout(_LONG):  # before Python 3.12, `wait_for` may lose a cancellation
                await lock.acquire()
        except TimeoutError:
            held = False
        try:
            yield
        finally:
            if held:
                lock.release()
