"""`redis://`: `store.py` has both stores, over redis-py in `through_redis.py` and `through_redis_asyncio.py`."""

from .store import BACKEND, AsyncRedisStore, RedisStore

__all__ = ["BACKEND", "AsyncRedisStore", "RedisStore"]
