"""Calls of many tasks that share statements: how a batch of a worker reads, and how it writes.

What a shared statement did not do, each call does by itself after all, so that its error is its own.
"""

from __future__ import annotations

import sqlite3
from itertools import groupby
from typing import TYPE_CHECKING

from kv.errors import KVError

from .database import given
from .errors import code_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .database import Database, Parameters
    from .store import SQLiteStore
    from .worker import Call


class Get:
    """A `get` on its way: those of one namespace are read together."""

    __slots__ = ("default", "key", "store")

    def __init__(self, store: SQLiteStore, key: str, default: object) -> None:
        self.store = store
        self.key = key
        self.default = default

    def __call__(self) -> object:
        return self.store.get(self.key, self.default)


class Write:
    """A statement on its way that gives nothing: those of one text that follow each other are run together."""

    __slots__ = ("db", "parameters", "sql")

    def __init__(self, db: Database, sql: str, parameters: Parameters) -> None:
        self.db = db
        self.sql = sql
        self.parameters = parameters

    def __call__(self) -> None:
        self.db.write(self.sql, self.parameters)


def read(calls: list[Call]) -> None:
    """Run the calls; the gets of each namespace are one query, and so of one moment."""
    if len(calls) == 1:
        calls[0].execute()
        return
    gets: dict[str, list[tuple[Call, Get]]] = {}
    for call in calls:
        if isinstance(call.run, Get):
            gets.setdefault(call.run.store._ns, []).append((call, call.run))
        else:
            call.execute()
    for some in gets.values():
        _get(some)


def _get(some: list[tuple[Call, Get]]) -> None:
    store = some[0][1].store
    try:
        found = store._live([*dict.fromkeys(get.key for call, get in some if not call.future.cancelled())])
    except KVError:
        for call, _ in some:
            call.execute()
    else:
        for call, get in some:
            call.result = found.get(get.key, get.default)


def write(db: Database, calls: list[Call]) -> None:
    """Run the calls in one transaction; each fails alone, but they are written together or not at all."""
    if len(calls) == 1:
        calls[0].execute()
        return
    alone = False

    def work(writer: sqlite3.Connection) -> None:
        nonlocal alone
        for sql, some in groupby(calls, _text):
            if sql is None:
                for call in some:
                    call.execute()
                    if call.error and not writer.in_transaction:  # SQLite itself has rolled all of it back
                        raise call.error
            else:
                alone = True  # if this fails
                db.write_many(writer, sql, _parameters(some))
                alone = False

    try:
        db.transaction(work)
    except BaseException as e:
        full = isinstance(e.__cause__, sqlite3.Error) and code_of(e.__cause__) == sqlite3.SQLITE_FULL
        for call in calls:
            if alone or full:  # nothing has been written, and what is refused together may not be so alone
                call.execute()
            elif call.error is None:  # else it has an error of its own
                call.error = e


def _text(call: Call) -> str | None:
    return call.run.sql if isinstance(call.run, Write) else None


def _parameters(calls: Iterable[Call]) -> Iterator[tuple[object, ...]]:
    for call in calls:
        if isinstance(call.run, Write) and not call.future.cancelled():
            yield given(call.run.parameters)
