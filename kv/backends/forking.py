"""What a store does when its process forks: nobody else's locks, threads and connections in the child."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol


class Forks(Protocol):
    """Something that a fork concerns."""

    def before_fork(self) -> None:
        """Become whole, and stay so: take the locks."""

    def after_fork(self, *, child: bool) -> None:
        """Give the locks back; in the child, let go of what belongs to the parent."""


_every: weakref.WeakSet[Forks] = weakref.WeakSet()
_lock = threading.RLock()
"""Protects the two around it: held from before a fork until after it, so that two threads fork one after the other."""
_forking: list[Forks] = []


def concerns(thing: Forks) -> None:
    """Have the thing told of every fork, as long as it lives."""
    with _lock:
        _every.add(thing)


def _before() -> None:
    _lock.acquire()
    _forking[:] = _every
    for thing in _forking:
        thing.before_fork()


def _after(*, child: bool) -> None:
    for thing in _forking:
        thing.after_fork(child=child)
    _forking.clear()
    _lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before, after_in_parent=lambda: _after(child=False), after_in_child=lambda: _after(child=True)
    )
