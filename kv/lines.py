"""The lines of an export, and how each is made and checked. No I/O: `kv.transfer` reads and writes them."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any, Final, NoReturn, TypeAlias

from .errors import CorruptData, InvalidKey
from .keys import check_key, check_path, shown
from .store import Record

__all__ = ["Reader", "Writer", "decode_value", "encode_value"]

Path: TypeAlias = tuple[str, ...]
"""The names of nested namespaces."""

FIRST_LINE: Final = {"format": "anykv", "version": 1}
_LAST_DEADLINE: Final = 2**53  # what every reader of JSON holds exactly; 285,000 years from now
_FIELDS: Final = frozenset({"namespace", "key", "value", "base64", "expires_at"})

_parse = json.JSONDecoder().raw_decode
_quote = json.JSONEncoder(ensure_ascii=False).encode


def encode_value(value: bytes) -> tuple[str, str]:
    """Give the field's name and text that stand for a value in JSON."""
    try:
        return "value", value.decode()
    except UnicodeDecodeError:
        return "base64", base64.b64encode(value).decode()


def decode_value(fields: dict[str, Any]) -> bytes:
    """Give the value back.

    Raises:
        ValueError: there is not exactly one of `value` and `base64`, or it is not right.
    """
    text, encoded = fields.get("value"), fields.get("base64")
    if isinstance(text, str) and "base64" not in fields:
        return text.encode()
    if isinstance(encoded, str) and "value" not in fields:
        return base64.b64decode(encoded, validate=True)
    raise ValueError('there must be either "value" or "base64", and it must be a string')


class Writer:
    """Makes the lines of an export.

    Attributes:
        entries: how many have been written.
    """

    def __init__(self) -> None:
        self.entries = 0
        self._sha = hashlib.sha256()

    def begin(self) -> bytes:
        """Give the first line."""
        return self._hashed(_compact(FIRST_LINE))

    def page(self, path: Path, records: list[Record]) -> bytes:
        """Give the lines of some entries of one namespace."""
        start = f'{{"namespace":{json.dumps(path, ensure_ascii=False, separators=(",", ":"))},' if path else "{"
        lines = []
        for key, value, expires_at in records:
            field, text = encode_value(value)
            end = "}\n" if expires_at is None else f',"expires_at":{expires_at}}}\n'
            lines.append(f'{start}"key":{_quote(key)},"{field}":{_quote(text)}{end}')
        self.entries += len(lines)
        return self._hashed("".join(lines).encode())

    def end(self) -> bytes:
        """Give the last line."""
        return _compact({"end": True, "entries": self.entries, "sha256": self._sha.hexdigest()})

    def follow(self, reader: Reader) -> None:
        """Go on after the lines that the reader has read."""
        self.entries = reader.entries
        self._sha = reader.sha.copy()

    def _hashed(self, data: bytes) -> bytes:
        self._sha.update(data)
        return data


def _compact(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


class Reader:
    """Reads the lines of an export and checks each: form, keys, values, order, and at the end count and checksum.

    Args:
        name: what to call the file in messages.

    Attributes:
        entries: how many have been read.
        ended: whether the last line has been read, and all was well.
        last: namespace and key of the entry that was read last.
        sha: of all lines that have been read.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.entries = 0
        self.ended = False
        self.last: tuple[Path, str] = ((), "")
        self.sha = hashlib.sha256()
        self._line = 0
        self._names: object = ()

    def line(self, data: bytes) -> tuple[Path, Record] | None:
        """Read one line, its newline included. Gives the namespace and the entry, None for the first and last line.

        Raises:
            CorruptData: the line is not what an export has there.
        """
        self._line += 1
        if self._line == 1:
            self._check_first(data)
            entry = None
        elif self.ended:
            self._bad("there is more after the last line of the export")
        else:
            fields = self._fields(data)
            if "end" in fields:
                self._check_last(fields)
                entry = None
            else:
                entry = self._entry(fields)
        self.sha.update(data)
        return entry

    def finish(self) -> None:
        """Raise `CorruptData` unless the last line has been read."""
        if self._line == 0:
            raise CorruptData(f"{self.name} is empty, and an export of kv never is")
        if not self.ended:
            self._bad("the file ends here, without the last line of an export: it has been cut off")

    def _bad(self, what: str, cause: Exception | None = None) -> NoReturn:
        raise CorruptData(f"{self.name}, line {self._line:,}: {what}") from cause

    def _fields(self, data: bytes) -> dict[str, Any]:
        if not data.endswith(b"\n"):
            self._bad("the file ends in the middle of this line: it has been cut off")
        try:
            text = data.decode()
            fields, end = _parse(text)
        except UnicodeDecodeError as e:
            self._bad("not UTF-8", e)
        except (ValueError, RecursionError) as e:
            self._bad("not JSON", e)
        if not isinstance(fields, dict) or end != len(text) - 1:
            self._bad("not a JSON object and nothing else")
        return fields

    def _check_first(self, data: bytes) -> None:
        if data.startswith(b"\x1f\x8b"):
            self._bad("this is a gzip file; unpack it first: gzip -dc FILE | kv import -")
        try:
            fields = json.loads(data.decode())
        except (ValueError, RecursionError):
            fields = None
        if not isinstance(fields, dict) or fields.get("format") != FIRST_LINE["format"]:
            self._bad(f"this is not an export of kv, which begins with {_compact(FIRST_LINE).decode().strip()}")
        if fields.get("version") != FIRST_LINE["version"] or isinstance(fields["version"], bool):
            self._bad(
                f"version {fields.get('version')!r} of the format; this kv reads version 1, a newer one may read it"
            )
        self._fields(data)

    def _entry(self, fields: dict[str, Any]) -> tuple[Path, Record]:
        if not fields.keys() <= _FIELDS:
            unknown = sorted(fields.keys() - _FIELDS)
            more = f", and {len(unknown) - 5:,} more" if len(unknown) > 5 else ""
            self._bad(f"unknown fields: {', '.join(map(shown, unknown[:5]))}{more}")
        path = self._path(fields["namespace"]) if "namespace" in fields else ()
        expires_at = fields.get("expires_at")
        try:
            key = check_key(fields.get("key"))
            value = decode_value(fields)
            if "expires_at" in fields and not (type(expires_at) is int and 0 < expires_at <= _LAST_DEADLINE):
                raise ValueError('"expires_at" must be a number of milliseconds since 1970')
        except UnicodeEncodeError as e:
            self._bad("the value holds a lone surrogate", e)
        except ValueError as e:
            self._bad(str(e), e)
        here = (path, key)
        if here <= self.last:
            self._bad(f"the key {shown(key)} {'stands twice' if here == self.last else 'is not in order'}")
        self.last = here
        self.entries += 1
        return path, Record(key, value, expires_at)

    def _path(self, names: object) -> Path:
        if names == self._names:  # as on the line before
            return self.last[0]
        if not isinstance(names, list) or not names:
            self._bad('"namespace" must be a list of names')
        try:
            path = check_path(names)
        except InvalidKey as e:
            self._bad(str(e), e)
        self._names = names
        return path

    def _check_last(self, fields: dict[str, Any]) -> None:
        if fields.keys() != {"end", "entries", "sha256"} or fields["end"] is not True:
            self._bad("this is not the last line of an export")
        if fields["entries"] != self.entries or isinstance(fields["entries"], bool):
            self._bad(f"the export had {fields['entries']!r:.30} entries, and there are {self.entries:,} in the file")
        if fields["sha256"] != self.sha.hexdigest():
            self._bad("the checksum is not that of the lines before: the file is damaged or was edited")
        self.ended = True
