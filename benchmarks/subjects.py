"""What is measured: our stores, their floors, and their peers, in groups of one backend and one colour."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

import kv

from . import floors, peers
from .floors import TTL
from .ycsb import BATCH

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from .measuring import Calls


class Place(NamedTuple):
    """Where a subject keeps its entries."""

    folder: Path
    url: str
    """The server's, a database of its own on Redis; elsewhere none."""
    server: int | None
    """The server's process."""
    durability: str
    """Of SQLite."""


class Subject(NamedTuple):
    """One row of the tables."""

    name: str
    kind: str
    """ours, floor or peer."""
    open: Callable[[Place], Any]
    """Give a context manager, of the group's colour, that gives its calls."""
    needs: str = "kv"
    """The module that must be installed."""
    notes: dict[str, str] = {}  # noqa: RUF012 - never changed
    """What is different about it, by workload; under "" about all of them."""

    @property
    def installed(self) -> bool:
        """Whether it can be measured."""
        try:
            return find_spec(self.needs) is not None
        except ImportError:
            return False


class Group(NamedTuple):
    """What is measured beside each other."""

    backend: str
    colour: str
    subjects: tuple[Subject, ...]
    durability: str = ""

    @property
    def name(self) -> str:
        return " ".join(filter(None, (self.backend, self.durability, self.colour)))


def _calls(store: Any) -> Calls:
    """What is the same in both colours; `update` is told a new value, whatever the old one is."""
    return {
        "get": store.get,
        "set": store.set,
        "set_ttl": lambda key, value: store.set(key, value, ttl=TTL),
        "add": store.add,
        "delete": store.delete,
        "update": lambda key, value: store.update(key, lambda _: value),
        "increment": store.increment,
        "get_many": store.get_many,
        "set_many": store.set_many,
        "page": lambda prefix: store.keys(prefix, limit=BATCH),
    }


@contextmanager
def _sync(url: str, place: Place) -> Iterator[Calls]:
    with kv.open(url.format(place=place)) as store:
        yield {**_calls(store), "scan": lambda after, number: list(store.scan(after=after, limit=number))}


@asynccontextmanager
async def _async(url: str, place: Place) -> AsyncIterator[Calls]:
    async with kv.open_async(url.format(place=place)) as store:

        async def scan(after: str, number: int) -> list[tuple[str, bytes]]:
            return [entry async for entry in store.scan(after=after, limit=number)]

        yield {**_calls(store), "scan": scan}


def ours(url: str, colour: str, name: str = "kv") -> Subject:
    """Give a store of ours, by its URL; `{place...}` in it is where the run has its files and servers."""
    return Subject(name, "ours", partial(_sync if colour == "sync" else _async, url))


LOSES = {"increment": "loses updates: reads, then writes"}
JSON = {"": "values in base64, because it stores JSON"}
ONE_BY_ONE = {**JSON, "set_many": "not atomic: one write after the other"}
SQLITE = "sqlite:///{place.folder}/kv.db?durability={place.durability}"
LMDB = "lmdb:///{place.folder}/kv.lmdb?durability={place.durability}"
GROUPS = (
    Group(
        "memory",
        "sync",
        (
            ours("memory://", "sync"),
            Subject("dict", "floor", floors.memory),
            Subject("cachetools", "peer", peers.cachetools, "cachetools", {"": "one deadline for all entries"}),
        ),
    ),
    Group(
        "memory",
        "async",
        (
            ours("memory://", "async"),
            Subject("dict", "floor", floors.memory_async),
            Subject("py-key-value-aio", "peer", partial(peers.key_value, kind="memory"), "key_value", JSON),
            Subject("litestar", "peer", partial(peers.litestar, kind="memory"), "litestar"),
            Subject("aiocache", "peer", partial(peers.aiocache, kind="memory"), "aiocache"),
            Subject("cashews", "peer", partial(peers.cashews, kind="memory"), "cashews"),
        ),
    ),
    *(
        group
        for durability in ("full", "normal")
        for group in (
            Group(
                "sqlite",
                "sync",
                (
                    ours(SQLITE, "sync"),
                    ours(LMDB, "sync", "kv lmdb"),
                    Subject("sqlite3", "floor", floors.sqlite),
                    Subject("diskcache", "peer", peers.diskcache, "diskcache"),
                    Subject("django", "peer", peers.django, "django", LOSES),
                    *(
                        (
                            Subject(
                                *("sqlitedict", "peer", peers.sqlitedict, "sqlitedict"),
                                {"": "synchronous=OFF, always; one thread writes for all"},
                            ),
                            Subject(
                                *("dbm.sqlite3", "peer", peers.dbm_sqlite, "dbm.sqlite3"),
                                {"": "synchronous=OFF, always"},
                            ),
                        )
                        if durability == "normal"
                        else ()
                    ),
                ),
                durability,
            ),
            Group(
                "sqlite",
                "async",
                (
                    ours(SQLITE, "async"),
                    ours(LMDB, "async", "kv lmdb"),
                    Subject("sqlite3 in threads", "floor", floors.sqlite_async),
                    Subject("aiosqlite", "peer", peers.aiosqlite, "aiosqlite"),
                    *(
                        (
                            Subject(
                                *("py-key-value-aio", "peer", partial(peers.key_value, kind="disk"), "key_value"), JSON
                            ),
                            Subject(
                                *("litestar", "peer", partial(peers.litestar, kind="file"), "litestar"),
                                {"": "a file for each key, never synced"},
                            ),
                        )
                        if durability == "normal"
                        else ()
                    ),
                ),
                durability,
            ),
        )
    ),
    Group(
        "postgres",
        "sync",
        (
            ours("{place.url}", "sync"),
            ours("{place.url}?table=unlogged&unlogged=true", "sync", "kv unlogged"),
            Subject("psycopg", "floor", floors.postgres),
            Subject("django", "peer", peers.django, "django", LOSES),
            Subject("langgraph", "peer", peers.langgraph, "langgraph.store.postgres", JSON),
        ),
    ),
    Group(
        "postgres",
        "async",
        (
            ours("{place.url}", "async"),
            ours("{place.url}?table=unlogged&unlogged=true", "async", "kv unlogged"),
            Subject("asyncpg", "floor", floors.postgres_async),
            Subject("py-key-value-aio", "peer", partial(peers.key_value, kind="postgresql"), "key_value", ONE_BY_ONE),
            Subject("langgraph", "peer", peers.langgraph_async, "langgraph.store.postgres", JSON),
        ),
    ),
    Group(
        "redis",
        "sync",
        (ours("{place.url}", "sync"), Subject("redis-py", "floor", floors.redis)),
    ),
    Group(
        "redis",
        "async",
        (
            ours("{place.url}", "async"),
            Subject("redis-py", "floor", floors.redis_async),
            Subject("py-key-value-aio", "peer", partial(peers.key_value, kind="redis"), "key_value", JSON),
            Subject("litestar", "peer", partial(peers.litestar, kind="redis"), "litestar"),
            Subject("aiocache", "peer", partial(peers.aiocache, kind="redis"), "aiocache"),
            Subject("cashews", "peer", partial(peers.cashews, kind="redis"), "cashews", {"": "values pickled"}),
        ),
    ),
)
