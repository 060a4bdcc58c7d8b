"""The contract behind PgBouncer in transaction mode, and on a pool of somebody else's."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import psycopg
import psycopg_pool
import pytest
import servers
from waiting import wait_for

import kv
from kv.testing import Conformance, ProcessConformance

if TYPE_CHECKING:
    from collections.abc import Iterator

    Admin = psycopg.Connection[tuple[Any, ...]]


@pytest.fixture(scope="session")
def bouncer(postgres: servers.Server) -> Iterator[servers.PgBouncer]:
    binary = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if binary is None:
        pytest.skip("no pgbouncer is installed: not run is the contract behind a pooler; apt-get install pgbouncer")
    server = servers.PgBouncer(binary, postgres.url)
    yield server
    server.close()


@pytest.fixture
def pooled_url(bouncer: servers.PgBouncer, table: str) -> str:
    return f"{bouncer.url}?table={table}"


class TestPooler(Conformance):
    @pytest.fixture(params=["sync", "async"])
    def store(self, request: pytest.FixtureRequest, pooled_url: str) -> Any:
        return kv.open(pooled_url) if request.param == "sync" else kv.open_async(pooled_url)


class TestPoolerProcesses(ProcessConformance):
    processes = 4

    @pytest.fixture
    def url(self, pooled_url: str) -> str:
        return pooled_url


class TestPoolOfTheCaller(Conformance):
    @pytest.fixture
    def store(self, postgres: servers.Server, table: str) -> Iterator[kv.Store]:
        with psycopg_pool.ConnectionPool(postgres.url, min_size=1, max_size=10, open=True) as pool:
            yield kv.PostgresStore(pool, table=table)
            with pool.connection() as connection:  # the suite has closed the store, and not the pool
                assert connection.execute("SELECT 1").fetchone() == (1,)

            def whole() -> bool:
                stats = pool.get_stats()
                return stats["pool_available"] == stats["pool_size"]

            wait_for(whole)  # it may just be replacing a connection that an interrupt ended


def test_nothing_that_a_store_sets_reaches_other_clients_of_the_pooler(
    bouncer: servers.PgBouncer, pooled_url: str
) -> None:
    with psycopg.connect(bouncer.url, autocommit=True, prepare_threshold=None) as other:

        def settings() -> list[Any]:
            names = ("lock_timeout", "default_transaction_isolation", "application_name")
            return [other.execute("SELECT current_setting(%s)", (name,)).fetchone() for name in names for _ in range(6)]

        before = settings()
        with kv.open(pooled_url) as store:
            for _ in range(20):
                store.update("k", lambda value: (value or b"") + b"x")
                store.increment("n")
        assert settings() == before
