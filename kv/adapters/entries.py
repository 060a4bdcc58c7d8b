"""What a cache stores for a key, and what may be done with it: a value, a lease of who makes the next one, or both. Pure.

A lease is there from before a factory runs until its value is stored. What makes values old (`delete`, `set`, `clear`, an
invalidated tag) takes it away, or makes it invalid, and who finds his lease gone stores nothing. So no factory's value
outlives a change that was made while it ran.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from kv.values import Unchanged

from .records import foreign, pack, unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Stamps = Mapping[str, str]
    """What stands for each tag: a random one, until the tag is invalidated; then another, or none."""


class Lease(NamedTuple):
    """Somebody's right to store a value."""

    token: str
    until: float
    """By then he should have done it; others wait no longer."""
    stamps: Stamps
    """Those of the value's tags, read before it was made."""


class Cached(NamedTuple):
    """A value, as the codec wrote it."""

    payload: bytes
    fresh_until: float
    """`math.inf`: as long as it is there."""
    stamps: Stamps


class Entry(NamedTuple):
    """What is stored for a key."""

    cached: Cached | None = None
    lease: Lease | None = None

    def pack(self) -> bytes:
        """Give it as it is stored."""
        facts: dict[str, object] = {}
        payload = b""
        if self.cached is not None:
            payload, until, stamps = self.cached
            facts["value"] = [None if until == math.inf else until, stamps]
        if self.lease is not None:
            facts["lease"] = self.lease
        return pack(facts, payload)

    def tags(self) -> set[str]:
        """Give the tags whose stamps tell whether it is valid."""
        return {*(self.cached.stamps if self.cached else ()), *(self.lease.stamps if self.lease else ())}

    def checked(self, current: Stamps) -> Entry:
        """Give what is valid of it."""
        return Entry(
            self.cached if self.cached and _stand(self.cached.stamps, current) else None,
            self.lease if self.lease and _stand(self.lease.stamps, current) else None,
        )


def _stand(stamps: Stamps, current: Stamps) -> bool:
    return all(current.get(tag) == stamp for tag, stamp in stamps.items())


def read(value: bytes | None, key: str) -> Entry:
    """Give what is stored, an empty entry for what is missing, or raise `CorruptData`."""
    if value is None:
        return Entry()
    facts, payload = unpack(value, key, "a cache's")
    cached = lease = None
    match facts.get("value"):
        case [float() | int() | None as until, dict() as stamps]:
            cached = Cached(payload, math.inf if until is None else until, stamps)
        case None:
            pass
        case _:
            raise foreign(key, "a cache's")
    match facts.get("lease"):
        case [str() as token, float() | int() as end, dict() as stamps]:
            lease = Lease(token, end, stamps)
        case None:
            pass
        case _:
            raise foreign(key, "a cache's")
    if cached is None and lease is None:
        raise foreign(key, "a cache's")
    return Entry(cached, lease)


class Found(NamedTuple):
    """What was there at one look."""

    raw: bytes | None
    """As it is stored."""
    entry: Entry
    """What is valid of it."""
    now: float

    def payload(self, stale: float = 0.0) -> bytes | None:
        """Give the value's where it is fresh, or has been stale for less than so many seconds."""
        cached = self.entry.cached
        return cached.payload if cached and self.now < cached.fresh_until + stale else None

    @property
    def token(self) -> str | None:
        """That of the lease."""
        return self.entry.lease.token if self.entry.lease else None

    def held(self, tags: frozenset[str]) -> Lease | None:
        """Give the lease where it is for a value of these tags."""
        lease = self.entry.lease
        return lease if lease and lease.stamps.keys() == tags else None


def filled(key: str, token: str, new: bytes) -> Callable[[bytes | None], bytes]:
    """Give the function for `update` that stores a value where the lease is there, and raises `Unchanged` where not."""

    def fn(current: bytes | None) -> bytes:
        lease = read(current, key).lease
        if lease is None or lease.token != token:
            raise Unchanged
        return new

    return fn
