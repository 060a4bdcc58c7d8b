"""What lies in the file: names, deadlines and values as LMDB's keys and values. Pure.

An entry's name is its namespace, a zero byte and its key. LMDB's keys are short, so a name is cut into pieces: one of
a single piece is a key of LMDB as it stands; of a longer one the first piece leads to a layer of its own, where the rest
lies in the same way. So LMDB's order is that of the names, however long they are, and nothing is hashed.
"""

from __future__ import annotations

from typing import Final

from kv.keys import SEPARATOR

MARK: Final = b"\x03anykv"
"""The key of the version: whose file it is. All is in LMDB's main database."""
VERSION: Final = b"1"

PIECE: Final = 480
"""The bytes of a piece. With a layer and a deadline before it, it is still within the 511 bytes of LMDB's keys."""
LINK: Final = b"\x00"
"""Behind a piece: here the value is the layer of the rest. Sorts behind the piece alone, and before all else."""
LAYER: Final = b"\x01"
"""Before the number of a layer, and the pieces in it; no name begins with it. By itself: the highest number so far."""
DUE: Final = b"\x02"
"""Before a deadline, and the key of what expires then: for `cleanup`."""
NAMES: Final = ((b"\x00", b"\x01"), (b"\x20", b"\xff"))
"""The ranges of all names: of the root's entries, and of those in namespaces."""
FOREVER: Final = b"\x00"
UNTIL: Final = b"\x01"
"""Before a value without a deadline, and before a deadline and a value."""


def head(path: tuple[str, ...]) -> bytes:
    """What the names of all entries of a namespace begin with."""
    return SEPARATOR.join(path).encode() + b"\x00"


def end(head: bytes) -> bytes:
    """The first name behind all that begin with this, which ends in a byte of ASCII."""
    return head[:-1] + bytes([head[-1] + 1])


def record(expires_at: int | None, value: bytes) -> bytes:
    """Give what is stored under a name."""
    return FOREVER + value if expires_at is None else UNTIL + expires_at.to_bytes(8, "big") + value


def deadline(record: memoryview) -> int | None:
    """Give the deadline in a record, in milliseconds since 1970."""
    return int.from_bytes(record[1:9], "big") if record[0] else None


def value(record: memoryview) -> bytes:
    """Give the value in a record."""
    return bytes(record[9 if record[0] else 1 :])


def size(record: memoryview) -> int:
    """Give the bytes of the value in a record."""
    return len(record) - (9 if record[0] else 1)


def due(expires_at: int, key: bytes = b"") -> bytes:
    """Give the key by which `cleanup` finds an entry with this key of LMDB. Its value is the name, where that is longer."""
    return DUE + expires_at.to_bytes(8, "big") + key
