"""Calls of many tasks that share statements: how a batch of a worker reads, and how it writes.

What a shared statement did not do, each call does by itself after all, so that its error is its own.
"""

from __future__ import annotations

import sqlite3
from abc import abstractmethod
from itertools import groupby
from typing import TYPE_CHECKING

from kv.errors import KVError
from kv.expiry import KEEP_TTL, update_ttl_ms
from kv.keys import check_key
from kv.values import check_amount, plus

from .database import given
from .errors import code_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kv.backends.worker import Call
    from kv.expiry import TTL, Keep

    from .database import Database, Parameters
    from .store import SQLiteStore


class Get:
    """A `get` on its way: those of one namespace are read together."""

    __slots__ = ("default", "key", "store")

    def __init__(self, store: SQLiteStore, key: str, default: object) -> None:
        self.store = store
        self.key = check_key(key)
        self.default = default

    def __call__(self) -> object:
        return self.store.get(self.key, self.default)


class Sharing:
    """A write on its way, that can be done together with those that follow it.

    Attributes:
        shares: what those have in common that can; None: it goes alone.
    """

    __slots__ = ("shares",)

    shares: object

    @abstractmethod
    def __call__(self) -> object: ...

    @abstractmethod
    def together(self, writer: sqlite3.Connection, calls: list[Call]) -> None:
        """Do what calls with the same `shares` want, in their order, all or nothing, inside a transaction."""


class Write(Sharing):
    """A statement that gives nothing."""

    __slots__ = ("db", "parameters", "sql")

    def __init__(self, db: Database, sql: str, parameters: Parameters) -> None:
        self.db = db
        self.sql = self.shares = sql
        self.parameters = parameters

    def __call__(self) -> None:
        self.db.write(self.sql, self.parameters)

    def together(self, writer: sqlite3.Connection, calls: list[Call]) -> None:
        self.db.write_many(writer, self.sql, (given(call.run.parameters) for call in calls))


class Increment(Sharing):
    """An `increment`."""

    __slots__ = ("ages", "amount", "key", "store", "ttl", "ttl_if_new")

    def __init__(self, store: SQLiteStore, key: str, amount: int, ttl: TTL | Keep, ttl_if_new: TTL) -> None:
        self.store = store
        self.key = check_key(key)
        self.amount = check_amount(amount, key)
        self.ttl = ttl
        self.ttl_if_new = ttl_if_new
        self.ages = update_ttl_ms(ttl, ttl_if_new)
        there, created = self.ages  # where the first creates the entry and the second gives it another deadline: alone
        self.shares = (store._ns, self.ages) if there in (KEEP_TTL, created) else None

    def __call__(self) -> int:
        return self.store.increment(self.key, self.amount, ttl=self.ttl, ttl_if_new=self.ttl_if_new)

    def together(self, writer: sqlite3.Connection, calls: list[Call]) -> None:
        def add(values: dict[str, bytes]) -> dict[str, bytes]:
            for call in calls:
                key = call.run.key
                values[key] = plus(call.run.amount, key)(values.get(key))
                call.result = int(values[key])
            return values

        self.store._updating([*dict.fromkeys(call.run.key for call in calls)], add, self.ages)(writer)


class _Refused(Exception):
    """A shared statement failed; nothing has been written."""


def read(calls: list[Call]) -> None:
    """Run the calls; the gets of each namespace are one query, and so of one moment."""
    if len(calls) == 1:
        calls[0].execute()
        return
    gets: dict[str, list[Call]] = {}
    for call in calls:
        if isinstance(call.run, Get):
            gets.setdefault(call.run.store._ns, []).append(call)
        else:
            call.execute()
    for some in gets.values():
        _get([call for call in some if not call.future.cancelled()])


def _get(calls: list[Call]) -> None:
    try:
        found = calls[0].run.store._live([*dict.fromkeys(call.run.key for call in calls)]) if calls else {}
    except KVError:
        for call in calls:
            call.execute()
    else:
        for call in calls:
            call.result = found.get(call.run.key, call.run.default)


def write(db: Database, calls: list[Call]) -> None:
    """Run the calls in one transaction; each fails alone, but they are written together or not at all."""
    if len(calls) == 1:
        calls[0].execute()
        return
    try:
        try:
            db.transaction(lambda writer: _together(writer, calls))
        except _Refused:
            db.transaction(lambda writer: _each(writer, calls))
    except BaseException as e:
        full = isinstance(e.__cause__, sqlite3.Error) and code_of(e.__cause__) == sqlite3.SQLITE_FULL
        for call in calls:
            if full:  # nothing has been written, and what is too much together may not be so alone
                call.execute()
            elif call.error is None:  # else it has an error of its own
                call.error = e


def _together(writer: sqlite3.Connection, calls: list[Call]) -> None:
    for shares, some in groupby(calls, _shares):
        if shares is None:
            _each(writer, some)
        elif group := [call for call in some if not call.future.cancelled()]:
            try:
                group[0].run.together(writer, group)
            except KVError as e:
                raise _Refused from e


def _shares(call: Call) -> object:
    return call.run.shares if isinstance(call.run, Sharing) else None


def _each(writer: sqlite3.Connection, calls: Iterable[Call]) -> None:
    for call in calls:
        call.execute()
        if call.error and not writer.in_transaction:  # SQLite itself has rolled all of it back
            raise call.error
