"""Where the PostgreSQL server is, in every way to say it, and what is said when it is not there, refuses or is killed.

The server is this file's own: it is killed, and asks for passwords.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlsplit

import psycopg
import pytest
import servers
from programs import python
from waiting import until

import kv
from kv.backends.postgres.address import for_asyncpg
from kv.testing.suite import bounded, lifted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def test_ipv6_hosts_and_pluses_are_read_as_libpq_reads_them() -> None:
    for url, host in (
        ("postgresql://u@[::1]:5433/db", "[::1]"),
        ("postgresql://u@/db?host=::1&port=5433", "[::1]"),
        ("postgresql://u@h:5433/db?hostaddr=10.0.0.1", "10.0.0.1"),
    ):
        (told,) = for_asyncpg(url)
        query = dict(parse_qsl(urlsplit(told["dsn"]).query))
        assert (query["host"], query["port"]) == (host, "5433")
    (told,) = for_asyncpg("postgresql://h/db?user=u&password=a+b")
    assert "password=a%2Bb" in told["dsn"]


@pytest.mark.parametrize(("opens", "driver"), [("open", "psycopg"), ("open_async", "asyncpg")])
def test_a_missing_driver_says_how_to_install_it(opens: str, driver: str) -> None:
    out = python(
        """
        import sys, kv
        sys.modules[sys.argv[2]] = None     # as if it were not installed
        try:
            getattr(kv, sys.argv[1])("postgresql://localhost/app")
        except kv.ConfigError as e:
            print(e)
        """,
        opens,
        driver,
    )
    assert driver in out
    assert 'pip install "anykv[postgres]"' in out


def test_what_is_no_server_is_refused(table: str) -> None:
    for cls in (kv.PostgresStore, kv.AsyncPostgresStore):
        with pytest.raises(kv.ConfigError, match="takes a URL"):
            cls(42)
        with pytest.raises(kv.ConfigError, match="keyword"):
            cls("postgresql://localhost/db?table=x")
        with pytest.raises(kv.ConfigError, match="more than pool_max"):
            cls("postgresql://localhost/db", pool_min=5, pool_max=4)


PASSWORD = quote("s3 cr#t@/?", safe="")


@pytest.fixture(scope="module")
def own() -> Iterator[servers.Postgres]:
    server = servers.own_postgres(hba="host all keeper 127.0.0.1/32 scram-sha-256")
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("SET password_encryption = 'scram-sha-256'")  # before PostgreSQL 14 it was md5
        connection.execute("CREATE ROLE keeper LOGIN PASSWORD 's3 cr#t@/?'")
        connection.execute("CREATE DATABASE kept OWNER keeper")
    kv.open(f"postgresql://keeper:{PASSWORD}@127.0.0.1:{server.port}/kept").close()
    yield server
    server.close()


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_server_that_is_killed_and_restarted_under_load(own: servers.Postgres, colour: str) -> None:
    opens: Callable[..., Any] = kv.open if colour == "sync" else kv.open_async
    acknowledged: list[str] = []
    errors: list[BaseException] = []
    wrong: list[BaseException] = []
    stop = threading.Event()
    with kv.open(own.url, table="unlogged", unlogged=True) as cache:
        cache.set("k", b"v")

    async def writer(store: kv.AsyncStore, who: int) -> None:
        n = 0
        while not stop.is_set():
            n += 1
            key = f"{colour} {who} {n}"
            try:
                if n % 3:
                    await store.set(key, b"v")
                else:
                    await store.update(key, lambda _: b"v")
                acknowledged.append(key)
                await store.get(key)
            except (kv.Unavailable, kv.OutcomeUnknown) as e:
                errors.append(e)
                await asyncio.sleep(0.01)
            except BaseException as e:
                wrong.append(e)
                return

    async def main() -> None:
        store = opens(own.url, pool_max=4)
        async with lifted(store) as opened:
            await opened.set("ready", b"")
            threads: list[threading.Thread] = []
            tasks: list[asyncio.Task[None]] = []
            if colour == "sync":
                threads = [threading.Thread(target=asyncio.run, args=(writer(opened, i),)) for i in range(4)]
                for thread in threads:
                    thread.start()
            else:
                tasks = [asyncio.create_task(writer(opened, i)) for i in range(4)]
            for _ in range(3):
                before = len(acknowledged)
                await until(lambda before=before: len(acknowledged) > before + 40 or wrong)  # type: ignore[misc]
                await asyncio.to_thread(own.kill)
                await asyncio.to_thread(own.start)
            before = len(acknowledged)
            await until(lambda: len(acknowledged) > before + 40 or wrong)
            stop.set()
            for thread in threads:
                thread.join()
            await asyncio.gather(*tasks)
            assert wrong == []
            assert errors
            found = await opened.get_many(acknowledged)
            assert [key for key in acknowledged if key not in found] == []

    bounded(main, 60)
    with kv.open(own.url, table="unlogged", unlogged=True) as cache:
        assert cache.keys() == []
        cache.set("k", b"v")
        assert cache.get("k") == b"v"


def test_a_lost_commit_is_told_from_what_had_no_effect(own: servers.Postgres) -> None:
    with kv.open(own.url, pool_max=1) as store:
        store.set("k", b"old")

        def fn(_: object) -> bytes:
            own.kill()
            return b"new"

        with pytest.raises(kv.OutcomeUnknown, match="read before"):  # the write travels with the commit
            store.update("k", fn)
        with pytest.raises(kv.Unavailable, match="cannot be reached"):
            store.get("k")
        own.start()
        assert store.get("k") == b"old"


def ways(own: servers.Postgres) -> list[tuple[str, dict[str, str]]]:
    """URLs and environments by which libpq finds the same database."""
    port, folder = own.port, quote(str(own.root), safe="")
    dead = servers.free_port()
    return [
        (f"postgresql://keeper:{PASSWORD}@127.0.0.1:{port}/kept", {}),
        (f"postgres://keeper:{PASSWORD}@localhost:{port}/kept?sslmode=prefer&connect_timeout=5", {}),
        (f"postgresql://keeper@127.0.0.1:{port}/kept?password={PASSWORD}&sslmode=disable", {}),
        (f"postgresql:///kept?host=127.0.0.1&port={port}&user=keeper&password={PASSWORD}", {}),
        (f"postgresql://keeper:{PASSWORD}@127.0.0.1:{dead},127.0.0.1:{port}/kept", {}),
        (f"postgresql://keeper:{PASSWORD}@/kept?host=127.0.0.1,127.0.0.1&port={dead},{port}", {}),
        (f"postgresql://keeper:{PASSWORD}@127.0.0.1:{port}/kept?target_session_attrs=read-write", {}),
        (f"postgresql://keeper:{PASSWORD}@localhost:{port}/kept?hostaddr=127.0.0.1", {}),
        (f"postgresql://postgres@{folder}:{port}/kept", {}),
        (f"postgresql:///kept?host={folder}&port={port}&user=postgres", {}),
        ("postgresql://", {"PGHOST": "127.0.0.1", "PGPORT": f"{port}", "PGUSER": "keeper", "PGDATABASE": "kept"}),
        (f"postgresql://keeper@127.0.0.1:{port}/kept", {"PGPASSWORD": "", "PGPASSFILE": "pgpass"}),
        (f"postgresql://keeper@127.0.0.1:{port}/kept?passfile=pgpass", {"PGPASSWORD": ""}),
        (f"postgresql://keeper@127.0.0.1:{port}/kept", {"HOME": ".", "PGPASSWORD": ""}),
        ("postgresql://", {"PGSERVICE": "kept", "PGSERVICEFILE": "services"}),
        ("postgresql://?service=kept", {"PGSERVICEFILE": "services"}),
    ]


def tells_the_password(store: object) -> bool:
    return "cr#t" in repr(store) or PASSWORD in repr(store)


@pytest.mark.parametrize("number", range(16))
def test_libpq_s_ways_to_say_where_it_is_are_those_of_both_colours(
    own: servers.Postgres, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, environment = ways(own)[number]
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / "pgpass", tmp_path / ".pgpass"):
        path.write_text(f"127.0.0.1:{own.port}:*:keeper:s3 cr#t@/?\n")
        path.chmod(0o600)
    services = f"[kept]\nhost=127.0.0.1\nport={own.port}\nuser=keeper\ndbname=kept\n"
    (tmp_path / "services").write_text(services)
    monkeypatch.setenv("PGPASSWORD", "s3 cr#t@/?")
    for variable, value in environment.items():
        if value:
            monkeypatch.setenv(variable, str(tmp_path) if value == "." else value)
        else:
            monkeypatch.delenv(variable)
    with kv.open(url) as store:
        store.set("k", url.encode())
        assert not tells_the_password(store)

    async def main() -> None:
        async with kv.open_async(url) as store:
            assert await store.get("k") == url.encode()
            assert not tells_the_password(store)

    bounded(main, 60)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://keeper:wr0ng@127.0.0.1:{port}/kept", "password"),
        ("postgresql://postgres:wr0ng@127.0.0.1:{port}/nothing", "createdb"),
        ("postgresql://postgres:wr0ng@127.0.0.1:{dead}/kept", "that the server runs"),
        ("postgresql://postgres:wr0ng@127.0.0.1:{port}/kept?sslmode=require", "SSL"),
        ("postgresql://nobody:wr0ng@127.0.0.1:{port}/kept", "user"),
    ],
)
@pytest.mark.parametrize("colour", ["sync", "async"])
def test_what_cannot_be_reached_is_unavailable_and_tells_no_password(
    own: servers.Postgres, url: str, said: str, colour: str
) -> None:
    url = url.format(port=own.port, dead=servers.free_port())

    async def main() -> None:
        if colour == "sync":
            with pytest.raises(kv.Unavailable) as caught:
                kv.open(url)
        else:
            store = kv.open_async(url)
            with pytest.raises(kv.Unavailable) as caught:
                await store.get("k")
            await store.aclose()
        assert said in str(caught.value)
        assert "wr0ng" not in str(caught.value)
        assert "***" in str(caught.value)

    bounded(main, 60)


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_role_that_may_only_read_is_told_so(own: servers.Postgres, colour: str) -> None:
    opens: Callable[..., Any] = kv.open if colour == "sync" else kv.open_async
    with kv.open(own.url, table="to_read") as store, psycopg.connect(own.url, autocommit=True) as connection:
        store.set("k", b"v")
        connection.execute("DROP ROLE IF EXISTS reader")
        connection.execute("CREATE ROLE reader LOGIN; GRANT SELECT ON to_read TO reader")
        url = own.url.replace("postgres@", "reader@")

        async def main() -> None:
            async with lifted(opens(url, table="to_read")) as store:
                assert await store.get("k") == b"v"
                assert await store.keys() == ["k"]
                with pytest.raises(kv.Unavailable, match="GRANT"):
                    await store.set("k", b"x")
            standby = own.url + "?options=-c%20default_transaction_read_only%3Don"
            async with lifted(opens(standby, table="to_read")) as store:
                assert await store.get("k") == b"v"
                with pytest.raises(kv.Unavailable, match="standby"):
                    await store.set("k", b"x")

        bounded(main, 60)
        connection.execute("REVOKE ALL ON to_read FROM reader; DROP ROLE reader")
