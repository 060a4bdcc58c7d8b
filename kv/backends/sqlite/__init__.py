"""`sqlite:///app.db`: `store.py` has the stores, `database.py` the connections beneath, `schema.py` what is in the file."""

from .store import BACKEND, AsyncSQLiteStore, SQLiteStore

__all__ = ["BACKEND", "AsyncSQLiteStore", "SQLiteStore"]
