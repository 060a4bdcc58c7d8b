"""The contract, over every store of ours and over the smallest that somebody else could write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tiny import AsyncTinyStore, TinyStore

import kv
from kv.testing import Conformance, ProcessConformance

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STORES: dict[str, Callable[[Path, str], Any]] = {
    "memory": lambda _, __: kv.MemoryStore(),
    "async memory": lambda _, __: kv.open_async("memory://"),
    "sqlite": lambda path, durability: kv.SQLiteStore(path / "kv.db", durability=durability),
    "async sqlite": lambda path, durability: kv.open_async(f"sqlite:///{path}/kv.db?durability={durability}"),
    "lmdb": lambda path, durability: kv.LMDBStore(path / "kv.lmdb", durability=durability),
    "async lmdb": lambda path, durability: kv.open_async(f"lmdb:///{path}/kv.lmdb?durability={durability}"),
    "sqlite in memory": lambda _, __: kv.open("sqlite://"),
    "async sqlite in memory": lambda _, __: kv.open_async("sqlite://"),
    "tiny": lambda _, __: TinyStore(),
    "async tiny": lambda _, __: AsyncTinyStore(),
}
SERVERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "postgres": ("postgres_url", kv.open),
    "async postgres": ("postgres_url", kv.open_async),
    "redis": ("redis_url", kv.open),
    "async redis": ("redis_url", kv.open_async),
    "cluster": ("cluster_url", kv.open),
    "async cluster": ("cluster_url", kv.open_async),
}


EVERY = [*STORES, *SERVERS]


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param in SERVERS:
        url, opens = SERVERS[request.param]
        return opens(request.getfixturevalue(url))
    # a view writes through the same calls, and needs no disk to sync in each of thousands of commits
    return STORES[request.param](tmp_path, "normal" if request.cls.view else "full")


@pytest.mark.parametrize("store", EVERY, indirect=True)
class TestStore(Conformance):
    pass


# What makes a view is the same in both colours: one of each kind does for a backend.


@pytest.mark.parametrize("store", [name for name in EVERY if not name.startswith("async")], indirect=True)
class TestNamespace(Conformance):
    view = ("tenant 1",)


@pytest.mark.parametrize("store", [name for name in EVERY if name.startswith("async")], indirect=True)
class TestNestedNamespace(Conformance):
    view = ("a", "b:c")


class TestSQLiteProcesses(ProcessConformance):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/kv.db"


class TestLMDBProcesses(ProcessConformance):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"lmdb:///{tmp_path}/kv.lmdb"


class TestPostgresProcesses(ProcessConformance):
    @pytest.fixture
    def url(self, postgres_url: str) -> str:
        return postgres_url


class TestRedisProcesses(ProcessConformance):
    @pytest.fixture
    def url(self, redis_url: str) -> str:
        return redis_url


class TestClusterProcesses(ProcessConformance):
    @pytest.fixture
    def url(self, cluster_url: str) -> str:
        return cluster_url
