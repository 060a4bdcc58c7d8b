"""Where each microsecond of a get goes: the whole beside its pieces, each run by itself, in turn. Nothing here has a target.

What neither a piece of ours nor the bare bytes on the socket take is the driver's. The server's own time is what its process
was running for.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import select
import socket
import sqlite3
import statistics
import struct
import sys
import tempfile
from itertools import cycle
from pathlib import Path
from time import perf_counter, time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rich.table import Table

import kv
from kv.backends.postgres import asyncpg_sources, psycopg_sources, rows
from kv.backends.redis import commands
from kv.keys import check_key

from .harness import console

sys.path.append(str(Path(__file__).parents[1] / "tests"))

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import psycopg

KEYS = [f"user:{n:04}:profile" for n in range(1_000)]
VALUE = os.urandom(128)
CALLS = 2_000
"""So many of each piece in a round."""
RESULTS = Path(__file__).parent / "results" / "anatomy.json"

Pieces = dict[str, "Callable[[str], object]"]


def run(*, quick: bool) -> bool:
    """Show the tables."""
    import servers

    rounds = 7 if quick else 41
    tables = {**memory(rounds), **sqlite(rounds)}
    server = servers.own_postgres(fsync="on")
    try:
        tables |= postgres(server.url, rounds)
    finally:
        server.close()
    store = servers.own_redis()
    try:
        tables |= redis(store.url, rounds)
    finally:
        store.close()
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(tables, indent=1))
    for title, lines in tables.items():
        table = Table("", "µs", title=title, title_justify="left", title_style="bold", width=80)
        table.columns[1].justify = "right"
        for name, micros in lines.items():
            table.add_row(name, f"{micros:.2f}")
        console.print(table)
    return True


def timed(pieces: Pieces, rounds: int) -> dict[str, float]:
    """Run each piece in every round, and give the median of its microseconds for one call, the loop's own left out."""
    taken: dict[str, list[float]] = {name: [] for name in pieces}

    def once(call: Callable[[str], object]) -> float:
        keys = cycle(KEYS)
        start = perf_counter()
        for _ in range(CALLS):
            call(next(keys))
        return (perf_counter() - start) / CALLS * 1e6

    for turn in range(rounds + 1):
        nothing = once(lambda _: None)
        for name, call in pieces.items():
            micros = once(call) - nothing
            if turn:  # the first is a warm-up
                taken[name].append(micros)
    return {name: max(0.0, statistics.median(every)) for name, every in taken.items()}


def anatomy(whole: str, micros: dict[str, float], *, driver: str, bare: str = "") -> dict[str, float]:
    """Give the lines of a table: the whole, our pieces, what is left of ours, the driver's, and what is beneath it."""
    beneath = micros.pop(bare, 0.0)
    server = micros.pop("the server's process", 0.0)
    all_, driven = micros.pop(whole), micros.pop(driver)
    lines = {whole: all_, **micros, "the rest of ours: calls, and what is done with errors": 0.0}
    lines["the rest of ours: calls, and what is done with errors"] = max(0.0, all_ - driven - sum(micros.values()))
    if not bare:
        return {**lines, driver: driven}
    lines[f"driver: {driver}, without the socket"] = driven - beneath
    lines[f"socket: {bare}, without the server"] = beneath - server
    return {**lines, "server: what its process ran for": server}


def memory(rounds: int) -> dict[str, dict[str, float]]:
    """Of the memory store."""
    with kv.MemoryStore() as store:
        store.set_many(dict.fromkeys(KEYS, VALUE))
        plain: dict[str, bytes] = dict.fromkeys(KEYS, VALUE)
        micros = timed({"get": store.get, "dict.get": plain.get}, rounds)
    return {"memory: get": anatomy("get", micros, driver="dict.get")}


def sqlite(rounds: int) -> dict[str, dict[str, float]]:
    """Of the SQLite store."""
    from kv.backends.sqlite.store import _GET
    from kv.expiry import wall_past

    with tempfile.TemporaryDirectory() as folder, kv.SQLiteStore(f"{folder}/a.db") as store:
        store.set_many(dict.fromkeys(KEYS, VALUE))
        store.get(KEYS[0])
        (connection,) = store._db.idle
        assert isinstance(connection, sqlite3.Connection)
        soon = int(time() * 1e6) + 10**12
        pieces: Pieces = {
            "get": store.get,
            "validation: check_key": check_key,
            "the deadline, where there is one": lambda _: wall_past(soon),
            "sqlite3's execute and fetchone": lambda key: connection.execute(_GET, (store._ns, key)).fetchone(),
        }
        micros = timed(pieces, rounds)
        late = micros.pop("the deadline, where there is one")
        lines = anatomy("get", micros, driver="sqlite3's execute and fetchone")
    return {"SQLite, sync: get": {**lines, "besides: the deadline, where an entry has one": late}}


class Bare:
    """A round trip of bytes on a socket, as often as told, and the time that the server's process runs meanwhile."""

    def __init__(self, number: int, asks: bytes, ends: bytes, pid: int) -> None:
        self._number = number
        self._asks = asks
        self._ends = ends
        self._pid = pid
        self._poll = select.poll()
        self._poll.register(number, select.POLLIN)

    def __call__(self, _: str) -> None:
        os.write(self._number, self._asks)
        got = b""
        while not got.endswith(self._ends):
            self._poll.poll()
            got += os.read(self._number, 65_536)

    def server(self) -> float:
        """Microseconds of the server's for one."""

        def ran() -> int:
            return int(Path(f"/proc/{self._pid}/schedstat").read_text().split()[0])

        before = ran()
        for _ in range(CALLS):
            self("")
        return (ran() - before) / CALLS / 1e3


def message(connection: psycopg.Connection[Any], sql: str, args: tuple[Any, ...]) -> bytes:
    """What a driver sends to run a statement that it has prepared: Bind, Execute, Sync."""
    row = connection.execute("SELECT name FROM pg_prepared_statements WHERE statement = %s", (sql,)).fetchone()
    assert row is not None
    values = [struct.pack("!q", arg) if isinstance(arg, int) else str(arg).encode() for arg in args]
    body = b"\0" + row[0].encode() + b"\0" + struct.pack(f"!h{len(args)}h", len(args), *(type(a) is int for a in args))
    body += struct.pack("!h", len(args)) + b"".join(struct.pack("!i", len(value)) + value for value in values)
    bind = body + struct.pack("!hh", 1, 1)
    execute = b"\0" + struct.pack("!i", 0)
    parts = ((b"B", bind), (b"E", execute), (b"S", b""))
    return b"".join(kind + struct.pack("!i", len(part) + 4) + part for kind, part in parts)


def postgres(url: str, rounds: int) -> dict[str, dict[str, float]]:
    """Of the PostgreSQL stores. The bare bytes are those of the sync one's connection, for both."""
    with kv.PostgresStore(url) as store:
        store.set_many(dict.fromkeys(KEYS, VALUE))
        for key in KEYS[:20]:  # and the driver prepares the statement
            store.get(key)
        source: Any = store._db.source
        session = source.take()
        source.give(session)
        steps = {key: (store._sql.get, store._rows.one(key)) for key in KEYS}
        step = steps[KEYS[7]]
        ready = b"Z\0\0\0\x05I"
        pid = session.connection.info.backend_pid
        number = session.connection.fileno()
        bare = Bare(number, message(session.connection, *step), ready, pid)
        ours: Pieces = {
            "validation: check_key": check_key,
            "hash, check and namespace of a key asked lately": lambda key: rows.located("", key),
            "a connection taken from the pool and given back": lambda _: source.give(source.take()),
        }

        def driven(key: str) -> None:
            session.execute(*steps[key])
            psycopg_sources.first(session.cursor)

        named = "psycopg's execute and fetchone"
        sync = timed({"get": store.get, **ours, named: driven, "bare bytes": bare}, rounds)
        sync["the server's process"] = bare.server()
        anew = timed({"anew": lambda key: rows.located.__wrapped__("", key)}, rounds)["anew"]
        beneath = {name: sync[name] for name in ("bare bytes", "the server's process")}
    micros = asyncio.run(awaited_postgres(url, rounds)) | beneath
    micros |= {name: sync[name] for name in list(ours)[:2]}
    besides = {"besides: hash and check of a key that was not asked lately": anew}
    return {
        "PostgreSQL, sync: get": anatomy("get", sync, driver=named, bare="bare bytes") | besides,
        "PostgreSQL, async: get": anatomy("get", micros, driver="asyncpg's fetch", bare="bare bytes") | besides,
    }


async def awaited(pieces: dict[str, Callable[[str], Awaitable[object]]], rounds: int) -> dict[str, float]:
    """As `timed`, of what is awaited."""
    taken: dict[str, list[float]] = {name: [] for name in pieces}
    for turn in range(rounds + 1):
        for name, call in pieces.items():
            keys = cycle(KEYS)
            start = perf_counter()
            for _ in range(CALLS):
                await call(next(keys))
            if turn:
                taken[name].append((perf_counter() - start) / CALLS * 1e6)
    return {name: statistics.median(every) for name, every in taken.items()}


async def awaited_postgres(url: str, rounds: int) -> dict[str, float]:
    """The pieces of the async PostgreSQL store that only a loop can run."""
    async with kv.AsyncPostgresStore(url) as store:
        await store.get(KEYS[0])
        source: Any = store._db.source
        session = await source.take()
        await source.give(session)
        steps = {key: (store._sql.get, store._rows.one(key)) for key in KEYS}

        async def pool(_: str) -> None:
            await source.give(await source.take())

        return await awaited(
            {
                "get": store.get,
                "a connection taken from the pool and given back": pool,
                "asyncpg's fetch": lambda key: asyncpg_sources.value(session.connection, steps[key]),
            },
            rounds,
        )


def redis(url: str, rounds: int) -> dict[str, dict[str, float]]:
    """Of the Redis stores."""
    with kv.RedisStore(url) as store:
        store.set_many(dict.fromkeys(KEYS, VALUE))
        source: Any = store._db._source(store._db.slots.of(b"k"))
        session = source.take()
        source.give(session)
        said = session.one(("INFO", "server"))
        pid = int(re.findall(rb"process_id:(\d+)", said)[0])
        asked = {key: commands.get(store._names.of(key)) for key in KEYS}
        args = asked[KEYS[7]].args
        packed = b"*%d\r\n" % len(args) + b"".join(b"$%d\r\n%s\r\n" % (len(a), a) for a in map(_bytes, args))
        with socket.create_connection((urlsplit(url).hostname, urlsplit(url).port)) as plain:
            bare = Bare(plain.fileno(), packed, VALUE + b"\r\n", pid)
            ours: Pieces = {
                "validation: check_key": check_key,
                "namespace and command": lambda key: commands.get((store._names.head + key).encode()),
                "a connection taken from the pool and given back": lambda _: source.give(source.take()),
            }
            named = "redis-py's send and read"
            pieces: Pieces = {
                "get": store.get,
                **ours,
                named: lambda key: session.one(asked[key].args),
                "bare bytes": bare,
            }
            sync = timed(pieces, rounds)
            sync["the server's process"] = bare.server()
    micros = asyncio.run(awaited_redis(url, rounds))
    micros |= {name: sync[name] for name in [*list(ours)[:2], "bare bytes", "the server's process"]}
    return {
        "Redis, sync: get": anatomy("get", sync, driver=named, bare="bare bytes"),
        "Redis, async: get": anatomy("get", micros, driver=named, bare="bare bytes"),
    }


def _bytes(argument: Any) -> bytes:
    return argument if isinstance(argument, bytes) else str(argument).encode()


async def awaited_redis(url: str, rounds: int) -> dict[str, float]:
    """The pieces of the async Redis store that only a loop can run."""
    async with kv.AsyncRedisStore(url) as store:
        await store.get(KEYS[0])
        source: Any = store._db._source(store._db.slots.of(b"k"))
        session = await source.take()
        await source.give(session)
        asked = {key: commands.get(store._names.of(key)) for key in KEYS}

        async def pool(_: str) -> None:
            await source.give(await source.take())

        return await awaited(
            {
                "get": store.get,
                "a connection taken from the pool and given back": pool,
                "redis-py's send and read": lambda key: session.one(asked[key].args),
            },
            rounds,
        )
