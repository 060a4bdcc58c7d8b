"""What an entry of 128 bytes takes, beside the plainest thing that holds the same: resident memory of a process of its own,
or what a store says, its server, or its folder."""

from __future__ import annotations

import gc
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import redis
from rich.table import Table

import kv

from .harness import console

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

CHUNK = 50_000


def key_of(number: int) -> str:
    """A key; a thousand share their prefix of twelve bytes."""
    return f"tenant:{number // 1_000:04}:{number:08}"


def shuffled(entries: int) -> Iterator[list[int]]:
    """Give the numbers of the entries in no order, the same each time, in chunks."""
    order = [*range(entries)]
    random.Random(entries).shuffle(order)
    for begin in range(0, entries, CHUNK):
        yield order[begin : begin + CHUNK]


def items(entries: int) -> Iterator[dict[str, bytes]]:
    """Give the entries, in chunks."""
    chance = random.Random(entries)
    for some in shuffled(entries):
        yield {key_of(number): chance.randbytes(128) for number in some}


def measure(urls: Mapping[str, str], where: Mapping[str, str], entries: int) -> list[dict[str, Any]]:
    """Measure everything, and show it."""
    found = [("memory", kind, subject, "memory", in_memory(subject, entries)) for subject, (kind, _) in HOLDERS.items()]
    for group, url in urls.items():
        what = "memory" if group == "redis" else "disk"
        here = url.format(**where, entries="footprint", number=63)
        found.append((group, "ours", group, what, stored(here, entries)))
        for kind, subject, beside in BESIDE.get(group, ()):
            found.append((group, kind, subject, what, beside(here, entries)))
    table = Table(title=f"bytes an entry, {entries:,} entries of 148 bytes", title_justify="left", title_style="bold")
    for column in ("", "of", "bytes"):
        table.add_column(column, justify="right" if column == "bytes" else "left")
    for _, _, subject, what, size in found:
        table.add_row(subject, what, "not installed" if size is None else f"{size / entries:,.0f}")
    console.print(table)
    return [
        {
            "group": group,
            "kind": kind,
            "subject": subject,
            "what": what,
            "entries": entries,
            "bytes_per_entry": round(size / entries, 1),
        }
        for group, kind, subject, what, size in found
        if size is not None
    ]


# in memory


def plain(entries: int) -> object:
    return {key: value for some in items(entries) for key, value in some.items()}


def ours(entries: int, *, ttl: float | None = None, listed: bool = False) -> object:
    store = kv.MemoryStore()
    for some in items(entries):
        store.set_many(some, ttl=ttl)
    if listed:
        store.keys(limit=1)
    return store


def cachetools(entries: int) -> object:
    cache = import_module("cachetools").TTLCache(2 * entries, 86_400)
    for some in items(entries):
        cache.update(some)
    return cache


HOLDERS: dict[str, tuple[str, Callable[[int], object]]] = {
    "a dict": ("floor", plain),
    "memory": ("ours", ours),
    "memory, listed": ("ours", lambda entries: ours(entries, listed=True)),
    "memory, all with a ttl": ("ours", lambda entries: ours(entries, ttl=86_400)),
    "cachetools.TTLCache": ("peer", cachetools),
}


def in_memory(subject: str, entries: int) -> float | None:
    """Give how much more memory a new process has when it holds the entries; None where a package is not installed."""
    if subject.startswith("cachetools") and find_spec("cachetools") is None:
        return None
    command = [sys.executable, "-m", "benchmarks.footprint", subject, str(entries)]
    root = Path(__file__).parents[1]
    return int(subprocess.run(command, check=True, capture_output=True, cwd=root).stdout)


def resident() -> int:
    """Bytes of this process in memory, on Linux."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def main(subject: str, entries: int) -> None:
    HOLDERS[subject][1](1_000)  # what has to be imported and allocated once
    gc.collect()
    before = resident()
    holder = HOLDERS[subject][1](entries)
    gc.collect()
    print(resident() - before)
    del holder


# on a disk, or on a server


def stored(url: str, entries: int) -> int:
    """Give what a store takes that has just been filled: nothing is compacted."""

    def fill() -> None:
        with kv.open(url) as store:
            for some in items(entries):
                store.set_many(some)

    if url.startswith("redis"):
        return on_redis(url, fill)
    fill()
    with kv.open(url) as store:
        size = store.stats().disk_bytes
    assert size
    return size


def on_redis(url: str, fill: Callable[[], object]) -> int:
    """Give how much more memory the server uses when the empty database has been filled."""
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        before = client.info("memory")["used_memory"]
        fill()
        size: int = client.info("memory")["used_memory"] - before
    return size


def bare_redis(url: str, entries: int) -> int:
    """Strings under the same keys."""

    def fill() -> None:
        with redis.Redis.from_url(url) as client:
            for some in items(entries):
                client.mset(some)

    return on_redis(url, fill)


def bare_sqlite(_: str, entries: int) -> int:
    """A table as one makes it by hand."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "bare.db")
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("CREATE TABLE bare (key TEXT PRIMARY KEY, value BLOB, expires_at INTEGER)")
            for some in items(entries):
                connection.execute("BEGIN")
                connection.executemany("INSERT INTO bare (key, value) VALUES (?, ?)", some.items())
                connection.execute("COMMIT")
        return path.stat().st_size


def bare_postgres(url: str, entries: int) -> int:
    """A table as one makes it by hand."""
    with psycopg.connect(url.partition("?")[0], autocommit=True) as connection:
        connection.execute("CREATE TABLE bare (key text PRIMARY KEY, value bytea, expires_at timestamptz)")
        for some in items(entries):
            connection.execute(
                "INSERT INTO bare (key, value) SELECT * FROM unnest(%s::text[], %s::bytea[])",
                [[*some], [*some.values()]],
            )
        row = connection.execute("SELECT pg_total_relation_size('bare')").fetchone()
    assert row
    return int(row[0])


def diskcache(_: str, entries: int) -> int | None:
    """The peer, in a folder of its own."""
    if find_spec("diskcache") is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        with closing(import_module("diskcache").Cache(folder, size_limit=2**40)) as cache:
            for some in items(entries):
                with cache.transact():
                    for key, value in some.items():
                        cache.set(key, value)
        return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


BESIDE: dict[str, tuple[tuple[str, str, Callable[[str, int], int | None]], ...]] = {
    "sqlite": (("floor", "sqlite3, a bare table", bare_sqlite), ("peer", "diskcache.Cache", diskcache)),
    "postgres": (("floor", "psycopg, a bare table", bare_postgres),),
    "redis": (("floor", "redis-py, MSET", bare_redis),),
}

if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
