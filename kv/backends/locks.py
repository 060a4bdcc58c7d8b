"""A lock that is waited for, but not for ever."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

T = TypeVar("T")


def nap(waited: float) -> None:
    """Sleep before asking again for what other processes hold: shortly, and by chance, whoever has waited how long."""
    time.sleep(random.uniform(0, min(0.001 + waited / 50, 0.02)))


def holding(lock: threading.RLock, seconds: float, work: Callable[[bool], T]) -> T:
    """Do the work, which is told whether it has the lock: it has not where so many seconds have passed.

    An exception of a signal handler may come after any call: between `acquire` and whatever follows it too, and `with`
    has no bound. So what is known to be taken is given back first of all, and then the lock itself is asked, as
    `threading.Condition` does.
    """
    outermost = not lock._is_owned()  # type: ignore[attr-defined]
    acquired = False
    try:
        acquired = lock.acquire(timeout=seconds)
        return work(acquired)
    finally:
        if acquired:
            lock.release()
        if outermost:
            while lock._is_owned():  # type: ignore[attr-defined]
                lock.release()
