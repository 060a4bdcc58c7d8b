"""Old files for `examples/move_in.py`, as diskcache, sqlitedict and shelve themselves write them."""

from __future__ import annotations

import dbm.dumb
import math
import pickle
import shelve
import sqlite3
from collections import OrderedDict
from contextlib import closing
from datetime import datetime
from typing import TYPE_CHECKING, Any

import diskcache
import pytest
from sqlitedict import SqliteDict

import kv
from kv import codecs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SECRET = "hunter2"

FLAT: dict[str, Any] = {
    "text": "Zoë\r\n\0",
    "empty": "",
    "bytes": bytes(range(256)),
    "no bytes": b"",
    "int": -(2**63),
    "float": 2.0,
    "infinitely precise": 0.1 + 0.2,
    "large text": "é\r\n" * 40_000,
    "large bytes": b"\r\n\xff" * 40_000,
    "% _ * ? [ ] \\ : 🗝": "a key as it stands",
}
"""What diskcache does not pickle."""

NESTED: dict[str, Any] = {
    "none": None,
    "true": True,
    "big": 10**30,
    "list": [1, 2.0, "x", None, [False, {}]],
    "dict": {"a": {"b": [1]}},
    "large": ["x" * 50_000],
}
"""What it does, and JSON holds."""


class Order:
    def __init__(self) -> None:
        self.card = SECRET


CHANGED: dict[str, Any] = {
    "tuple": (SECRET, 1),
    "set": {SECRET},
    "class": Order(),
    "ordered": OrderedDict(a=SECRET),
    "when": datetime(2026, 1, 1),  # noqa: DTZ001
    "keys": {1: SECRET},
    "deep tuple": {"a": [(SECRET,)]},
    "nan": [math.nan],
    "inner bytes": [SECRET.encode()],
}
"""What JSON would change."""


def values(url: str) -> dict[str, object]:
    """All that a store holds, as `kv.typed` reads it."""
    codec: codecs.Codec[object] = codecs.json()
    with kv.open(url) as store:
        return {key: codec.decode(value) for key, value in store.scan()}


def exactly(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one == other and all(codecs.alike(value, other[key]) for key, value in one.items())


def named(out: str) -> set[str]:
    """The keys of entries that were left out."""
    return {line.partition("': ")[0][1:] for line in out.splitlines()}


def fill(cache: Any, entries: dict[Any, Any]) -> None:
    for key, value in entries.items():
        cache[key] = value
    cache.close()


def dumb(path: Path, entries: dict[str, Any]) -> None:
    # as shelve does where Python has nothing better, whatever this one has
    with shelve.Shelf[Any](dbm.dumb.open(str(path), "n")) as shelf:  # type: ignore[arg-type]
        shelf.update(entries)


def since_3_13(path: Path, entries: dict[str, Any]) -> None:
    """What `shelve` makes since Python 3.13, in SQLite, in the schema of `dbm.sqlite3`."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = wal")
        db.execute("CREATE TABLE Dict (key BLOB UNIQUE NOT NULL, value BLOB NOT NULL)")
        db.executemany("INSERT INTO Dict VALUES (?, ?)", [(k.encode(), pickle.dumps(v)) for k, v in entries.items()])
        db.commit()


MAKERS: dict[str, tuple[str, Callable[[Path, dict[str, Any]], None]]] = {
    "Cache": ("diskcache", lambda path, entries: fill(diskcache.Cache(path), entries)),
    "FanoutCache": ("diskcache", lambda path, entries: fill(diskcache.FanoutCache(path, shards=3), entries)),
    "sqlitedict": ("sqlitedict", lambda path, entries: fill(SqliteDict(str(path), autocommit=True), entries)),
    "shelve": ("shelve", dumb),
    "shelve, sqlite": ("shelve", since_3_13),
}
every = pytest.mark.parametrize(("kind", "make"), MAKERS.values(), ids=MAKERS)
