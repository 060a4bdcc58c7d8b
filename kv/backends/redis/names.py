"""What entries are called in Redis: `kv:user:1`-like names that people can read, and no two of which are one. Pure.

    kv::user:1                key "user:1" of the root
    kv:tenant1:user:1         key "user:1" of namespace "tenant1"
    kv:tenant1/a%3Ab:user:1   key "user:1" of namespace "a:b" in "tenant1"

The prefix, `kv`, ends at the first colon, the path at the second, and all behind that is the key as it stands. A percent
sign, a colon and a slash in a namespace's name are written as in a URL. What is not of this form is somebody else's.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from kv.errors import ConfigError, InvalidKey
from kv.keys import MAX_NAME, check_key, check_path

if TYPE_CHECKING:
    from collections.abc import Iterable

_WILD: Final = re.compile(rb"[*?\[\]\\]")
"""What Redis' own glob reads as something else than itself."""


def check_prefix(prefix: object) -> str:
    """Give the prefix back, or raise `ConfigError`."""
    try:
        text = check_key(prefix, "prefix")
    except InvalidKey as e:
        raise ConfigError(str(e)) from None
    if ":" in text or len(text.encode()) > MAX_NAME:
        raise ConfigError(f"prefix={text[:80]!r}: expected up to {MAX_NAME} bytes without a colon, which ends it")
    return text


def _escaped(name: str) -> str:
    return name.replace("%", "%25").replace(":", "%3A").replace("/", "%2F")


def _unescaped(text: str) -> str:
    return text.replace("%2F", "/").replace("%3A", ":").replace("%25", "%")


def literal(name: str, then: bytes = b"") -> bytes:
    """Give a pattern of Redis that matches what begins with this, and goes on by the pattern `then`."""
    return _WILD.sub(rb"\\\g<0>", name.encode()) + then + b"*"


class Names:
    """The names of one namespace's entries.

    Attributes:
        way: the path, as it stands in them.
        head: what all of them begin with.
        below: what those of the namespaces inside it begin with.
        everything: a pattern of both.
    """

    def __init__(self, prefix: str, path: tuple[str, ...]) -> None:
        way = "/".join(map(_escaped, path))
        self.head = f"{prefix}:{way}:"
        self.below = f"{prefix}:{way}/" if path else f"{prefix}:"
        self.way = way.encode()
        self.everything = literal(f"{prefix}:{way}", b"[:/]" if path else b"")
        self._head_size = len(self.head.encode())
        self._below_size = len(self.below.encode())

    def of(self, key: str) -> bytes:
        """Give the name of a key, or raise `InvalidKey`."""
        return (self.head + check_key(key)).encode()

    def many(self, keys: list[str]) -> list[bytes]:
        """Give the names of keys that have been checked."""
        head = self.head
        return [(head + key).encode() for key in keys]

    def key(self, name: bytes) -> str | None:
        """Give the key that a name with this head is of; None where it is no key."""
        try:
            return check_key(name[self._head_size :].decode())
        except (InvalidKey, UnicodeDecodeError):
            return None

    def child(self, name: bytes) -> str | None:
        """Give the namespace directly below that an entry is in, or in one inside that; None where it is in none."""
        found = _parsed(name[self._below_size :])
        return found[0] if found else None


def by_way(prefix: str, names: Iterable[bytes]) -> dict[bytes, list[bytes]]:
    """Give the names of each namespace, by the `way` of its `Names`."""
    begin = len(prefix.encode()) + 1
    found: dict[bytes, list[bytes]] = {}
    for name in names:
        found.setdefault(name[begin:].partition(b":")[0], []).append(name)
    return found


def is_entry(prefix: str, name: bytes) -> bool:
    """Whether this could be the name of an entry."""
    return _parsed(name[len(prefix.encode()) + 1 :]) is not None


def _parsed(rest: bytes) -> tuple[str, ...] | None:
    """Give the path that stands before a key, both as nobody but `Names` writes them."""
    try:
        way, colon, key = rest.decode().partition(":")
        path = check_path(map(_unescaped, way.split("/"))) if way else ()
        check_key(key)
    except (InvalidKey, UnicodeDecodeError):
        return None
    return path if colon and "/".join(map(_escaped, path)) == way else None
