"""One small key-value contract, every place to keep bytes: `kv.open("sqlite:///app.db")`.

The stores, and what types their values, are loaded when they are first named, so `import kv` loads no driver.
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
from .lazy import lazily
from .store import AsyncStore, Stats, Store, Value
from .typed import typed
from .url import Backend, open, open_async

if TYPE_CHECKING:
    from .backends.lmdb import AsyncLMDBStore, LMDBStore
    from .backends.memory import AsyncMemoryStore, MemoryStore
    from .backends.postgres import AsyncPostgresStore, PostgresStore
    from .backends.redis import AsyncRedisStore, RedisStore
    from .backends.sqlite import AsyncSQLiteStore, SQLiteStore
    from .mapping import as_mapping
    from .typedstore import AsyncTypedStore, TypedStore

__version__ = "0.1.0"

__all__ = [
    "KEEP_TTL",
    "TTL",
    "AsyncLMDBStore",
    "AsyncMemoryStore",
    "AsyncPostgresStore",
    "AsyncRedisStore",
    "AsyncSQLiteStore",
    "AsyncStore",
    "AsyncTypedStore",
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
    "LMDBStore",
    "MemoryStore",
    "NotAnInteger",
    "OutcomeUnknown",
    "PostgresStore",
    "RedisStore",
    "SQLiteStore",
    "Stats",
    "Store",
    "StoreClosed",
    "TypedStore",
    "Unavailable",
    "Value",
    "ValueTooLarge",
    "as_mapping",
    "open",
    "open_async",
    "typed",
]

_lazy = {
    "AsyncLMDBStore": "backends.lmdb",
    "AsyncMemoryStore": "backends.memory",
    "AsyncPostgresStore": "backends.postgres",
    "AsyncRedisStore": "backends.redis",
    "AsyncSQLiteStore": "backends.sqlite",
    "AsyncTypedStore": "typedstore",
    "LMDBStore": "backends.lmdb",
    "MemoryStore": "backends.memory",
    "PostgresStore": "backends.postgres",
    "RedisStore": "backends.redis",
    "SQLiteStore": "backends.sqlite",
    "TypedStore": "typedstore",
    "as_mapping": "mapping",
}


if not TYPE_CHECKING:  # a type-checker sees the imports above, and a wrong name
    __getattr__ = lazily(globals(), _lazy)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
