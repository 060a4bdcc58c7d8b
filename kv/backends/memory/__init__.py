"""`memory://`: `store.py` has the stores, `tables.py` what they keep, `sortedkeys.py` its order."""

from .store import BACKEND, AsyncMemoryStore, MemoryStore

__all__ = ["BACKEND", "AsyncMemoryStore", "MemoryStore"]
