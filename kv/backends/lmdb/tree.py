"""Entries inside one transaction of LMDB: found, written and walked over by their names, in layers where these are long."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import layout
from .layout import DUE, LAYER, LINK, PIECE

if TYPE_CHECKING:
    from collections.abc import Iterator

    import lmdb

    Transaction = lmdb.Transaction[memoryview]

_AT = len(LAYER) + 8
"""The bytes before a piece, but in the first layer."""


class Tree:
    """The entries as one transaction sees them.

    Attributes:
        txn: the transaction.
        own: whether it is for this alone, and not the one around it.
        changed: whether something has been written.
        torn: whether a part was cut off in its middle, so that the transaction must not be committed.
    """

    __slots__ = ("changed", "own", "torn", "txn")

    def __init__(self, txn: Transaction) -> None:
        self.txn = txn
        self.own = self.changed = self.torn = False

    def find(self, name: bytes) -> memoryview | None:
        """Give the record of a name, valid until the transaction writes or ends."""
        if len(name) <= PIECE:
            return self.txn.get(name)
        key = self._key(name)
        return None if key is None else self.txn.get(key)

    def _key(self, name: bytes) -> bytes | None:
        """Give the key of LMDB for a name; None where no layer leads to it."""
        at = b""
        while len(name) > PIECE:
            layer = self.txn.get(at + name[:PIECE] + LINK)
            if layer is None:
                return None
            at, name = LAYER + bytes(layer), name[PIECE:]
        return at + name

    def walk(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, memoryview]]:
        """Give the names from `start` on and before `stop`, in order, with their records."""
        return self._walk(start, stop, b"", b"")

    def _walk(self, start: bytes, stop: bytes, at: bytes, before: bytes) -> Iterator[tuple[bytes, memoryview]]:
        """The same of one layer: `start` is what comes behind `before`, which leads to it."""
        cursor = self.txn.cursor()
        if not cursor.set_range(at + (start if len(start) <= PIECE else start[:PIECE] + LINK)):
            return
        skip, most = len(at), len(at) + PIECE
        for key, record in cursor:
            name = bytes(key)
            if skip:
                if not name.startswith(at):
                    return
                name = before + name[skip:]
            if len(key) > most:
                name = name[:-1]
                inside = start[PIECE:] if start[:PIECE] == name[len(before) :] else b""
                yield from self._walk(inside, stop, LAYER + bytes(record), name)
                if name >= stop:
                    return
            elif name < stop:
                yield name, record
            else:
                return

    def put(self, name: bytes, expires_at: int | None, value: bytes) -> None:
        """Store an entry, whatever was there."""
        self.changed = True
        key = self._made(name)
        self._forget(key, self.txn.get(key))
        if expires_at is not None:
            self.txn.put(layout.due(expires_at, key), b"" if key == name else name)
        self.txn.put(key, layout.record(expires_at, value))

    def _made(self, name: bytes) -> bytes:
        """Give the key of LMDB for a name; make the layers that lead to it."""
        at = b""
        while len(name) > PIECE:
            link = at + name[:PIECE] + LINK
            layer = self.txn.get(link)
            if layer is None:
                last = self.txn.get(LAYER)
                number = (int.from_bytes(last, "big") + 1 if last else 1).to_bytes(8, "big")
                self.txn.put(LAYER, number)
                self.txn.put(link, number)
            else:
                number = bytes(layer)
            at, name = LAYER + number, name[PIECE:]
        return at + name

    def _forget(self, key: bytes, record: memoryview | None) -> None:
        if record and (expires_at := layout.deadline(record)) is not None:
            self.txn.delete(layout.due(expires_at, key))

    def remove(self, name: bytes) -> None:
        """Remove an entry that is there."""
        self.changed = True
        at, links = b"", []
        while len(name) > PIECE:
            links.append(at + name[:PIECE] + LINK)
            layer = self.txn.get(links[-1])
            assert layer is not None
            at, name = LAYER + bytes(layer), name[PIECE:]
        self._forget(at + name, self.txn.get(at + name))
        self.txn.delete(at + name)
        cursor = self.txn.cursor()
        for link in reversed(links):  # an empty layer goes too
            if cursor.set_range(at) and cursor.key()[: len(at)] == at:
                break
            self.txn.delete(link)
            at = link[:_AT] if link[:1] == LAYER else b""

    def due(self, now: int, limit: int) -> list[bytes]:
        """Give the names of entries whose deadline has come, the oldest first."""
        names: list[bytes] = []
        cursor, end = self.txn.cursor(), layout.due(now + 1)
        if cursor.set_range(DUE):
            for key, name in cursor:
                if len(names) == limit or bytes(key) >= end:
                    break
                names.append(bytes(name or key[len(end) :]))
        return names

    def listed(self, name: bytes, expires_at: int) -> bool:
        """Whether `cleanup` finds an entry by its deadline."""
        key = self._key(name)
        return key is not None and self.txn.get(layout.due(expires_at, key)) is not None
