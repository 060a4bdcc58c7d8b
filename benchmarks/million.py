"""PostgreSQL at a million entries: what is read to answer, what an entry takes, what is updated in place, and how often
each operation goes over the wire. Figures to look at; nothing here has a target in time."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from rich.table import Table

import kv
from kv.backends.postgres.statements import Bounds
from kv.testing.suite import lifted

from .harness import console

sys.path.append(str(Path(__file__).parents[1] / "tests"))

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from urllib.parse import SplitResult

MILLION = 1_000_000
VALUE = os.urandom(128)


def run(*, quick: bool) -> bool:
    """Show the figures, and give whether they are what they shall be."""
    import servers

    entries = MILLION // 10 if quick else MILLION
    server = servers.own_postgres(shared_buffers="512MB", max_wal_size="8GB")
    try:
        met = sizes(server.url, entries)
        plans(server.url)
        met &= in_place(server.url)
        round_trips(server.url)
    finally:
        server.close()
    return met


def keys(entries: int, length: int) -> Iterator[str]:
    """Keys of so many bytes, a thousand under each prefix."""
    return (f"tenant:{n // 1_000:04}:".ljust(length - 8, "x") + f"{n:08}" for n in range(entries))


def sizes(url: str, entries: int) -> bool:
    """What an entry takes, with short keys and with long ones."""
    table = Table(title=f"bytes an entry, {entries:,} entries of 128 bytes", title_justify="left", title_style="bold")
    for column in ("", "primary key", "listing", "cleanup", "table", "all"):
        table.add_column(column, justify="left" if column == "" else "right")
    primary: dict[int, float] = {}
    admin: Any
    with psycopg.connect(url, autocommit=True) as admin:
        for length in (40, 400):
            name = f"keys_{length}"
            with kv.PostgresStore(url, table=name) as store:
                store.set_many((key, VALUE) for key in keys(entries, length))
            admin.execute(f"VACUUM ANALYZE {name}")
            rows = admin.execute(
                "SELECT pg_get_indexdef(indexrelid), pg_relation_size(indexrelid) FROM pg_index "
                "WHERE indrelid = %s::regclass",
                (name,),
            ).fetchall()
            index = {
                what: size / entries
                for definition, size in rows
                for what in ("check", "left", "bucket")
                if what in definition
            }
            heap, every = admin.execute(
                "SELECT pg_relation_size(%s), pg_total_relation_size(%s)", (name, name)
            ).fetchone() or (0, 0)
            primary[length] = index["check"]
            figures = (index["check"], index["left"], index["bucket"], heap / entries, every / entries)
            table.add_row(f"keys of {length} bytes", *(f"{figure:,.1f}" for figure in figures))
    console.print(table)
    ratio = primary[400] / primary[40]
    console.print(f"primary key at 400 bytes: {ratio:.2f} times that at 40, at most 1.3\n")
    return ratio <= 1.3


def plans(url: str) -> None:
    """How the server answers, with the keys of 40 bytes; every twentieth has expired."""
    with kv.PostgresStore(url, table="keys_40") as store, psycopg.connect(url, autocommit=True) as admin:
        admin.execute(
            "UPDATE keys_40 SET expires_at = now() - interval '1 h', "
            "expires_bucket = floor(date_part('epoch', now() - interval '1 h') / 512) WHERE key_hash % 20 = 0"
        )
        admin.execute("VACUUM ANALYZE keys_40")
        rows = store._rows
        steps: list[tuple[str, str, tuple[Any, ...]]] = [
            ("get", store._sql.get, rows.one(next(keys(1, 40)))),
            (
                "a page of 1,000 keys under a prefix",
                store._sql.keys(1_000, Bounds(closed=True, exact=True)),
                ("", "tenant:0042", "tenant:0043"),
            ),
            ("a batch of cleanup", store._sql.cleanup, (2_000,)),
        ]
        cursor: Any = psycopg.RawCursor(admin)
        for name, sql, args in steps:
            console.print(f"[bold]{name}[/bold]")
            admin.execute("BEGIN")
            for (line,) in cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, COSTS OFF) {sql}", args).fetchall():
                console.print(line, markup=False, highlight=False, soft_wrap=True)
            admin.execute("ROLLBACK")
            console.print()


def in_place(url: str) -> bool:
    """How many of the updates that move a deadline on stay on their page and touch no index."""
    with kv.PostgresStore(url, table="sessions") as store, psycopg.connect(url, autocommit=True) as admin:
        for n in range(10_000):
            store.set(f"session:{n}", VALUE, ttl=1_800)
        store.cleanup()
        before = _updates(admin)
        for turn in range(4):
            for n in range(0, 10_000, 2):
                store.expire(f"session:{n}", 1_800 + 300 * turn)
            store.cleanup()
        store.close()
        after = _updates(admin, more_than=before[1])
    share = (after[0] - before[0]) / (after[1] - before[1])
    console.print(f"HOT: {share:.0%} of {after[1] - before[1]:,} updates that moved a deadline on; at least 80%\n")
    return share >= 0.8


def _updates(admin: psycopg.Connection[Any], more_than: int = 0) -> tuple[int, int]:
    sql = "SELECT n_tup_hot_upd, n_tup_upd FROM pg_stat_user_tables WHERE relname = 'sessions'"
    hot = every = 0
    for _ in range(200):
        admin.execute("SELECT pg_stat_clear_snapshot(), pg_sleep(0.05)")
        hot, every = admin.execute(sql).fetchone() or (0, 0)
        if every - more_than >= 20_000:
            break
    return hot, every


class Wire:
    """A proxy that counts how often the client waits for the server."""

    def __init__(self, server: SplitResult) -> None:
        self.turns = 0
        self._server = (server.hostname, server.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            client, _ = self._listener.accept()
            server = socket.create_connection(self._server)
            asking = [False]

            def up(client: socket.socket = client, server: socket.socket = server, asking: list[bool] = asking) -> None:
                while data := client.recv(65_536):
                    asking[0] = True
                    server.sendall(data)

            def down(
                client: socket.socket = client, server: socket.socket = server, asking: list[bool] = asking
            ) -> None:
                while data := server.recv(65_536):
                    self.turns += asking[0]
                    asking[0] = False
                    client.sendall(data)

            for work in (up, down):
                threading.Thread(target=work, daemon=True).start()


def round_trips(url: str) -> None:
    """Count them, when everything is prepared."""
    from urllib.parse import urlsplit

    wire = Wire(urlsplit(url))
    through = url.replace(f":{urlsplit(url).port}", f":{wire.port}")
    calls: dict[str, Callable[[kv.AsyncStore], Any]] = {
        "get": lambda s: s.get("k"),
        "set": lambda s: s.set("k", b"1"),
        "set ttl": lambda s: s.set("k", b"1", ttl=60),
        "delete": lambda s: s.delete("k"),
        "add": lambda s: s.add("k", b"1"),
        "increment": lambda s: s.increment("n"),
        "compare_and_set": lambda s: s.compare_and_set("k", b"1", b"1"),
        "pop": lambda s: s.pop("k"),
        "expire": lambda s: s.expire("k", 60),
        "get_many of 1,000": lambda s: s.get_many(map(str, range(1_000))),
        "set_many of 1,000": lambda s: s.set_many({str(n): b"v" for n in range(1_000)}),
        "set_many of 1,000 ttl": lambda s: s.set_many({str(n): b"v" for n in range(1_000)}, ttl=60),
        "delete_many of 1,000": lambda s: s.delete_many(map(str, range(1_000))),
        "update, there": lambda s: s.update("n", lambda v: v),
        "update, missing": lambda s: s.update("none", lambda _: None),
        "update_many of 1,000": lambda s: s.update_many(map(str, range(1_000)), lambda found: found),
    }
    table = Table(title="round trips", title_justify="left", title_style="bold")
    for column in ("", "sync", "async"):
        table.add_column(column, justify="left" if column == "" else "right")
    counted: dict[str, list[str]] = {name: [] for name in calls}

    async def count(store: Any) -> None:
        async with lifted(store) as opened:
            for name, call in calls.items():
                for _ in range(7):  # until the drivers have prepared it
                    await call(opened)
                before = wire.turns
                await call(opened)
                counted[name].append(str(wire.turns - before))

    for opens in (kv.open, kv.open_async):
        asyncio.run(count(opens(through, table="trips")))
    for name, figures in counted.items():
        table.add_row(name, *figures)
    console.print(table)
