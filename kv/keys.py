"""Keys, namespaces, prefixes and the one glob: pure functions, the same for every backend.

A key is valid or not before any backend sees it, so no backend has rules of its own. Strings compare by code point in
Python, which is the order of their UTF-8 bytes, which is the order every backend lists in.
"""

from __future__ import annotations

import re
import struct
from itertools import groupby, islice
from typing import TYPE_CHECKING, Final

from .errors import InvalidKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

MAX_KEY: Final = 2_048
"""The longest key, in bytes of UTF-8."""
MAX_NAME: Final = 255
"""The longest namespace name, in bytes of UTF-8."""
MAX_PATH: Final = 1_024
"""The longest path of nested namespaces, in bytes of UTF-8, one between two names counted in."""

SEPARATOR: Final = "\x1f"
"""Between the names of a path, where a backend stores it as one string: no name can hold it."""

_forbidden = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]").search


def shown(text: str) -> str:
    """Give a key for a message, not all of a long one."""
    return repr(text) if len(text) <= 80 else f"{text[:77]!r}... ({len(text):,} characters)"


def _check(text: object, what: str, longest: int) -> str:
    if not isinstance(text, str):
        raise InvalidKey(f"{what} must be a str, not {type(text).__name__}")
    if type(text) is not str:
        text = str.__str__(text)  # a subclass may compare or hash in its own way
    if text.isascii() and text.isprintable() and len(text) <= longest:
        return text
    if bad := _forbidden(text):
        kind = "a lone surrogate" if bad[0] >= "\ud800" else "a control character"
        if "\udc80" <= bad[0] <= "\udcff":
            kind += " (of a byte that is not UTF-8)"
        raise InvalidKey(f"{what} {shown(text)} holds {kind}, U+{ord(bad[0]):04X}, at index {bad.start()}")
    if (size := len(text.encode())) > longest:
        raise InvalidKey(f"{what} {shown(text)} is {size:,} bytes of UTF-8; at most {longest:,} are allowed")
    return text


def check_key(key: object, what: str = "key") -> str:
    """Give the key back as a plain `str`, or raise `InvalidKey`."""
    text = _check(key, what, MAX_KEY)
    if not text:
        raise InvalidKey(f"{what} is empty; it must be 1 to {MAX_KEY:,} bytes of UTF-8")
    return text


def check_keys(keys: Iterable[str]) -> list[str]:
    """Give the keys back, each once, in the order asked, or raise `InvalidKey`."""
    if isinstance(keys, str):
        raise InvalidKey(f"keys must be an iterable of keys, not the one str {shown(keys)}; did you mean [key]?")
    try:
        return list(dict.fromkeys(map(check_key, keys)))
    except TypeError as e:
        if isinstance(e, InvalidKey) or hasattr(keys, "__iter__"):
            raise
        raise InvalidKey(f"keys must be an iterable of str, not {type(keys).__name__}") from None


def check_path(names: Iterable[object]) -> tuple[str, ...]:
    """Give the names of nested namespaces back, or raise `InvalidKey`."""
    if not hasattr(names, "__iter__"):
        raise InvalidKey(f"namespace must be a str, or the names of nested ones, not {type(names).__name__}")
    path = tuple(_check(name, "namespace", MAX_NAME) for name in names)
    if "" in path:
        raise InvalidKey(f"namespace is empty; it must be 1 to {MAX_NAME} bytes of UTF-8")
    if (size := len(SEPARATOR.join(path).encode())) > MAX_PATH:
        raise InvalidKey(
            f"namespace path {'/'.join(path)[:60]!r}... is {size:,} bytes; at most {MAX_PATH:,} are allowed"
        )
    return path


def check_limit(limit: int | None) -> int | None:
    """Give the limit back, or raise `TypeError` or, where it is negative, `ValueError`."""
    if limit is None:
        return None
    if not isinstance(limit, int) or isinstance(limit, bool):
        raise TypeError(f"limit must be an int or None, not {type(limit).__name__}")
    if limit < 0:
        raise ValueError(f"limit must not be negative, and is {limit}")
    return limit


def fnv1a_64(data: bytes) -> int:
    """FNV-1a, 64 bits, as a signed integer, so that it fits a `BIGINT`. About 50 ns a byte."""
    h = 0xCBF29CE484222325
    for byte in data:
        h = ((h ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return h - (1 << 64) if h >> 63 else h


_OFFSET: Final = 0xCBF29CE484222325
_PRIME: Final = 0x100000001B3
_LANE: Final = 14
"""Bytes of a lane: 64 bits times 41 never leave it."""
_LANES: Final = 1_024
"""So many are hashed in one number."""


def fnv1a_64_many(texts: Sequence[bytes]) -> list[int]:
    """`fnv1a_64` of each. Of many about 20 ns a byte: they are lanes of one number."""
    hashes = [0] * len(texts)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    for begin in range(0, len(order), _LANES):
        places = order[begin : begin + _LANES]
        some = [texts[i] for i in places]
        for i, h in zip(places, map(fnv1a_64, some) if len(some) < 32 else _side_by_side(some), strict=True):
            hashes[i] = h
    return hashes


def _side_by_side(texts: list[bytes]) -> Iterator[int]:
    """Hash texts that get no shorter; the lanes of those that are at their end leave the number at its low end."""
    longest, left = len(texts[-1]), len(texts)
    every = b"".join([text.ljust(longest) for text in texts])
    low_halves = int.from_bytes((b"\xff" * 8).ljust(_LANE, b"\0") * left, "little")
    lanes = int.from_bytes(_OFFSET.to_bytes(_LANE, "little") * left, "little")
    at = 0
    for size, group in groupby(texts, len):
        for i in range(at, size):
            column = bytearray(_LANE * left)
            column[::_LANE] = every[i - longest * left :: longest]  # of the last that are left
            lanes = ((lanes ^ int.from_bytes(column, "little")) * _PRIME) & low_halves
        at, count = size, len([*group])
        bits = 8 * _LANE * count
        yield from struct.unpack(f"<{'q6x' * count}", (lanes & ((1 << bits) - 1)).to_bytes(_LANE * count, "little"))
        lanes, low_halves, left = lanes >> bits, low_halves >> bits, left - count


def prefix_end(prefix: str) -> str | None:
    """The first string, by code point, after all that begin with `prefix`; None where there is none."""
    while prefix:
        last = ord(prefix[-1])
        if last < 0x10FFFF:
            return prefix[:-1] + chr(0xE000 if last == 0xD7FF else last + 1)  # no surrogates in UTF-8
        prefix = prefix[:-1]
    return None


class Glob:
    """A compiled pattern: `*`, `?`, `[abc]`, `[a-z]`, `[!a]`; a backslash outside a class escapes the next character.

    `]` first in a class, `^` anywhere, an unclosed `[` and a final backslash are themselves. Over the whole key,
    case-sensitive, in time linear in key times pattern; a pattern that only what is longer than a key could match is
    not even compiled, so that one of any length costs no more than reading it.

    Attributes:
        head: the literal text that every match begins with.
        matches: whether a key matches.
    """

    __slots__ = ("head", "matches")

    def __init__(self, pattern: str) -> None:
        self.head, (first, *rest), least = _parse(pattern)
        if least > MAX_KEY:
            self.matches: Callable[[str], bool] = lambda _: False
            return
        # Each part between two stars is matched at its leftmost place and never tried again elsewhere (an atomic
        # group): that is complete for globs, and it is what keeps the time bounded.
        regex = (
            first + "".join(f"(?>.*?{part})" for part in rest[:-1] if part) + "".join(f".*{part}" for part in rest[-1:])
        )
        fullmatch = re.compile(regex, re.DOTALL).fullmatch
        self.matches = lambda key: fullmatch(key) is not None


def _parse(pattern: str) -> tuple[str, list[str], int]:
    """Give the literal head, regular expressions for the parts between the stars, and how long a match is at least."""
    head, in_head = "", True
    parts = [""]
    i = least = 0
    while i < len(pattern) and least <= MAX_KEY:
        least += pattern[i] != "*"
        char = pattern[i]
        i += 1
        if char == "*":
            parts.append("")
        elif char == "?":
            parts[-1] += "."
        elif char == "[" and (end := pattern.find("]", i + 2 if pattern.startswith("!", i) else i + 1)) >= 0:
            parts[-1] += _char_class(pattern[i:end])
            i = end + 1
        else:
            if char == "\\" and i < len(pattern):
                char = pattern[i]
                i += 1
            parts[-1] += re.escape(char)
            head += char if in_head else ""
            continue
        in_head = False
    return head, parts, least


def _char_class(body: str) -> str:
    """What stands between `[` and `]`, as a regular expression."""
    negated = body.startswith("!")
    chars = body[1:] if negated else body
    ranges = []
    i = 0
    while i < len(chars):
        low = high = chars[i]
        if chars.startswith("-", i + 1) and i + 2 < len(chars):
            high = chars[i + 2]
            i += 2
        i += 1
        if low <= high:  # a reversed range holds nothing
            ranges.append(f"{re.escape(low)}-{re.escape(high)}")
    if not ranges:
        return "." if negated else "(?!)"
    return f"[{'^' if negated else ''}{''.join(ranges)}]"


class Listing:
    """What `keys`, `scan` and `count` were asked for, checked, as a range that any sorted engine can read.

    Attributes:
        head: what all that may be given begin with.
        start: the first string that may be given.
        stop: the first string after all that may be given, or None for no end.
        limit: how many to give at most, or None for all.
        matches: the glob, or None where the range alone decides.

    Raises:
        InvalidKey: a prefix, `after` or `match` that is not a `str`, or that no key could ever begin with.
        ValueError: a negative limit.
    """

    __slots__ = ("head", "limit", "matches", "start", "stop")

    def __init__(
        self, prefix: str = "", match: str | None = None, after: str | None = None, limit: int | None = None
    ) -> None:
        prefix = _check(prefix, "prefix", MAX_KEY)
        self.limit = check_limit(limit)
        self.matches: Callable[[str], bool] | None = None
        head = prefix
        if match is not None:
            if not isinstance(match, str):
                raise InvalidKey(f"match must be a str, not {type(match).__name__}")
            glob = Glob(match)
            self.matches = glob.matches
            if glob.head.startswith(prefix):
                head = glob.head
            elif not prefix.startswith(glob.head):
                self.limit = 0
            if _forbidden(head):  # no key holds it, and no engine needs to be asked
                head, self.limit = "", 0
        self.head = self.start = head
        self.stop = prefix_end(head)
        if after is not None and _check(after, "after", MAX_KEY):
            self.go_on_after(after)

    def go_on_after(self, key: str) -> None:
        """Leave out what comes before the key, and the key."""
        self.start = max(self.start, key + "\x01")  # no key holds U+0001, so none lies between

    @property
    def empty(self) -> bool:
        """Whether nothing can match, so that there is no need to ask."""
        return self.limit == 0 or (self.stop is not None and self.start >= self.stop)

    def first(self, page: int) -> int:
        """Give how many entries to read at first: a page, or as many as are asked for, where each in the range is given."""
        return page if self.limit is None or self.matches else min(page, self.limit)

    def pick(self, keys: Iterable[str]) -> list[str]:
        """Of the sorted keys between `start` and `stop`, those asked for. Reads no further than it must."""
        return list(islice(filter(self.matches, keys) if self.matches else keys, self.limit))

    def pick_entries(self, entries: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
        """As `pick`, of entries, one at a time."""
        matches = self.matches
        return islice((entry for entry in entries if matches(entry[0])) if matches else entries, self.limit)
