"""`lmdb:///app.lmdb`: `store.py` has the stores, `environment.py` the file as a process has it open, `layout.py` what is in it."""

from .store import BACKEND, AsyncLMDBStore, LMDBStore

__all__ = ["BACKEND", "AsyncLMDBStore", "LMDBStore"]
