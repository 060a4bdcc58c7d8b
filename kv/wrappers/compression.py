"""Values compressed where they are stored, with zstd.

What is stored is the value itself, but where zstd makes it smaller: then the byte F8 and a frame of zstd, which begins
with 28 B5 2F FD and ends with a checksum. A value that begins with F8 itself is stored with another F8 before it. No
UTF-8 begins so.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

from kv.errors import ConfigError, CorruptData
from kv.keys import shown
from kv.options import flag

from .base import AsyncWrapper, Wrapper
from .sealing import AsyncSealing, Sealed, Sealing

if TYPE_CHECKING:
    from kv.store import AsyncStore, Store

__all__ = ["AsyncCompressed", "Compressed"]

MARK: Final = b"\xf8"
_FRAME: Final = b"\x28\xb5\x2f\xfd"
LEVEL: Final = 3
MAX_LEVEL: Final = 22
THRESHOLD: Final = 128
LEAST: Final = 32
"""The least threshold: integers are shorter, so that `increment` finds them as they are."""
MAX_SIZE: Final = 1 << 30


class _Zstd(Sealed):
    """What both colours share."""

    def _configure(self, threshold: int, level: int, max_size: int) -> None:
        for name, value, least, most in (
            ("threshold", threshold, LEAST, sys.maxsize),
            ("level", level, 1, MAX_LEVEL),
            ("max_size", max_size, 1, sys.maxsize - 1),
        ):
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                raise ConfigError(
                    f"{name} of a compressed store is a whole number from {least}"
                    + (f" to {most}" if most < sys.maxsize - 1 else "")
                    + f", not {value!r}"
                )
        self._zstd = _library()
        self._threshold, self._max_size = threshold, max_size
        parameter = self._zstd.CompressionParameter
        self._options = {parameter.compression_level: level, parameter.checksum_flag: True}

    def _seal(self, key: str, value: bytes) -> bytes:  # noqa: ARG002 - others bind it
        if self._threshold <= len(value) <= self._max_size:
            packed: bytes = MARK + self._zstd.compress(value, options=self._options)
            if len(packed) < len(value):
                return packed
        return MARK + value if value.startswith(MARK) else value

    def _open(self, key: str, stored: bytes) -> bytes:
        if not stored.startswith(MARK):
            return stored
        if stored.startswith(MARK, 1):
            return stored[1:]
        if not stored.startswith(_FRAME, 1):
            raise _damaged(key, "it begins as one that is compressed, and is none")
        try:
            zstd = self._zstd.ZstdDecompressor()
            value: bytes = zstd.decompress(stored[1:], self._max_size + 1)
        except self._zstd.ZstdError as e:
            raise _damaged(key, "zstd does not open it") from e
        if len(value) > self._max_size:
            raise _damaged(key, f"it would be more than {self._max_size:,} bytes, which is max_size of this store")
        if not zstd.eof or zstd.unused_data:
            raise _damaged(key, "something is missing from its end" if not zstd.eof else "something stands behind it")
        return value


def _damaged(key: str, what: str) -> CorruptData:
    return CorruptData(f"the compressed value of {shown(key)} does not open: {what}")


def check_level(value: object) -> int | None:
    """Give the level that the option `compress` asks for, None where it is off."""
    _library()
    level = LEVEL if value is True else 0 if value is False else -1
    if isinstance(value, str | int) and level < 0:
        text = str(value)
        level = int(text) if text.isdecimal() else LEVEL if flag(text) else 0
    if not 0 <= level <= MAX_LEVEL:
        raise ValueError(f"expected true, false, or a level from 1 to {MAX_LEVEL}")
    return level or None


def _library() -> Any:
    """Give zstd: the standard library's, or the same for a Python that has none."""
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError as e:
        raise ConfigError(
            'compression needs backports.zstd, which is not installed: pip install "anykv[compression]"'
        ) from e
    return zstd


class Compressed(_Zstd, Sealing):
    """A `Store` whose values are compressed in the store inside, where that makes them smaller.

    Needs `pip install "anykv[compression]"`, and nothing from Python 3.14 on. What is stored is never more than one byte
    larger than the value. `increment` and what does not read values are the store's own; `compare_and_set` and `pop` are
    done by `update`; `size` and `stats` read the values.

    It may be put around a store that has entries, as long as none begins with the byte F8, as MessagePack of -8 does
    and no text.

    Args:
        store: what it stands around. Closing this closes it.
        threshold: shorter values are stored as they are; bytes, at least 32.
        level: how hard zstd tries, 1 to 22.
        max_size: no more bytes than this are made of a value that is stored, so that a forged one does not fill the
            memory; larger ones are `CorruptData`. Values of more are stored as they are.

    Raises:
        ConfigError: an argument is out of its range, or zstd is not installed.
    """

    def __init__(
        self, store: Store, *, threshold: int = THRESHOLD, level: int = LEVEL, max_size: int = MAX_SIZE
    ) -> None:
        super().__init__(store)
        self._configure(threshold, level, max_size)

    increment = Wrapper.increment  # of integers, which are stored as they are


class AsyncCompressed(_Zstd, AsyncSealing):
    """See `Compressed`."""

    def __init__(
        self, store: AsyncStore, *, threshold: int = THRESHOLD, level: int = LEVEL, max_size: int = MAX_SIZE
    ) -> None:
        super().__init__(store)
        self._configure(threshold, level, max_size)

    increment = AsyncWrapper.increment
