"""What programs need again and again, on any store: each is loaded when it is first named."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kv.lazy import lazily

if TYPE_CHECKING:
    from .cache import AsyncCache, AsyncCachedFunction, Cache, CachedFunction
    from .claims import AsyncJob, DeadJob, Job
    from .counter import AsyncCounter, Bucket, Counter
    from .flags import AsyncFlags, Flag, Flags
    from .lock import AsyncLease, AsyncLock, Lease, LeaseLost, Lock
    from .queue import AsyncQueue, Counts, Queue
    from .ratelimit import AsyncRateLimiter, Decision, RateLimiter
    from .sessions import AsyncSessions, Session, Sessions
    from .settings import AsyncSettings, Setting, Settings

__all__ = [
    "AsyncCache",
    "AsyncCachedFunction",
    "AsyncCounter",
    "AsyncFlags",
    "AsyncJob",
    "AsyncLease",
    "AsyncLock",
    "AsyncQueue",
    "AsyncRateLimiter",
    "AsyncSessions",
    "AsyncSettings",
    "Bucket",
    "Cache",
    "CachedFunction",
    "Counter",
    "Counts",
    "DeadJob",
    "Decision",
    "Flag",
    "Flags",
    "Job",
    "Lease",
    "LeaseLost",
    "Lock",
    "Queue",
    "RateLimiter",
    "Session",
    "Sessions",
    "Setting",
    "Settings",
]

_modules = {
    "AsyncCache": "cache",
    "AsyncCachedFunction": "cache",
    "AsyncCounter": "counter",
    "AsyncFlags": "flags",
    "AsyncJob": "claims",
    "AsyncLease": "lock",
    "AsyncLock": "lock",
    "AsyncQueue": "queue",
    "AsyncRateLimiter": "ratelimit",
    "AsyncSessions": "sessions",
    "AsyncSettings": "settings",
    "Bucket": "counter",
    "Cache": "cache",
    "CachedFunction": "cache",
    "Counter": "counter",
    "Counts": "queue",
    "DeadJob": "claims",
    "Decision": "ratelimit",
    "Flag": "flags",
    "Flags": "flags",
    "Job": "claims",
    "Lease": "lock",
    "LeaseLost": "lock",
    "Lock": "lock",
    "Queue": "queue",
    "RateLimiter": "ratelimit",
    "Session": "sessions",
    "Sessions": "sessions",
    "Setting": "settings",
    "Settings": "settings",
}


if not TYPE_CHECKING:  # a type-checker sees the imports above, and a wrong name
    __getattr__ = lazily(globals(), _modules)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
