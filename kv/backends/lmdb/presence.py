"""Who is in a transaction of a file. LMDB forbids to change its map, to close it or to fork while anybody is."""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from kv.backends.locks import holding, nap
from kv.errors import Conflict, StoreClosed

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Token:
    """Somebody's presence. One that an interrupt has lost becomes garbage, and is counted no more."""

    __slots__ = ("__weakref__",)


class Presence:
    """Tokens: whoever begins a transaction takes one, and gives it back after it.

    Attributes:
        idle: tokens that nobody needs.
        gate: held while nobody may become present.
        wanted: whether somebody gathers all tokens: then nobody takes one of them. Else readers that come again and again,
            and have theirs whenever it is another thread's turn, would keep them for ever.
        over: whether the file is closed, or the parent's.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.idle: deque[Token] = deque()
        self.gate = threading.RLock()
        self.wanted = False
        self.over = False
        self._every: weakref.WeakSet[Token] = weakref.WeakSet()
        self._resting: list[Token] = []  # those of `gather`

    def enter(self, *, again: bool = False) -> Token:
        """Become present; `leave` ends it. `again`: who is so already waits for nobody, as somebody may wait for him."""
        if again:
            return self._new()
        if not self.wanted:
            with suppress(IndexError):
                return self.idle.pop()
        with self.gate:  # nobody becomes present until what may not be disturbed is over
            self._check_open()
            with suppress(IndexError):
                return self.idle.pop()
            return self._new()

    def _new(self) -> Token:
        token = Token()
        self._every.add(token)
        return token

    def leave(self, token: Token) -> None:
        """Be present no more."""
        self.idle.append(token)

    def _check_open(self) -> None:
        if self.over:
            raise StoreClosed(f"the store {self.name} is closed; open a new one")

    def alone(self, work: Callable[[], T], wait: float) -> T:
        """Do it while no transaction of this process is under way."""

        def checked(locked: bool) -> T:
            self._check_open()
            try:
                if not locked or not self.gather(wait):
                    raise Conflict(
                        f"{self.name}: another thread has been reading for more than {wait:g} s, and the file's map "
                        "could not be changed; nothing was written. Try again, or raise lock_timeout"
                    )
                return work()
            finally:
                self.scatter()

        return holding(self.gate, wait, checked)

    def gather(self, wait: float, present: int = 0) -> bool:
        """Take the tokens of all but so many; whether they all came."""
        began = time.monotonic()
        self.wanted = True
        while len(self._every) > len(self._resting) + present:
            try:
                self._resting.append(self.idle.pop())
            except IndexError:
                waited = time.monotonic() - began
                if waited > wait:
                    return False
                nap(waited)
        return True

    def scatter(self) -> None:
        self.wanted = False
        resting, self._resting = self._resting, []  # no token is ever in two places
        self.idle.extend(resting)
