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
        """Give back the locks that were taken; in the child, let go of what belongs to the parent."""


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
    for thing in [*_every]:
        _forking.append(thing)
        thing.before_fork()


def _after(*, child: bool) -> None:
    # An exception of a signal handler may have ended the hook before at any point: Python forks all the same.
    if not _lock._is_owned():  # type: ignore[attr-defined]
        return
    try:
        for thing in _forking:
            thing.after_fork(child=child)
    finally:
        _forking.clear()
        _lock.release()


def leak(*things: object) -> None:
    """Keep the things for ever, even through the end of the interpreter: the child must not close what is the parent's."""
    import ctypes

    for thing in things:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before, after_in_parent=lambda: _after(child=False), after_in_child=lambda: _after(child=True)
    )
