"""Expired entries removed now and then: a daemon thread that ends with its store."""

from __future__ import annotations

import random
import threading
import weakref
from typing import TYPE_CHECKING, Protocol

from kv.errors import KVError, StoreClosed

if TYPE_CHECKING:
    from collections.abc import Callable


class Cleans(Protocol):
    """What has expired entries."""

    def cleanup(self) -> int:
        """Remove them."""
        ...


def in_batches(remove: Callable[[int], int], most: int, limit: int | None) -> int:
    """Remove until there is no more, or the limit is reached, `most` at a time. Gives how many were removed."""
    removed = 0
    while limit is None or removed < limit:
        batch = most if limit is None else min(most, limit - removed)
        count = remove(batch)
        removed += count
        if count < batch:
            break
    return removed


class Cleaner:
    """Cleans every so many seconds, until it is stopped or what it cleans is garbage."""

    def __init__(self, owner: Cleans, interval: float) -> None:
        self._ended = threading.Event()
        weakref.finalize(owner, self._ended.set)  # wakes the thread when the owner is gone, and at exit
        args = (weakref.ref(owner), self._ended, interval)
        self._thread = threading.Thread(target=_run, args=args, name="kv-cleanup", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, and wait for it, though not for long: it may wait for a lock that the caller holds."""
        self._ended.set()
        if self._thread is not threading.current_thread():
            self._thread.join(1.0)


def _run(ref: weakref.ref[Cleans], ended: threading.Event, interval: float) -> None:
    # the jitter keeps many processes, started together, from cleaning together
    while not ended.wait(interval * random.uniform(0.75, 1.25)):
        owner = ref()
        if owner is None:
            return
        try:
            owner.cleanup()
        except StoreClosed:
            return
        except KVError:
            import logging

            logging.getLogger("kv").warning("cleanup failed; it is tried again in %g s", interval, exc_info=True)
        del owner  # or it could never become garbage
