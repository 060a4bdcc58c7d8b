"""Connections to PostgreSQL: how many, whose, what cancels and kills leave of them, and every way to say where it is."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlsplit

import asyncpg
import psycopg
import psycopg_pool
import pytest
import servers
from programs import python
from waiting import until, wait_for

import kv
from kv.backends.postgres.address import for_asyncpg
from kv.testing.suite import bounded, lifted

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

    Admin = psycopg.Connection[tuple[Any, ...]]


def sessions(admin: Admin, name: str) -> list[str]:
    """The states of the connections that have this `application_name`."""
    rows = admin.execute("SELECT state FROM pg_stat_activity WHERE application_name = %s", (name,))
    return [str(state) for (state,) in rows]


@pytest.fixture
def name(table: str) -> str:
    """An `application_name` of this test's own."""
    return f"app-{table}"


@pytest.fixture
def url(postgres_url: str, name: str) -> str:
    return f"{postgres_url}&application_name={name}"


def in_threads(*calls: Callable[[], object]) -> list[object]:
    results: list[object] = [None] * len(calls)

    def run(i: int, call: Callable[[], object]) -> None:
        try:
            results[i] = call()
        except BaseException as e:
            results[i] = e

    threads = [threading.Thread(target=run, args=(i, call)) for i, call in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return results


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    bounded(main, 60)


# how many


def test_threads_share_the_connections_that_there_may_be(url: str, name: str, admin: Admin) -> None:
    with kv.open(url, pool_min=2, pool_max=3) as store:
        assert len(sessions(admin, name)) == 2
        in_threads(*[lambda: [store.increment("n") for _ in range(20)]] * 12)
        assert store.get("n") == b"240"
        assert len(sessions(admin, name)) <= 3


def test_tasks_share_the_connections_that_there_may_be(url: str, name: str, admin: Admin) -> None:
    async def main() -> None:
        async with kv.open_async(url, pool_min=2, pool_max=3) as store:
            await asyncio.gather(*(store.increment("n") for _ in range(200)))
            assert await store.get("n") == b"200"
            assert len(sessions(admin, name)) <= 3

    run(main)


def test_who_waits_too_long_for_a_connection_is_told(url: str) -> None:
    with kv.open(url, pool_max=1) as store:
        store.set("k", b"v")
        impatient = kv.open(url, pool_max=1, lock_timeout=0.1)

        def fn(value: bytes | None) -> bytes | None:
            (error,) = in_threads(lambda: impatient.get("k"))
            assert isinstance(error, kv.Unavailable), error
            assert "pool_max" in str(error)
            return value

        with impatient:
            impatient.update("k", fn)
            assert impatient.get("k") == b"v"


def test_who_waits_too_long_for_a_lock_is_told(url: str, table: str, admin: Admin) -> None:
    with kv.open(url, lock_timeout=0.1) as store, psycopg.connect(admin.info.dsn) as other:
        store.set("k", b"v")
        other.execute(f"SELECT 1 FROM {table} FOR UPDATE")
        for call in (
            lambda: store.set("k", b"x"),
            lambda: store.update("k", lambda _: b"x"),
            lambda: store.set_many({"k": b"x"}),
            lambda: store.update_many(["k", "l"], lambda _: {}),
            lambda: store.delete("k"),
            lambda: store.increment("k"),
        ):
            with pytest.raises(kv.Conflict, match="lock_timeout"):
                call()
        assert store.get("k") == b"v"


def test_a_store_goes_on_after_the_server_has_ended_its_idle_connections(url: str, name: str, admin: Admin) -> None:
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s"

    async def main() -> None:
        async with kv.open_async(url) as store, lifted(kv.open(url)) as sync:
            for n, one in enumerate([store, sync] * 3):
                await one.set("k", b"%d" % n)
                admin.execute(end, (name,))
                await until(lambda: not sessions(admin, name))
                await one.set("k", b"again")  # no OutcomeUnknown: it is seen before anything is sent
                assert await one.get("k") == b"again"

    run(main)


def test_who_waits_for_a_connection_hears_that_the_store_is_closed(url: str) -> None:
    store = kv.open(url, pool_max=1, lock_timeout=60)

    def fn(value: bytes | None) -> bytes | None:
        def close_when_somebody_waits() -> None:
            source: Any = store._db.source  # type: ignore[attr-defined]
            wait_for(lambda: source.waiters)
            store.close()

        waited, _ = in_threads(lambda: store.get("k"), close_when_somebody_waits)
        assert isinstance(waited, kv.StoreClosed)
        return value

    store.update("k", fn)


def test_a_call_inside_fn_that_fails_and_is_caught_undoes_only_itself(url: str, admin: Admin, table: str) -> None:
    with kv.open(url, lock_timeout=0.2) as store, psycopg.connect(admin.info.dsn) as other:
        store.set("locked", b"1")
        other.execute(f"SELECT 1 FROM {table} FOR UPDATE")

        def fn(_: bytes | None) -> None:
            store.set("other", b"acknowledged")
            with pytest.raises(kv.Conflict):
                store.set("locked", b"2")

        assert store.update("missing", fn) is None
        assert store.get("other") == b"acknowledged"


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


def test_an_interrupt_loses_no_connection(url: str) -> None:
    out = python(
        """
        import logging, signal, sys, threading, time, kv
        logging.getLogger("psycopg").disabled = True       # it tells of queries that could not be cancelled
        sys.unraisablehook = lambda _: None                # and Python of interrupts that came inside a __del__
        store = kv.open(sys.argv[1], pool_max=2, lock_timeout=20)
        stop = threading.Event()
        def work():
            while not stop.is_set():
                store.increment("n")
        threads = [threading.Thread(target=work) for _ in range(2)]
        for t in threads: t.start()
        busy = False
        def interrupt(*_):
            global busy
            if busy:
                busy = False
                raise KeyboardInterrupt
        signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.002, 0.003)
        interrupts, end = 0, time.monotonic() + 2
        while time.monotonic() < end:
            try:
                busy = True
                store.update("k", lambda value: value)
                store.get("k")
                busy = False
            except (KeyboardInterrupt, kv.KVError):
                interrupts += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        stop.set()
        for t in threads: t.join()
        assert interrupts > 10, interrupts
        more = [threading.Thread(target=lambda: [store.increment("m") for _ in range(50)]) for _ in range(4)]
        for t in more: t.start()
        for t in more: t.join()
        print(store.get("m"))
        store.close()
        """,
        url,
    )
    assert out == "b'200'\n"


# what a cancellation leaves


def test_a_task_cancelled_at_any_await_leaves_the_pool_whole(url: str, name: str, admin: Admin) -> None:
    async def main() -> None:
        async with kv.open_async(url, pool_max=2, lock_timeout=10) as store:

            async def work() -> None:
                await store.set("a", b"1", ttl=50)
                await store.update("a", lambda value: (value or b"0")[:5])
                await store.update_many(["a", "b"], lambda found: {"b": b"2", **found})
                await store.set_many({"a": b"3", "c": b"4"})
                await store.keys()
                _ = [entry async for entry in store.scan()]

            done, ticks = False, 0
            while not done:
                tasks = [asyncio.create_task(work()) for _ in range(3)]
                for _ in range(ticks):
                    await asyncio.sleep(0)
                for task in tasks:
                    task.cancel()
                results = await asyncio.gather(*tasks, return_exceptions=True)
                assert all(r is None or isinstance(r, asyncio.CancelledError) for r in results), results
                done = all(r is None for r in results)
                ticks += 1 + ticks // 10
            async with asyncio.timeout(20):
                await asyncio.gather(*(store.increment(f"n{i}") for i in range(20)))
            states = sessions(admin, name)
            assert len(states) <= 2
            assert not [state for state in states if "transaction" in state]
            await store.set_many(dict.fromkeys("abc", b"free"))

    run(main)


def test_a_cancelled_call_that_waits_for_a_lock_ends_at_the_server_too(
    url: str, name: str, table: str, admin: Admin
) -> None:
    async def main() -> None:
        async with kv.open_async(url) as store:
            await store.set("k", b"v")
            with psycopg.connect(admin.info.dsn) as other:
                other.execute(f"SELECT 1 FROM {table} FOR UPDATE")
                calls = [
                    store.set("k", b"x"),
                    store.update("k", lambda _: b"x"),
                    store.update_many(["k", "l"], lambda _: {}),
                ]
                tasks = [asyncio.create_task(call) for call in calls]
                await until(lambda: sessions(admin, name).count("active") == len(calls))
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await until(lambda: "active" not in sessions(admin, name))
                assert not [state for state in sessions(admin, name) if "transaction" in state]
            assert await store.get("k") == b"v"

    run(main)


# loops, forks, ends


def test_a_store_works_in_one_loop_after_the_other(url: str) -> None:
    out = python(
        """
        import asyncio, sys, warnings, kv
        store = kv.open_async(sys.argv[1])
        for _ in range(3):
            asyncio.run(store.increment("n"))
        print(asyncio.run(store.get("n")))
        asyncio.run(store.aclose())
        """,
        url,
    )
    assert out == "b'3'\n"


def test_loops_in_threads_have_connections_of_their_own(url: str, name: str, admin: Admin) -> None:
    store = kv.open_async(url)
    all_connected = threading.Barrier(4)

    async def work() -> None:
        for _ in range(20):
            await store.increment("n")
        all_connected.wait(30)
        await store.namespace("n")._db.source.leave()  # type: ignore[attr-defined]

    in_threads(*[lambda: asyncio.run(work())] * 4)

    async def main() -> None:
        assert await store.get("n") == b"80"
        await store.aclose()

    run(main)


def test_a_forked_child_has_connections_of_its_own(url: str) -> None:
    out = python(
        """
        import asyncio, os, sys, threading, warnings, kv
        warnings.simplefilter("ignore", DeprecationWarning)   # of fork beside threads, which is what is tested
        store = kv.open(sys.argv[1], cleanup_interval=1000)
        store.set("k", b"parent")
        stop = threading.Event()
        def write():
            while not stop.is_set():
                store.increment("parent")
        threads = [threading.Thread(target=write) for _ in range(3)]
        for t in threads: t.start()
        for i in range(6):
            pid = os.fork()
            if not pid:
                for _ in range(20):
                    store.increment("child")
                assert store.get("k") == b"parent"
                if i % 2:
                    store.close()
                    sys.exit(0)       # the interpreter ends, and closes nothing of the parent's
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        stop.set()
        for t in threads: t.join()
        print(store.get("child"), store.verify())
        store.close()
        """,
        url,
    )
    assert out == "b'120' []\n"


def test_a_child_forked_from_a_loop_has_connections_of_its_own(url: str) -> None:
    out = python(
        """
        import asyncio, os, sys, kv
        store = kv.open_async(sys.argv[1])
        async def more():
            await asyncio.gather(*(store.increment("n") for _ in range(20)))
        async def main():
            await asyncio.gather(*(store.increment("n") for _ in range(20)))
            if not os.fork():
                try:
                    await store.get("n")    # this loop is the parent's, says asyncio
                except RuntimeError:
                    asyncio.run(more())
                os._exit(0)
            assert os.wait()[1] == 0
            await asyncio.gather(*(store.increment("n") for _ in range(20)))
            print(await store.get("n"))
            await store.aclose()
        asyncio.run(main())
        """,
        url,
    )
    assert out == "b'60'\n"


def test_a_child_forked_inside_an_update_writes_nothing(url: str) -> None:
    out = python(
        """
        import os, sys, kv
        store = kv.open(sys.argv[1])
        parent = os.getpid()
        def fn(value):
            if not os.fork():
                return b"child"
            assert os.wait()[1] == 0
            return b"parent"
        try:
            store.update("k", fn)
        except kv.BackendError as e:
            assert os.getpid() != parent and "forked" in str(e), e
            store.set("child", b"works")
            os._exit(0)
        assert os.getpid() == parent
        print(store.get("k"), store.get("child"))
        store.close()
        """,
        url,
    )
    assert out == "b'parent' b'works'\n"


def test_the_interpreter_ends_quietly_with_open_stores(url: str) -> None:
    code = """
        import asyncio, sys, kv
        store = kv.open(sys.argv[1], cleanup_interval=0.01)
        store.set("k", b"v")
        view = store.namespace("n")
        other = kv.open_async(sys.argv[1], cleanup_interval=0.01)
        """
    assert python(code, url) == ""


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_store_cleans_by_itself_when_told_to(url: str, table: str, admin: Admin, colour: str) -> None:
    def gone() -> bool:
        return not admin.execute(f"SELECT 1 FROM {table}").fetchone()

    if colour == "sync":
        with kv.open(url, cleanup_interval=0.05) as store:
            store.set("k", b"v", ttl=0.05)
            wait_for(gone)
    else:

        async def main() -> None:
            async with kv.open_async(url, cleanup_interval=0.05) as store:
                await store.set("k", b"v", ttl=0.05)
                await until(gone)

        run(main)
    assert not [thread for thread in threading.enumerate() if thread.name == "kv-cleanup"]


# any isolation level


@pytest.mark.parametrize("level", ["serializable", "repeatable read"])
@pytest.mark.parametrize("whose", ["own", "borrowed"])
def test_nothing_is_lost_at_any_default_isolation_level(
    postgres: servers.Server, table: str, level: str, whose: str
) -> None:
    url = f"{postgres.url}?options={quote(f'-c default_transaction_isolation={level}'.replace(' read', chr(92) + ' read'))}"

    def work(store: kv.Store) -> None:
        for _ in range(10):
            store.increment("n")
            store.update("u", lambda value: b"%d" % (int(value or 0) + 1))
            store.update_many(["x", "y"], lambda found: {key: b"%d" % (int(found.get(key, 0)) + 1) for key in "xy"})
            store.set_many({"a": b"1", "b": b"2"})
            store.delete_many(["b", "a"])
        store.pop("a")

    with contextlib.ExitStack() as stack:
        server: Any = url
        if whose == "borrowed":
            server = stack.enter_context(psycopg_pool.ConnectionPool(url, min_size=1, max_size=8, open=True))
        store = stack.enter_context(kv.PostgresStore(server, table=table))
        assert in_threads(*[lambda: work(store)] * 6) == [None] * 6
        assert store.get_many(["n", "u", "x", "y"]) == dict.fromkeys("nuxy", b"60")
        if whose == "borrowed":
            assert server.get_stats()["pool_available"] == server.get_stats()["pool_size"]

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            server: Any = url
            if whose == "borrowed":
                server = await stack.enter_async_context(asyncpg.create_pool(url, min_size=1, max_size=8))
            store = await stack.enter_async_context(kv.AsyncPostgresStore(server, table=table))

            async def work() -> None:
                for _ in range(10):
                    await store.increment("n")
                    await store.update("u", lambda value: b"%d" % (int(value or 0) + 1))
                    await store.set_many({"a": b"1", "b": b"2"})
                    await store.delete_many(["b", "a"])

            await asyncio.gather(*(work() for _ in range(6)))
            assert await store.get_many(["n", "u"]) == dict.fromkeys("nu", b"120")
            await store.aclose()
            if whose == "borrowed":
                assert await server.fetchval("SELECT 1") == 1
                assert server.get_idle_size() == server.get_size()

    run(main)


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


# a server of this file's own: it is killed, and asks for passwords


PASSWORD = quote("s3 cr#t@/?", safe="")


@pytest.fixture(scope="module")
def own() -> Iterator[servers.Postgres]:
    server = servers.own_postgres(hba="host all keeper 127.0.0.1/32 scram-sha-256")
    with psycopg.connect(server.url, autocommit=True) as connection:
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

    run(main)
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
        assert "s3" not in repr(store)

    async def main() -> None:
        async with kv.open_async(url) as store:
            assert await store.get("k") == url.encode()
            assert "s3" not in repr(store)

    run(main)


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

    run(main)


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

        run(main)
        connection.execute("REVOKE ALL ON to_read FROM reader; DROP ROLE reader")
