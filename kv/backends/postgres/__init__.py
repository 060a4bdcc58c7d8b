"""`postgresql://`: `store.py` has both stores, over a driver each in `through_psycopg.py` and `through_asyncpg.py`."""

from .store import BACKEND, AsyncPostgresStore, PostgresStore

__all__ = ["BACKEND", "AsyncPostgresStore", "PostgresStore"]
