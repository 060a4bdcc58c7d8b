"""What LMDB says when something is wrong, in our words."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from kv.errors import BackendError, ConfigError, CorruptData, KVError, OutcomeUnknown, Unavailable

if TYPE_CHECKING:
    import lmdb

_DAMAGED = ("CorruptedError", "PageNotFoundError", "PanicError", "InvalidError", "BadDbiError", "NotFoundError")


def ours(error: lmdb.Error, name: str, *, done: bool = False) -> KVError:
    """Give our error for one of LMDB's; `done`: it came when something had been written."""
    kind, code = type(error).__name__, getattr(error, "code", 0)
    if done:
        return OutcomeUnknown(f"{name}: the disk failed during a commit ({error}); read before you try again")
    if code == errno.ENOSPC or kind == "DiskError":
        return no_file(OSError(errno.ENOSPC, str(error)), name)
    if code in (errno.EACCES, errno.EROFS, errno.EPERM) or kind == "ReadonlyError":
        return Unavailable(
            f"{name} is read-only here; nothing was written. See the permissions of the file and its directory"
        )
    if code == errno.ENOMEM:
        return Unavailable(f"{name}: no room in this process's memory to map the file; nothing was written")
    if "already open in this process" in str(error):
        return Unavailable(
            f"{name} is open in this process in another way: by the driver itself, before it was replaced, or by a "
            "parent that was busy when it forked; close that first"
        )
    if kind == "ReadersFullError":
        return Unavailable(f"{name}: too many threads and processes read it at once; try again")
    if kind in _DAMAGED:
        return CorruptData(f"{name} is damaged ({error}); restore a backup")
    if code == errno.EIO:  # of a full one too, where LMDB wrote a part of what it had to
        return Unavailable(f"{name}: the disk failed or is full ({error}); nothing was written")
    return BackendError(f"{name}: LMDB says: {error}")


def no_file(error: OSError, name: str) -> KVError:
    """Give our error for one of the system's, about the file."""
    if error.errno == errno.ENOSPC:
        return Unavailable(f"{name}: the disk is full; nothing was written. Free some space and try again")
    return Unavailable(
        f"{name} cannot be opened or made longer ({error}); nothing was written. See its permissions and limits"
    )


def no_driver(error: ImportError) -> ConfigError:
    """The error for a driver that is not installed."""
    return ConfigError(f'the driver lmdb is missing ({error}); install it: pip install "anykv[lmdb]"')
