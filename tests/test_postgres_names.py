"""Tables and schemas whose names are made to be SQL, formats or patterns."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from colours import run

import kv

if TYPE_CHECKING:
    import psycopg
    from servers import Server

    Admin = psycopg.Connection[tuple[Any, ...]]

NAMES = [
    *(
        '"; DROP TABLE kv_store; --',
        "'; DROP TABLE kv_store; --",
        '""',
        "a.b",
        'a"."b',
        "select",
        "user",
        "A",
        " ",
        "a ",
    ),
    *(
        "%",
        "%s",
        "%(a)s",
        "$1",
        "{0}",
        "{table}",
        "\\",
        "a\\",
        "--",
        "/*",
        "?",
        ":a",
        "*",
        "pg_class",
        "é" * 31,
        "x" * 63,
    ),
    *("😀" * 15, "\ufeff", "U&", "e'"),
]
"""Of tables and schemas."""


def test_a_table_and_a_schema_may_have_any_name(postgres: Server, admin: Admin) -> None:
    def quoted(name: str) -> str:
        return '"' + name.replace('"', '""') + '"'

    async def body(store: kv.AsyncStore) -> None:
        await store.set("k", b"v")
        await store.set_many({"a": b"1", "b": b"2"}, ttl=1_000)
        assert await store.update("k", lambda old: (old or b"") + b"v") == b"vv"
        assert await store.keys(match="?") == ["a", "b", "k"]
        assert (await store.cleanup(), await store.verify(), (await store.stats()).keys) == (0, [], 3)
        await store.compact()
        assert await store.clear() == 3

    for n, (table, other) in enumerate(pairwise([*NAMES, NAMES[0]])):
        opens = (kv.open, kv.open_async)[n % 2]  # which the names are no different for
        schema = f"kv {other}".encode()[:63].decode(errors="ignore")
        try:
            run(opens(postgres.url, table=table, schema=schema), body)
            where = f"{quoted(schema)}.{quoted(table)}"
            assert admin.execute(f"SELECT count(*) FROM {where}").fetchone() == (0,)
            run(opens(f"{postgres.url}?table={quote(table)}&schema={quote(schema)}", create=False), body)
        finally:
            admin.execute(f"DROP SCHEMA IF EXISTS {quoted(schema)} CASCADE")


def test_what_is_no_name_is_refused_before_anything_is_asked() -> None:
    for wrong in ("", "x" * 64, "é" * 32, "a\0", "\n", "\x7f", "\ud800", 5, None, b"a"):
        for option in ("table", "schema"):
            if (option, wrong) != ("schema", None):
                for opens in (kv.open, kv.open_async):
                    with pytest.raises(kv.ConfigError, match=option):
                        opens("postgresql://nowhere.invalid/db", **{option: wrong})
