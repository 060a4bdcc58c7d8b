"""Stores around a store. Each is a whole store, in both colours, and a URL can ask for it: see `kv.wrappers.registry`.

They are loaded when they are first named, and with them what they need: `cryptography`, `zstd`, ...
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kv.lazy import lazily

if TYPE_CHECKING:
    from .compression import AsyncCompressed, Compressed
    from .encryption import AsyncEncrypted, Encrypted, new_key
    from .limits import AsyncTTLLimits, TTLLimits
    from .nearcache import AsyncNearCache, NearCache, NearCacheInfo
    from .readonly import AsyncReadOnly, ReadOnly
    from .telemetry import AsyncTelemetry, Telemetry

__all__ = [
    "AsyncCompressed",
    "AsyncEncrypted",
    "AsyncNearCache",
    "AsyncReadOnly",
    "AsyncTTLLimits",
    "AsyncTelemetry",
    "Compressed",
    "Encrypted",
    "NearCache",
    "NearCacheInfo",
    "ReadOnly",
    "TTLLimits",
    "Telemetry",
    "new_key",
]

_names = {
    "AsyncCompressed": "compression",
    "AsyncEncrypted": "encryption",
    "AsyncNearCache": "nearcache",
    "AsyncReadOnly": "readonly",
    "AsyncTTLLimits": "limits",
    "AsyncTelemetry": "telemetry",
    "Compressed": "compression",
    "Encrypted": "encryption",
    "NearCache": "nearcache",
    "NearCacheInfo": "nearcache",
    "ReadOnly": "readonly",
    "TTLLimits": "limits",
    "Telemetry": "telemetry",
    "new_key": "encryption",
}


if not TYPE_CHECKING:  # a type-checker sees the imports above, and a wrong name
    __getattr__ = lazily(globals(), _names)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
