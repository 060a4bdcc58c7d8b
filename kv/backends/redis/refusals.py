"""Errors that are raised without a word of redis-py's, which need not be installed here. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kv.errors import ConfigError, Conflict, ValueTooLarge
from kv.values import not_an_integer, overflow

if TYPE_CHECKING:
    from kv.errors import KVError

MAX_VALUE: Final = 2**29
"""The most bytes of a value: 512 MiB, `proto-max-bulk-len` as it comes."""


def not_added(error: BaseException, key: str) -> KVError | None:
    """Give our error where `increment` met no integer, or left 64 bits; None where it is another one."""
    said = str(error)
    if "would overflow" in said:
        return overflow(key)
    return not_an_integer(key) if "not an integer or out of range" in said else None


def spread(shown: str) -> ConfigError:
    """The error for what a cluster cannot write in one step."""
    return ConfigError(
        f"{shown}: on a Redis Cluster set_many() and update_many() are atomic within one hash slot, and these keys are in "
        "several; nothing was written. Keys with the same {tag} share a slot, as {user:7}:name and {user:7}:cart do; a "
        "namespace whose name holds one keeps all its keys together"
    )


def conflict(shown: str, timeout: float) -> Conflict:
    """The error for an `update` that was overtaken for too long."""
    return Conflict(
        f"{shown}: for {timeout:g} s other writes were faster than the function given to update; its answer was not "
        "stored. Try again, or raise lock_timeout"
    )


def check_size(key: str, value: bytes) -> bytes:
    """Give the value back, or raise `ValueTooLarge`."""
    if len(value) > MAX_VALUE:
        raise ValueTooLarge(
            f"the value for {key[:80]!r} has {len(value):,} bytes; Redis holds up to {MAX_VALUE:,}. Nothing was written"
        )
    return value
