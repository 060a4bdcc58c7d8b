"""What `memory://` keeps: a dict for each namespace, a heap of deadlines, and who was used last.

An entry is its value, or a pair of deadline and value where it expires; so one that never expires takes no more than
in a dict, and reading it asks no clock. Reads take no lock: one operation on a dict is atomic. Every write is one such
operation too, under the lock.

No loop stands in a `with` here, but in a function that is called there: CPython 3.13.0 leaves a `with` without its exit
where a signal handler raises at the end of a loop's round.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import OrderedDict
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final, TypeAlias

from kv.backends.cleaner import Cleaner
from kv.backends.forking import concerns
from kv.base import PAGE
from kv.errors import StoreClosed
from kv.expiry import KEEP_TTL

from .sortedkeys import SortedKeys

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kv.expiry import Ages

Entry: TypeAlias = bytes | tuple[int, bytes]
"""The value, or the deadline in nanoseconds of the monotonic clock, and the value."""
Path: TypeAlias = tuple[str, ...]

GONE: Final = (0, b"")
"""An entry whose deadline has long passed: what a deletion among other writes leaves for an instant."""
UNIX: Final = time.time_ns() - time.monotonic_ns()
"""From the monotonic clock to the wall clock; fixed, so that a deadline travels out and in unchanged."""

clock = time.monotonic_ns
"""The clock of every deadline here."""


def live_value(entry: Entry | None, now: int) -> bytes | None:
    if type(entry) is tuple:
        return entry[1] if now < entry[0] else None
    return entry  # type: ignore[return-value]


def until(ms: int | None, value: bytes) -> Entry:
    return value if ms is None else (clock() + ms * 1_000_000, value)


def successor(old: Entry | None, value: bytes, ages: Ages) -> Entry:
    """Give the entry that follows a live one, or None, in an update (see `update_ttl_ms`)."""
    age = ages[1] if old is None else ages[0]
    if age is KEEP_TTL:
        return (old[0], value) if type(old) is tuple else value
    return until(age, value)


def live_entries(entries: Mapping[str, Entry | None]) -> dict[str, Entry]:
    now = clock()
    return {
        key: entry for key, entry in entries.items() if entry is not None and (type(entry) is bytes or now < entry[0])
    }


def all_until(ms: int | None, values: dict[str, bytes]) -> dict[str, Entry]:
    return {key: until(ms, value) for key, value in values.items()}


def still(live: dict[str, Entry], entries: Mapping[str, Entry | None]) -> bool:
    """Whether what was live, of these keys, is what is live now."""
    now = clock()
    for key, entry in entries.items():
        there = None if type(entry) is tuple and now >= entry[0] else entry
        if there is not live.get(key):
            return False
    return True


def changes(live: dict[str, Entry], answer: dict[str, bytes], ages: Ages) -> dict[str, Entry]:
    """What the answer of an update makes of what was live."""
    changed: dict[str, Entry] = dict.fromkeys(live, GONE)
    for key, value in answer.items():
        changed[key] = successor(live.get(key), value, ages)
    return changed


class Table:
    """The entries of one namespace. Lives while it holds an entry or a store holds it."""

    __slots__ = ("__weakref__", "entries", "path", "sorted")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[str, Entry] = {}
        self.sorted = SortedKeys(self.entries)


class Memory:
    """What a store and all its views share."""

    def __init__(self, max_entries: int | None, cleanup_interval: float | None) -> None:
        # Protects every write, the tables, the heap and the sorted keys. No function of a user runs under it.
        self.lock = threading.RLock()
        # Among updates that another write has overtaken: they go one by one, so that most of them win. No right to write.
        self.turns = threading.RLock()
        self.tables: weakref.WeakValueDictionary[Path, Table] = weakref.WeakValueDictionary()
        self.filled: set[Table] = set()
        self.heap: list[tuple[int, Path, str]] = []  # of every deadline, also of some that are no longer
        self.heap_bound = 1_000
        self.recent: OrderedDict[tuple[Path, str], None] | None = OrderedDict() if max_entries else None
        self.max_entries = max_entries or 0
        self.cleanup_interval = cleanup_interval
        self.cleaner: Cleaner | None = None
        self.closed = False
        concerns(self)

    def table(self, path: Path) -> Table:
        with self.lock:
            table = self.tables.get(path)
            if table is None:
                self.tables[path] = table = Table(path)
            return table

    def check_open(self) -> None:
        if self.closed:
            raise StoreClosed("this memory store is closed; open a new one")

    def put(self, table: Table, key: str, entry: Entry) -> None:
        """Store one entry. Under the lock."""
        self.prepare(table, key, entry)
        table.entries[key] = entry
        self.trim()

    def write(self, table: Table, changes: dict[str, Entry]) -> None:
        """Store all the entries in one step; `GONE` deletes. Under the lock."""
        gone = [key for key, entry in changes.items() if entry is GONE]
        for key, entry in changes.items():
            if entry is not GONE:
                self.prepare(table, key, entry)
        table.entries.update(changes)
        for key in gone:
            self.remove(table, key)
        self.trim()

    def prepare(self, table: Table, key: str, entry: Entry) -> None:
        # An interrupt may come between any two lines: so what only says where to look is written before the entry.
        old = table.entries.get(key)
        if old is None:
            self.check_open()
            table.sorted.touch(key)
            self.filled.add(table)
        if self.recent is not None:
            self.recent[table.path, key] = None
            self.recent.move_to_end((table.path, key))
        if type(entry) is tuple and not (type(old) is tuple and old[0] == entry[0]):
            self.remember(entry[0], table.path, key)

    def remember(self, deadline: int, path: Path, key: str) -> None:
        heappush(self.heap, (deadline, path, key))
        if self.cleaner is None and self.cleanup_interval is not None:
            self.cleaner = Cleaner(self, self.cleanup_interval)

    def remove(self, table: Table, key: str) -> None:
        table.sorted.touch(key)
        table.entries.pop(key, None)
        if not table.entries:
            self.filled.discard(table)
        if self.recent is not None:
            self.recent.pop((table.path, key), None)

    def trim(self) -> None:
        """Keep the bounds, when what was written stands in the tables."""
        if len(self.heap) > self.heap_bound:  # most are of entries that are gone or have another deadline by now
            self.heap[:] = [
                (entry[0], table.path, key)
                for table in self.filled
                for key, entry in table.entries.items()
                if isinstance(entry, tuple)
            ]
            heapify(self.heap)
            self.heap_bound = len(self.heap) + sum(len(table.entries) for table in self.filled) + 1_000
        recent = self.recent
        if recent is None or len(recent) <= self.max_entries:
            return
        self.cleanup()  # what has expired goes first, then what was used longest ago
        while len(recent) > self.max_entries:
            (path, key), _ = recent.popitem(last=False)
            if table := self.tables.get(path):
                self.remove(table, key)

    def used(self, path: Path, key: str) -> None:
        with self.lock:
            if self.recent is not None and (path, key) in self.recent:
                self.recent.move_to_end((path, key))

    def cleanup(self, limit: int | None = None) -> int:
        removed = 0
        while limit is None or removed < limit:
            with self.lock:
                count, more = self.clean(PAGE if limit is None else min(PAGE, limit - removed))
            removed += count
            if not more:
                break
        return removed

    def clean(self, limit: int) -> tuple[int, bool]:
        """Remove what has expired, of so many deadlines. Gives how many entries, and whether there may be more."""
        removed, now = 0, clock()
        for _ in range(limit):
            if not self.heap or self.heap[0][0] > now:
                return removed, False
            deadline, path, key = heappop(self.heap)
            table = self.tables.get(path)
            entry = table.entries.get(key) if table else None
            if table and type(entry) is tuple and entry[0] == deadline:
                self.remove(table, key)
                removed += 1
        return removed, True

    def close(self) -> None:
        with self.lock:
            self.closed = True
            self.empty()
            cleaner, self.cleaner = self.cleaner, None
        if cleaner:
            cleaner.stop()

    def empty(self) -> None:
        for table in [*self.tables.values()]:
            table.entries.clear()
            table.sorted.forget()
        self.filled.clear()
        self.heap.clear()
        if self.recent is not None:
            self.recent.clear()

    def compact(self) -> None:
        """Give back what stands for keys that are gone. Under the lock."""
        for table in self.filled:
            table.sorted.forget()

    def before_fork(self) -> None:
        self.lock.acquire()

    def after_fork(self, *, child: bool) -> None:
        if child:
            self.cleaner = None  # its thread has stayed behind
            self.turns = threading.RLock()
        self.lock.release()
