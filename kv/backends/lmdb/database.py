"""What a store and all its views share: the file they read and write, and the errors that come of it."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any, TypeVar

from kv.backends.cleaner import Cleaner, in_batches
from kv.base import PAGE
from kv.errors import CorruptData, StoreClosed, Unavailable
from kv.expiry import wall_ms, wall_past
from kv.files import check_place

from . import layout
from .errors import no_driver, ours
from .opened import OPEN
from .presence import Presence

if TYPE_CHECKING:
    from collections.abc import Callable

    from kv.backends.worker import Call

    from .environment import Environment
    from .tree import Tree

T = TypeVar("T")

_MAGIC = 0xBEEFC0DE.to_bytes(4, sys.byteorder)


class Database:
    """A file as one store uses it, with its options."""

    def __init__(self, path: str, *, durability: str, lock_timeout: float, cleanup_interval: float | None) -> None:
        try:
            import lmdb
        except ImportError as e:
            raise no_driver(e) from e
        self._error = lmdb.Error
        self.path = path
        self.name = f"lmdb:///{path}"
        self.closed_message = f"the store {self.name} is closed; open a new one"
        self.durably = durability == "full"
        self.lock_timeout = lock_timeout
        self.cleanup_interval = cleanup_interval
        self.cleaner: Cleaner | None = None
        self.closed = False
        self._opening = threading.RLock()
        self._begin: Any = None
        self._unbind()

    def _unbind(self) -> None:
        self._environment: Environment | None = None
        self._presence = Presence(self.name)  # of the environment, when there is one
        self._idle = self._presence.idle

    def forget(self) -> None:
        """In a forked child: the file is open in the parent, and not here."""
        self._opening = threading.RLock()
        self._unbind()
        self.cleaner = None

    # opening

    def open(self) -> Environment:
        """Give the file as it is open; the first time, see that it is ours, or make it so."""
        return self._environment or self._open()

    def _open(self) -> Environment:
        with self._opening:
            self.check_open()
            if self._environment is None:
                try:
                    self._attach()
                except self._error as e:
                    raise ours(e, self.name) from e
                if self.cleanup_interval is not None:
                    self.cleaner = Cleaner(self, self.cleanup_interval)
            assert self._environment is not None
            return self._environment

    def _attach(self) -> None:
        self._check_file()
        environment = OPEN.attach(self.path, self.name, self)
        try:
            environment.prepare(self.lock_timeout)
        except BaseException:
            OPEN.detach(environment, self)
            raise
        self._begin, self._presence = environment.env.begin, environment.presence
        self._idle = environment.presence.idle
        self._environment = environment
        weakref.finalize(self, OPEN.detach, environment).atexit = False

    def _check_file(self) -> None:
        """See, without changing anything, that this may be a file of ours, or become one."""
        check_place(self.path, self.name)
        if os.path.exists(self.path) and os.path.getsize(self.path):
            with open(self.path, "rb") as file:
                start = file.read(64)
            if _MAGIC not in start:  # where it stands depends on the version, and on 32 or 64 bits
                raise CorruptData(f"{self.name} is not an LMDB file; it was left untouched. Is the path right?")

    def check_open(self) -> None:
        if self.closed:
            raise StoreClosed(self.closed_message)

    # reading

    @property
    def at_hand(self) -> bool:
        """Whether `get` has nothing to wait for."""
        return bool(self._idle) and not self._presence.wanted

    def get(self, name: bytes) -> bytes | None:
        """Give the value of a live entry: `read` in one piece, for the hottest call."""
        idle = self._idle
        if self._presence.wanted:
            return self._get(name)
        try:
            token = idle.pop()
        except IndexError:  # nobody is idle, or the file is not open
            return self._get(name)
        try:
            if len(name) > layout.PIECE:
                return self._get(name)
            record = self._begin().get(name)  # in bytes, which for all but large values is the quickest
        except self._error:
            return self._get(name)  # where it is said again, or dealt with
        finally:
            idle.append(token)
        if record is None:
            return None
        if record[0] and wall_ms() >= int.from_bytes(record[1:9], "big"):
            return None
        value: bytes = record[9 if record[0] else 1 :]
        return value

    def _get(self, name: bytes) -> bytes | None:
        def work(tree: Tree) -> bytes | None:
            record = tree.find(name)
            return None if record is None or wall_past(layout.deadline(record)) else layout.value(record)

        return self.read(work)

    def read(self, work: Callable[[Tree], T]) -> T:
        """Do the work on one state of the file."""
        try:
            return self.open().read(work, self.lock_timeout)
        except self._error as e:
            raise ours(e, self.name) from e

    # writing

    def write(self, work: Callable[[Tree], T]) -> T:
        """Do the work so that all it writes is there, or nothing; inside another transaction, all of this part."""

        def checked(tree: Tree) -> T:
            result = work(tree)
            self.check_open()  # the work may have closed the store
            return result

        environment = self.open()
        try:
            return environment.write(checked, self.lock_timeout, durably=self.durably)
        except self._error as e:
            raise ours(e, self.name) from e
        finally:
            if self.closed:
                OPEN.detach(environment, self)

    def batch(self, calls: list[Call]) -> None:
        """Run the calls in one transaction; each fails alone, but they are written together or not at all."""
        if len(calls) == 1:
            calls[0].execute()
            return

        def work(_: Tree) -> None:
            for call in calls:
                call.execute()

        try:
            self.write(work)
        except BaseException as e:
            for call in calls:
                if isinstance(e, Unavailable):  # nothing has been written, and what is too much together may fit alone
                    call.execute()
                elif call.error is None:  # else it has an error of its own
                    call.error = e

    # keeping

    def cleanup(self, limit: int | None = None) -> int:
        now = wall_ms()

        def remove(batch: int) -> int:
            def work(tree: Tree) -> int:
                names = tree.due(now, batch)
                for name in names:
                    tree.remove(name)
                return len(names)

            return self.write(work)

        return in_batches(remove, PAGE, limit)

    # ending

    def close(self) -> None:
        with self._opening:
            self.closed = True
            cleaner, self.cleaner = self.cleaner, None
            environment = self._environment
            self._unbind()
        if environment is not None:
            OPEN.detach(environment, self)
        if cleaner:
            cleaner.stop()
