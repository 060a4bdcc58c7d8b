"""Every LMDB file that this process has open, each once; and what becomes of them in a fork."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import Final, Protocol

from kv.backends.forking import concerns

from .environment import PATIENCE, Environment, inode


class User(Protocol):
    """Who has a file open."""

    def forget(self) -> None:
        """In a forked child: the file is open in the parent, and not here."""


class _Open:
    """Every file that this process has open."""

    def __init__(self) -> None:
        self._environments: dict[tuple[int, int], Environment] = {}
        self._begin()
        concerns(self)

    def _begin(self) -> None:
        self._lock = threading.RLock()  # protects the dict
        self._held = False

    def attach(self, path: str, name: str, user: User) -> Environment:
        """Give the file as it is open, or open it."""
        with self._lock:
            with suppress(FileNotFoundError):
                if found := self._environments.get(inode(os.stat(path))):
                    found.users.add(user)
                    return found
            opened = Environment(path, name)
            self._environments[opened.inode] = opened
            opened.users.add(user)
            return opened

    def detach(self, environment: Environment, user: User | None = None) -> None:
        """Close the file if nobody else uses it, and no transaction is under way, which then does it in the end."""
        with self._lock:
            if user is not None:
                environment.users.discard(user)
            used = [*environment.users] or environment.writing  # its length counts those just gone
            if not used and self._environments.get(environment.inode) is environment:
                environment.close()
                del self._environments[environment.inode]

    def before_fork(self) -> None:
        self._held = self._lock.acquire(timeout=PATIENCE)
        for environment in self._environments.values():
            environment.before_fork()

    def after_fork(self, *, child: bool) -> None:
        for environment in self._environments.values():
            environment.after_fork(child=child)
            if child:
                for user in environment.users:
                    user.forget()
        if self._held:
            self._held = False
            self._lock.release()
        if child:
            self._environments.clear()
            self._begin()


OPEN: Final = _Open()
