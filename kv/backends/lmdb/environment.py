"""A file as this process has it open: LMDB allows no second time, so all stores on it share one `Environment`.

Nobody sees the size of LMDB's map: it grows when it is full, and follows where another process has made it grow. Who
writes waits for others by a lock of the file that can be given up, never in LMDB, where it cannot.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, Final, TypeVar

from kv.backends.forking import leak
from kv.backends.locks import holding, nap
from kv.errors import BackendError, Conflict, CorruptData, Unavailable

from . import layout
from .errors import no_file, ours
from .presence import Presence
from .tree import Tree

if TYPE_CHECKING:
    from collections.abc import Callable

    from .tree import Transaction

try:
    import fcntl
except ImportError:  # Windows: there a writer waits for others in LMDB itself, as long as they take
    fcntl = None  # type: ignore[assignment]

T = TypeVar("T")

FIRST_MAP: Final = 1 << 24
"""The bytes of a new file's map. It costs addresses, and neither memory nor disk."""
PATIENCE: Final = 5.0
"""So many seconds a fork or an end waits for transactions that are under way; longer ones are left where they are."""
_READERS: Final = 1_022
"""So many transactions may read at once, of all processes together. Of the first one that opens the file."""


class Environment:
    """The file and its locks: what all stores on it share.

    Attributes:
        lock: held by the thread that writes. Reentrant: the function given to `update` may call the store.
        presence: who is in a transaction.
    """

    def __init__(self, path: str, name: str) -> None:
        import lmdb

        self.path = path
        self.name = name
        self._lmdb = lmdb
        there = os.path.exists(path) and os.path.getsize(path)  # then the map is as large as the file says
        self.env = lmdb.open(
            path,
            map_size=0 if there else FIRST_MAP,
            subdir=False,
            metasync=False,  # what is to be durable is synced after the commit, see `write`
            max_readers=_READERS,
            max_spare_txns=0,  # after a fork the child would give away the slots of the parent's
        )
        try:
            self._file = os.open(path, os.O_RDWR)
            self.inode = inode(os.fstat(self._file))
        except BaseException as e:
            self.env.close()
            if isinstance(e, OSError):
                raise no_file(e, name) from e
            raise
        self._ready = False
        self.lock = threading.RLock()
        self.users: weakref.WeakSet[Any] = weakref.WeakSet()
        self.presence = Presence(name)
        self._levels: tuple[Tree, ...] = ()  # of the writing thread's transactions, one in the other
        self._full = False  # whether the map was, in the transaction that is under way
        self._held: list[threading.RLock] = []
        self._quiet = False

    # making the file ours

    def prepare(self, wait: float) -> None:
        """See that the file is ours, or make it so."""
        if self._ready:
            return
        with self.lock:
            if not self._ready:
                if not self._is_ours() or os.fstat(self._file).st_size < self._map_size:  # as after other tools
                    self._in_turn(self._make, wait)
                self.env.reader_check()
                self._ready = True

    def _is_ours(self) -> bool:
        stat = self.env.stat()
        if not stat["entries"]:
            return False
        # of what lies behind the end of the file, LMDB reads what kills the process
        if os.fstat(self._file).st_size < (self.env.info()["last_pgno"] + 1) * stat["psize"]:
            raise CorruptData(f"{self.name} is damaged: its end is missing; restore a backup. It was left untouched")
        with self.env.begin() as txn:
            version = txn.get(layout.MARK)
        if version is None:
            raise CorruptData(f"{self.name} is an LMDB file of something else; it was left untouched")
        if version != layout.VERSION:
            raise CorruptData(
                f"{self.name} has format version {version.decode(errors='replace')}, and this version of anykv knows "
                f"{layout.VERSION.decode()}; it was left untouched. Upgrade anykv to open it"
            )
        return True

    @property
    def _map_size(self) -> int:
        return self.env.info()["map_size"]

    def _make(self) -> None:
        self._extend(self._map_size)
        if not self._is_ours():
            with self.env.begin(write=True) as txn:
                txn.put(layout.MARK, layout.VERSION)
            self.env.sync(True)

    def _extend(self, size: int) -> None:
        """Make the file as long as the map, most of it a hole: so whatever is missing in the end has been cut off."""
        if fcntl is not None and os.fstat(self._file).st_size < size:  # on Windows, LMDB does it
            try:
                os.ftruncate(self._file, size)
            except OSError as e:
                raise no_file(e, self.name) from e

    # reading

    @property
    def _inside(self) -> bool:
        """Whether this thread is in a transaction that writes, as the function given to `update` is."""
        inside: bool = bool(self._levels) and self.lock._is_owned()  # type: ignore[attr-defined]
        return inside

    def read(self, work: Callable[[Tree], T], wait: float) -> T:
        """Do the work on one state of the file."""
        began = time.monotonic()
        while True:
            token = self.presence.enter(again=self._inside)
            try:
                with self.env.begin(None, None, False, True) as txn:
                    return work(Tree(txn))
            except self._lmdb.MapResizedError:
                pass
            except self._lmdb.ReadersFullError:
                waited = time.monotonic() - began
                if self.env.reader_check() == 0:
                    if waited > wait:
                        raise
                    nap(waited)
                continue
            finally:
                self.presence.leave(token)
            self.presence.alone(lambda: self.env.set_mapsize(0), wait)

    # writing

    def write(self, work: Callable[[Tree], T], wait: float, *, durably: bool) -> T:
        """Do the work so that all it writes is there, or nothing; inside another transaction, all of this part."""

        def checked(locked: bool) -> tuple[T, bool]:
            if not locked:
                raise Conflict(
                    f"{self.name}: another thread has been writing for more than {wait:g} s; nothing was written. "
                    "Try again, or raise lock_timeout"
                )
            return (self._nested(work), False) if self._levels else self._outermost(work, wait)

        try:
            result, changed = holding(self.lock, wait, checked)
        except self._lmdb.Error as e:
            self._check_mine(e)
            raise
        if changed and durably:
            self._sync()
        return result

    def _sync(self) -> None:
        token = self.presence.enter()
        try:
            self.env.sync(True)
        except self._lmdb.Error as e:
            raise ours(e, self.name, done=True) from e
        finally:
            self.presence.leave(token)

    def _outermost(self, work: Callable[[Tree], T], wait: float) -> tuple[T, bool]:
        while True:
            self._full = False
            try:
                return self._in_turn(lambda: self._transaction(work), wait)
            except self._lmdb.MapResizedError:
                self.presence.alone(lambda: self.env.set_mapsize(0), wait)
            except Exception:
                if not self._full or self.presence.over:
                    raise
                self._grow(wait)

    def _grow(self, wait: float) -> None:
        def grow() -> None:
            size = 2 * self._map_size
            self._extend(size)
            self.env.set_mapsize(size)

        self.env.reader_check()  # one that was killed keeps old pages
        self._in_turn(lambda: self.presence.alone(grow, wait), wait)

    def _in_turn(self, work: Callable[[], T], wait: float) -> T:
        """Do it as the one process that writes. LMDB's own lock, which is waited for without end, is free then."""
        began = time.monotonic()
        try:
            while not self._locked():
                waited = time.monotonic() - began
                if waited > wait:
                    raise Conflict(
                        f"{self.name}: another process has been writing for more than {wait:g} s; nothing was "
                        "written. Try again, or raise lock_timeout"
                    )
                nap(waited)
            self._check_place()
            return work()
        finally:
            if fcntl is not None and not self.presence.over:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def _locked(self) -> bool:
        # a lock of the open file, not of the process: LMDB's are those, on the file beside, and closing any
        # descriptor of a file would give them back
        if fcntl is not None:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            except OSError as e:
                raise Unavailable(f"{self.name} cannot be locked ({e}); is it on a network file system?") from e
        return True

    def _check_place(self) -> None:
        try:
            there = inode(os.stat(self.path)) == self.inode
        except FileNotFoundError:
            there = False
        if not there:
            raise Unavailable(f"{self.name} has been removed or replaced since it was opened; open it again")

    def _transaction(self, work: Callable[[Tree], T]) -> tuple[T, bool]:
        token = self.presence.enter()
        txn: Transaction | None = None
        try:
            txn = self.env.begin(None, None, True, True)
            tree = Tree(txn)
            self._levels = (tree,)
            result = work(tree)
            self._check_whole(tree)
            self._commit(txn)
        except self._lmdb.MapFullError:
            self._full = True
            raise
        finally:
            # An exception of a signal handler may come after any call: so what needs none is first.
            if not self.presence.over:
                self._levels = ()
                if txn is not None:
                    txn.abort()  # does nothing after a commit
                self.presence.leave(token)
        return result, tree.changed

    def _commit(self, txn: Transaction) -> None:
        number = txn.id()
        try:
            txn.commit()
        except self._lmdb.MapFullError:
            raise
        except self._lmdb.Error as e:  # what is not the last one has not been
            raise ours(e, self.name, done=self.env.info()["last_txnid"] >= number) from e

    def _check_mine(self, error: Exception | None = None) -> None:
        if self.presence.over:
            raise BackendError(
                f"{self.name}: the process was forked inside an update, which goes on in the parent only"
            ) from error

    def _check_whole(self, tree: Tree) -> None:
        self._check_mine()
        if self._full:
            raise BackendError(f"{self.name}: the map is full")  # and somebody's function has hidden it
        if tree.torn:
            raise BackendError(f"{self.name}: a write inside this one was interrupted; nothing was written")

    def _nested(self, work: Callable[[Tree], T]) -> T:
        """Do the work as a part of the transaction that is under way.

        A transaction of LMDB inside another costs more than most parts do. It is needed only where a part fails after
        it has written, which none does by itself: what writes before is the function of an update that calls the store
        again. So a part has its own from the moment it has parts.
        """
        levels = self._levels
        around = levels[-1]
        if len(levels) > 1 and not around.own:
            around.txn = self.env.begin(None, around.txn, True, True)
            around.own = True
        tree = Tree(around.txn)
        done = ending = False
        try:
            self._levels = (*levels, tree)
            result = work(tree)
            self._check_whole(tree)
            ending = tree.own
            if ending:
                tree.txn.commit()
            around.changed |= tree.changed
            done = True
        except self._lmdb.MapFullError:
            self._full = True
            raise
        finally:
            if not self.presence.over:
                self._levels = levels
                if not done:
                    around.torn |= ending or (tree.changed and not tree.own)
                    if tree.own and not ending:
                        tree.txn.abort()
        return result

    # ending, and forks

    @property
    def writing(self) -> bool:
        """Whether a transaction that writes is under way; of the thread that has the lock, its own."""
        return bool(self._levels)

    def close(self) -> None:
        """Close it, when nobody is present."""

        def close() -> None:
            self.presence.over = True
            self.env.close()
            os.close(self._file)

        with self.lock:
            self.presence.alone(close, PATIENCE)

    def before_fork(self) -> None:
        """See that no transaction is under way but the forking thread's own; for so long and no longer."""
        for lock in (self.lock, self.presence.gate):
            if lock.acquire(timeout=PATIENCE):
                self._held.append(lock)
        self._quiet = len(self._held) == 2 and self.presence.gather(PATIENCE, present=len(self._levels[:1]))

    def after_fork(self, *, child: bool) -> None:
        """Go on; in the child, let go of what is the parent's."""
        if child:
            self.presence.over = True
            os.close(self._file)  # the lock with it, for this process
            if self._quiet:
                self.env.close()
            else:  # it would take the parent's transactions for its own, and end them
                leak(self.env, *self._levels)
        self.presence.scatter()
        while self._held:
            self._held.pop().release()


def inode(found: os.stat_result) -> tuple[int, int]:
    """What a path leads to."""
    return found.st_dev, found.st_ino
