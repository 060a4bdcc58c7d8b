"""Trees of entries, and their exports."""

from __future__ import annotations

import hashlib
import io
import json
from typing import TYPE_CHECKING, Any

import kv
from kv import transfer
from kv.store import Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Contents = dict[tuple[str, ...], dict[str, tuple[bytes, int | None]]]

LATER = 4_102_444_800_000
"""2100-01-01, in milliseconds."""

KEYS = [
    "a",
    "a b",
    "a:b",
    "a%",
    "a_",
    "A",
    "é",
    "日本",
    "\U0001f600",
    "\\",
    '"',
    "\u2028",
    "\ue000",
    "\U0010ffff",
    "x" * 2048,
]
VALUES = [
    b"",
    b"text",
    b"\xff\x00\xfe",
    'é\n\t"\\\u2028\U0001f600'.encode(),
    b"\x00",
    b"\xed\xa0\x80",
    bytes(range(256)),
]
TREE: Contents = {
    (): {key: (VALUES[i % len(VALUES)], None) for i, key in enumerate(KEYS)},
    ("a",): {"k": (b"1", LATER), "l": (b"\xff", LATER + 1)},
    ("a", "b"): {"k": (b"2", None)},
    ("a b",): {"k": (b"3", None)},
    ("a:b", "empty above"): {"k": (b"4", None)},
    ("日本",): {"k": (b"5", LATER)},
}
MANY: Contents = {
    (): {f"{n:05}": (b"%d" % n, None) for n in range(2_000)},
    ("n",): {f"{n:05}": (b"", LATER + n) for n in range(0, 2_000, 2)},
}
SMALL: Contents = {
    (): {"greeting": (b"hello", None), "logo": (b"\x89PNG", LATER)},
    ("tenant1", "cache"): {"a": ("é\n".encode(), None)},
}
SMALL_TEXT = b"""\
{"format":"anykv","version":1}
{"key":"greeting","value":"hello"}
{"key":"logo","base64":"iVBORw==","expires_at":4102444800000}
{"namespace":["tenant1","cache"],"key":"a","value":"\xc3\xa9\\n"}
"""


def at(store: kv.Store, path: Iterable[str]) -> Any:
    for name in path:
        store = store.namespace(name)
    return store


def fill(store: kv.Store, tree: Contents) -> kv.Store:
    for path, entries in tree.items():
        at(store, path)._load([Record(key, value, until) for key, (value, until) in entries.items()])
    return store


def contents(store: kv.Store, path: tuple[str, ...] = ()) -> Contents:
    here = at(store, path)
    found = {key: (value, until) for page in here._records(None) for key, value, until in page}
    tree: Contents = {path: found} if found else {}
    for name in here.namespaces():
        tree |= contents(store, (*path, name))
    return tree


def exported(store: kv.Store) -> bytes:
    out = io.BytesIO()
    transfer.export(store, out)
    return out.getvalue()


def signed(*lines: str | bytes | Mapping[str, Any], entries: object = None) -> bytes:
    """An export of these lines, with the right first and last line."""
    data = b'{"format":"anykv","version":1}\n'
    for line in lines:
        text = json.dumps(line) if not isinstance(line, str | bytes) else line
        data += (text.encode() if isinstance(text, str) else text) + b"\n"
    count = len(lines) if entries is None else entries
    return (
        data + json.dumps({"end": True, "entries": count, "sha256": hashlib.sha256(data).hexdigest()}).encode() + b"\n"
    )


def load(store: kv.Store, data: bytes, **options: Any) -> transfer.Moved:
    return transfer.import_file(store, io.BytesIO(data), **options)
