"""What adapters store: facts of their own, as JSON, and before or without a payload of the user's. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final, cast

from kv.errors import CorruptData
from kv.keys import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    Facts = dict[str, object]

_HEAD: Final = b"\x02"
"""Before the facts: neither JSON nor what `kv.codecs` writes begins with it."""

_write = json.JSONEncoder(separators=(",", ":")).encode


def pack(facts: Mapping[str, object], payload: bytes = b"") -> bytes:
    """Give facts and a payload as one value."""
    return b"%b%b\n%b" % (_HEAD, _write(facts).encode(), payload)


def unpack(value: bytes, key: str, what: str) -> tuple[Facts, bytes]:
    """Give the facts and the payload of a value, or raise `CorruptData` where it is not `what`, as in "a session"."""
    facts, end, payload = value.partition(b"\n")
    try:
        if end and facts.startswith(_HEAD) and isinstance(found := json.loads(facts[1:]), dict):
            return cast("Facts", found), payload
    except ValueError:
        pass
    raise foreign(key, what)


def foreign(key: str, what: str) -> CorruptData:
    """The error for a value that somebody else wrote."""
    return CorruptData(f"what is stored for {shown(key)} is not {what}; it was left as it is")
