"""What Redis and redis-py say when something is wrong, in our words. Pure."""

from __future__ import annotations

import re
from typing import Final

from redis import exceptions

from kv.errors import (
    BackendError,
    ConfigError,
    CorruptData,
    KVError,
    OutcomeUnknown,
    Unavailable,
    ValueTooLarge,
)

from .refusals import spread

DRIVER_ERRORS: Final = (exceptions.RedisError, OSError, exceptions.RedisClusterException)

_REFUSED: Final = (
    ("READONLY", "it is a replica; connect to the primary"),
    ("OOM", "its memory is full; see maxmemory and maxmemory-policy"),
    ("LOADING", "it is loading its data; try again"),
    ("BUSY", "a script of somebody else keeps it busy; try again, or see SCRIPT KILL"),
    ("MISCONF", "it cannot save to its disk; see its log"),
    ("NOREPLICAS", "it has fewer replicas than min-replicas-to-write"),
    ("MASTERDOWN", "its primary is down; try again"),
    ("CLUSTERDOWN", "a part of the cluster is down; try again when it has failed over"),
    ("TRYAGAIN", "slots are being moved; try again"),
    ("MOVED", "slots are being moved, and its servers do not agree where to; try again"),
    ("NOAUTH", "see the user and the password"),
    ("WRONGPASS", "see the user and the password"),
    ("NOPERM", "see ACL LIST: the store needs its keys, and SCAN, EVALSHA, EVAL, TIME and INFO"),
)
"""How a server refuses before anything is done, and what may help."""

_CODES: Final = {  # redis-py cuts the code off where it has a class for it
    exceptions.ReadOnlyError: "READONLY",
    exceptions.OutOfMemoryError: "OOM",
    exceptions.BusyLoadingError: "LOADING",
    exceptions.MasterDownError: "MASTERDOWN",
    exceptions.ClusterDownError: "CLUSTERDOWN",
    exceptions.TryAgainError: "TRYAGAIN",
    exceptions.AskError: "MOVED",
    exceptions.AuthenticationError: "NOAUTH",
    exceptions.NoPermissionError: "NOPERM",
}


def code(error: BaseException) -> str:
    """Give the word by which Redis calls an error; "" where it is the driver's or the system's."""
    if isinstance(error.__context__, exceptions.ReadOnlyError):  # what a Sentinel's connection makes something else of
        return "READONLY"
    for cls, name in _CODES.items():
        if isinstance(error, cls):
            return name
    said = str(error) if isinstance(error, exceptions.ResponseError) else ""
    if said.startswith(("The user executing the script", "ACL failure in script")):  # there is no word for that
        return "NOPERM"
    first = said.partition(" ")[0]
    return first if first.isupper() else ""


def lost(error: BaseException) -> bool:
    """Whether the connection is gone, and nobody can say what the server has done."""
    return not isinstance(error, exceptions.ResponseError) and not code(error)


def exhausted(error: BaseException | None) -> bool:
    """Whether somebody else's pool has no connection left."""
    return isinstance(error, exceptions.MaxConnectionsError) or str(error).startswith(
        ("Too many connections", "No connection available")
    )


def connecting(error: BaseException, shown: str) -> KVError:
    """Give our error for one that came while connecting."""
    said, line = code(error), _line(error)
    for name, hint in _REFUSED:
        if name == said:
            return Unavailable(f"{shown}: the server refuses ({line}); {hint}")
    if exhausted(error):
        return Unavailable(f"{shown} has no connection left ({line}); try again, or raise its max_connections")
    if "cluster support disabled" in str(error):
        return ConfigError(f"{shown} is no Redis Cluster; take redis:// or rediss://")
    if "Invalid Database" in str(error) or "DB index" in str(error):
        return ConfigError(f"{shown}: the server has no such database number ({line}); see `databases` there")
    return Unavailable(f"{shown} cannot be reached: {line}; see that the server runs, and its host and port")


def ours(error: BaseException, shown: str, *, writes: bool, about: str = "") -> KVError:
    """Give our error for one of the server's or the driver's.

    Args:
        error: what was raised.
        shown: the store, for the message.
        writes: whether something may have been written when it came.
        about: the keys, for the message.
    """
    if lost(error):
        if writes:
            return OutcomeUnknown(
                f"{shown}: the connection was lost during a write ({_line(error)}), which may or may not have happened; "
                "read before you try again"
            )
        return Unavailable(f"{shown}: the connection was lost ({_line(error)}), and nothing was written; try again")
    name, said = code(error), _line(error)
    for refused, hint in _REFUSED:
        if name == refused:
            return Unavailable(f"{shown}: the server refuses ({said}), and nothing was changed; {hint}")
    if name == "WRONGTYPE":
        return CorruptData(f"{shown}: what stands at {about} is no string, so no entry of a store; nothing was changed")
    if name == "CROSSSLOT":
        return spread(shown)
    if "maximum allowed size" in said or "invalid bulk length" in said:
        return ValueTooLarge(f"{shown}: too large for Redis ({said}); nothing was written")
    return BackendError(f"{shown}: Redis says: {said}")


def partly(error: KVError, shown: str) -> OutcomeUnknown:
    """The error where a part of several writes has been done, and the rest met this one."""
    return OutcomeUnknown(f"{shown}: a part of it has been done, and the rest has not: {error}")


def _line(said: object) -> str:
    return re.sub(r"\s*\n\s*", "; ", str(said).strip().rstrip(".")) or type(said).__name__
