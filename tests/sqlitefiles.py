"""Files of stores, and a look into them past our code."""

import sqlite3
from contextlib import closing
from pathlib import Path

import kv


def raw(path: Path, *statements: str) -> list[tuple[object, ...]]:
    """What SQLite itself says."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return [row for sql in statements for row in connection.execute(sql).fetchall()]


def made(path: Path) -> Path:
    with kv.SQLiteStore(path) as store:
        store.set_many((f"key{i}", b"v" * 100) for i in range(1_000))
    return path
