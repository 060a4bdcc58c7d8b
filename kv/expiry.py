"""Time to live: what a caller may say, in milliseconds, and the rule for `update`. Pure; each backend has its own clock.

One rule everywhere: an entry is missing from the instant `now >= deadline`, and a deadline is the clock at the write
plus the ttl.
"""

from __future__ import annotations

import enum
import math
import time
from datetime import timedelta
from typing import Final, Literal, TypeAlias

from .errors import CorruptData, InvalidTTL

__all__ = ["KEEP_TTL", "TTL", "KeepTTL"]

TTL: TypeAlias = float | int | timedelta | None
"""Seconds or a `timedelta`, kept to the millisecond, rounded up. None and `math.inf` mean never."""

MAX_TTL: Final = 10**12
"""The longest ttl, in seconds (31,700 years): what every clock here holds."""


class KeepTTL(enum.Enum):
    """The type of `KEEP_TTL`."""

    KEEP_TTL = "KEEP_TTL"

    def __repr__(self) -> str:
        return self.name


KEEP_TTL: Final = KeepTTL.KEEP_TTL
"""Keep the deadline that the entry has; a new entry has none."""

Keep: TypeAlias = Literal[KeepTTL.KEEP_TTL]


def ttl_ms(ttl: TTL) -> int | None:
    """Give the ttl in whole milliseconds, rounded up, or None for never; raise `InvalidTTL` for anything else."""
    if ttl is None:
        return None
    if isinstance(ttl, timedelta):
        micros = ttl // timedelta(microseconds=1)
    elif isinstance(ttl, bool) or not isinstance(ttl, int | float):
        raise InvalidTTL(f"ttl must be seconds (int or float), a timedelta or None, not {type(ttl).__name__}")
    elif ttl == math.inf:
        return None
    elif not ttl > 0:  # NaN too
        micros = 0
    else:
        # through microseconds, as timedelta does: 0.07 s is 70 ms, though the float is a little more
        micros = max(1, round(min(ttl, 2 * MAX_TTL) * 1_000_000))
    if micros <= 0:
        raise InvalidTTL("ttl must be more than zero; to remove an entry use delete()")
    if micros > MAX_TTL * 1_000_000:
        raise InvalidTTL(f"ttl may be {MAX_TTL:,} seconds at most; None means never")
    return -(-micros // 1000)


Ages: TypeAlias = tuple[int | Keep | None, int | None]
"""The ttl of an `update` in milliseconds: for an entry that is there, and for one that the call creates."""


def update_ttl_ms(ttl: TTL | Keep, ttl_if_new: TTL) -> Ages:
    """Give what `update` was told of ttl in milliseconds, or raise `InvalidTTL`."""
    there = KEEP_TTL if ttl is KEEP_TTL else ttl_ms(ttl)
    created = None if there is KEEP_TTL else there
    return there, created if ttl_if_new is None else ttl_ms(ttl_if_new)


def wall_ms() -> int:
    """The wall clock, in whole milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def wall_until(ms: int | None) -> int | None:
    """Give the deadline of what lives so many milliseconds from now on, by the wall clock; None: for ever."""
    return None if ms is None else wall_ms() + ms


def wall_past(expires_at: int | None) -> bool:
    """Give whether a deadline has come, by the wall clock, or raise `CorruptData` where it is none."""
    try:
        return expires_at is not None and wall_ms() >= expires_at
    except TypeError as e:
        raise CorruptData(
            "a deadline is of a type that nobody has written: the file is damaged; restore a backup, or see what "
            "`kv verify` names"
        ) from e
