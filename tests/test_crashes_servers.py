"""Servers that are killed while both colours write: what was acknowledged is there, where that is promised; what was
unknown is there once or not at all; and whoever writes goes on by himself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING

import psycopg
import pytest
import servers
from crashes import Crew, rounds, seeded
from waiting import wait_for

import kv

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

WRITERS = [("sync", 3), ("async", 6)]


@pytest.fixture(scope="module")
def postgres() -> Iterator[servers.Postgres]:
    server = servers.own_postgres(fsync="on", full_page_writes="on")
    yield server
    server.close()


def backends(server: servers.Postgres) -> list[int]:
    """The processes that serve clients, but for who asks. Waits for a server that recovers."""
    pids: list[int] = []
    asked = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"

    def answers() -> bool:
        with contextlib.suppress(psycopg.OperationalError), psycopg.connect(server.url) as connection:
            pids[:] = [pid for (pid,) in connection.execute(asked).fetchall()]
            return True
        return False

    wait_for(answers)
    return pids


def kill_all(server: servers.Postgres, chance: random.Random) -> None:
    server.kill()
    server.start()


def kill_postmaster(server: servers.Postgres, chance: random.Random) -> None:
    """The others end when they see that."""
    assert server.process
    server.process.kill()
    server.process.wait(30)
    server.start()


def kill_backend(server: servers.Postgres, chance: random.Random) -> None:
    """One that serves a client: the server ends all others then, and recovers by itself."""
    with contextlib.suppress(psycopg.OperationalError), psycopg.connect(server.url) as connection:
        os.kill(chance.choice([connection.info.backend_pid, *backends(server)]), signal.SIGKILL)


WAYS = [kill_all, kill_postmaster, kill_backend]


def test_a_postgres_that_is_killed_keeps_what_it_has_acknowledged(postgres: servers.Postgres) -> None:
    url = f"{postgres.url}?table=logged&pool_max=4"
    with seeded() as (seed, chance), Crew(url, seed, WRITERS) as crew:
        crew.start()
        for n in rounds(3):
            crew.go_on(3)
            time.sleep(chance.uniform(0, 0.05))  # no event: at any moment
            WAYS[n % 3](postgres, chance)
            crew.figures[WAYS[n % 3].__name__] += 1
        crew.go_on(3)
        crew.kill()
        wait_for(lambda: not backends(postgres))  # they end what they have begun
        crew.check(url)
        crew.report()


def test_an_unlogged_table_of_a_postgres_that_is_killed_is_empty_and_works(postgres: servers.Postgres) -> None:
    url = f"{postgres.url}?table=unlogged&unlogged=true"
    with seeded() as (seed, chance), Crew(url, seed, WRITERS) as crew:
        for n in rounds(2):
            crew.start()
            crew.go_on(3)
            crew.kill()  # first, as what they know would be wrong; what they began is under way
            WAYS[n % 3](postgres, chance)
            wait_for(lambda: not backends(postgres))
            with kv.open(url) as store:
                assert store.keys() == []
            crew.check(url, older=True)
            crew.figures[WAYS[n % 3].__name__] += 1
        crew.report()


# Redis


def saves(server: servers.Redis) -> None:
    """Begins to; a second time, when it has once done so, it may be killed meanwhile."""
    again = (server.root / "dump.rdb").exists()
    server.call("BGSAVE")
    wait_for(lambda: again or server.call("INFO", "persistence")["rdb_bgsave_in_progress"] == 0)


@contextlib.contextmanager
def own_redis(**settings: str) -> Iterator[servers.Redis]:
    with contextlib.closing(servers.own_redis(**settings)) as server:
        yield server


def test_a_redis_with_a_log_that_is_killed_keeps_what_it_has_acknowledged() -> None:
    with (
        own_redis(appendonly="yes", appendfsync="always") as server,
        seeded() as (seed, chance),
        Crew(f"{server.url}?pool_max=3", seed, WRITERS) as crew,
    ):
        crew.start()
        for _ in rounds(3):
            crew.go_on(3)
            time.sleep(chance.uniform(0, 0.05))
            server.kill()
            server.start()
            crew.figures["killed"] += 1
        crew.go_on(3)
        crew.kill()
        wait_for(lambda: server.call("INFO", "clients")["connected_clients"] == 1)
        crew.check(server.url)
        crew.report()


def nothing(server: servers.Redis) -> None:
    pass


@pytest.mark.parametrize(
    ("settings", "meanwhile"),
    [({}, nothing), ({}, saves), ({"appendonly": "yes", "appendfsync": "everysec"}, nothing)],
    ids=["nothing kept", "saved now and then", "a log written every second"],
)
def test_what_survives_of_a_redis_that_promises_less_is_whole(
    settings: dict[str, str], meanwhile: Callable[[servers.Redis], None]
) -> None:
    with (
        own_redis(**settings) as server,
        seeded() as (seed, chance),
        Crew(server.url, seed, WRITERS) as crew,
    ):
        for _ in rounds(2 if meanwhile is saves else 1):
            crew.start()
            crew.go_on(3)
            meanwhile(server)
            time.sleep(chance.uniform(0, 0.05))
            server.kill()
            crew.kill()
            server.start()
            crew.check(server.url, older=True)
            crew.figures["killed"] += 1
        crew.report()
