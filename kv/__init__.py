"""One small key-value contract, every place to keep bytes: `kv.open("sqlite:///app.db")`.

The stores are loaded when they are first named, so `import kv` loads no driver.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import (
    BackendError,
    ConfigError,
    Conflict,
    CorruptData,
    IntegerOverflow,
    InvalidKey,
    InvalidTTL,
    InvalidValue,
    KeyNotFound,
    KVError,
    NotAnInteger,
    OutcomeUnknown,
    StoreClosed,
    Unavailable,
    ValueTooLarge,
)
from .expiry import KEEP_TTL, TTL, KeepTTL
from .store import AsyncStore, Stats, Store, Value
from .url import Backend, open, open_async

if TYPE_CHECKING:
    from .backends.memory import AsyncMemoryStore, MemoryStore
    from .backends.postgres import AsyncPostgresStore, PostgresStore
    from .backends.redis import AsyncRedisStore, RedisStore
    from .backends.sqlite import AsyncSQLiteStore, SQLiteStore

__version__ = "0.1.0"

__all__ = [
    "KEEP_TTL",
    "TTL",
    "AsyncMemoryStore",
    "AsyncPostgresStore",
    "AsyncRedisStore",
    "AsyncSQLiteStore",
    "AsyncStore",
    "Backend",
    "BackendError",
    "ConfigError",
    "Conflict",
    "CorruptData",
    "IntegerOverflow",
    "InvalidKey",
    "InvalidTTL",
    "InvalidValue",
    "KVError",
    "KeepTTL",
    "KeyNotFound",
    "MemoryStore",
    "NotAnInteger",
    "OutcomeUnknown",
    "PostgresStore",
    "RedisStore",
    "SQLiteStore",
    "Stats",
    "Store",
    "StoreClosed",
    "Unavailable",
    "Value",
    "ValueTooLarge",
    "open",
    "open_async",
]

_stores = {
    "AsyncMemoryStore": "kv.backends.memory",
    "AsyncPostgresStore": "kv.backends.postgres",
    "AsyncRedisStore": "kv.backends.redis",
    "AsyncSQLiteStore": "kv.backends.sqlite",
    "MemoryStore": "kv.backends.memory",
    "PostgresStore": "kv.backends.postgres",
    "RedisStore": "kv.backends.redis",
    "SQLiteStore": "kv.backends.sqlite",
}


if not TYPE_CHECKING:  # a type-checker sees the imports above, and a wrong name

    def __getattr__(name: str) -> object:
        if name not in _stores:
            raise AttributeError(f"module 'kv' has no attribute {name!r}")
        from importlib import import_module

        store = globals()[name] = getattr(import_module(_stores[name]), name)
        return store


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
