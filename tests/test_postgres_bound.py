"""What a PostgreSQL store does inside a transaction of the caller's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg
import psycopg
import pytest
from psycopg.rows import dict_row

import kv
from kv.testing.suite import bounded

if TYPE_CHECKING:
    from servers import Server


def test_a_bound_store_commits_and_rolls_back_with_the_caller(table: str, postgres: Server) -> None:
    with kv.PostgresStore(postgres.url, table=table) as store, psycopg.connect(postgres.url) as connection:
        bound = store.namespace("n").bind(connection)
        outside = store.namespace("n")
        everything(bound)
        assert outside.keys() == []
        connection.commit()
        assert outside.keys() == bound.keys() == ["a", "b", "c", "n"]
        bound.set("a", b"later")
        bound.update("b", lambda _: None)
        connection.rollback()
        assert outside.get_many(["a", "b"]) == {"a": b"1", "b": b"2!"}
        bound.close()
        assert connection.execute("SELECT 1").fetchone() == (1,)
        connection.rollback()
        with pytest.raises(kv.ConfigError, match="psycopg connection, not str"):
            store.bind(postgres.url)


def test_a_bound_update_that_is_overtaken_leaves_the_caller_s_transaction_whole(postgres: Server, table: str) -> None:
    with kv.PostgresStore(postgres.url, table=table) as store, psycopg.connect(postgres.url) as connection:
        bound = store.bind(connection)
        bound.set("before", b"1")
        seen: list[bytes | None] = []

        def fn(value: bytes | None) -> bytes:
            if not seen:
                store.set("k", b"faster")
            seen.append(value)
            return b"mine"

        assert bound.update("k", fn) == b"mine"
        assert seen == [None, b"faster"]
        connection.commit()
        assert store.get_many(["before", "k"]) == {"before": b"1", "k": b"mine"}


def test_a_bound_async_update_that_is_overtaken_leaves_the_caller_s_transaction_whole(
    postgres: Server, table: str
) -> None:
    async def main() -> None:
        with kv.PostgresStore(postgres.url, table=table) as other:
            async with kv.AsyncPostgresStore(postgres.url, table=table) as store:
                connection = await asyncpg.connect(postgres.url)
                bound = store.bind(connection)
                seen: list[bytes | None] = []

                def fn(value: bytes | None) -> bytes:
                    if not seen:
                        other.set("k", b"faster")
                    seen.append(value)
                    return b"mine"

                async with connection.transaction():
                    await bound.set("before", b"1")
                    assert await bound.update("k", fn) == b"mine"
                assert seen == [None, b"faster"]
                assert await store.get_many(["before", "k"]) == {"before": b"1", "k": b"mine"}
                await connection.close()

    bounded(main, 60)


def test_a_connection_s_own_settings_do_not_matter_or_are_refused(postgres: Server, table: str) -> None:
    with kv.PostgresStore(postgres.url, table=table) as store:
        with psycopg.connect(postgres.url, row_factory=dict_row) as connection:
            bound = store.bind(connection)
            bound.set("k", b"1")
            assert bound.increment("k") == 2
            assert bound.keys() == ["k"]
            assert bound.pop("k") == b"2"
        with psycopg.connect(postgres.url, client_encoding="latin1") as connection:
            with pytest.raises(kv.ConfigError, match="client_encoding"):
                store.bind(connection).get("k")
            with connection.pipeline(), pytest.raises(kv.ConfigError):
                store.bind(connection).set("k", b"v")


def everything(bound: kv.PostgresStore) -> None:
    bound.set("a", b"1")
    bound.set_many({"b": b"2", "gone": b"x"})
    assert bound.increment("n", 5) == 5
    assert bound.update("b", lambda value: (value or b"") + b"!") == b"2!"
    assert bound.update_many(["c", "gone"], lambda _: {"c": b"3"}) == {"c": b"3"}
    with pytest.raises(ZeroDivisionError):
        bound.update("new", lambda _: b"%d" % (1 // 0))
    with pytest.raises(ZeroDivisionError):
        bound.update_many(["new", "a"], lambda _: {"new": b"%d" % (1 // 0)})
    with pytest.raises(kv.NotAnInteger):
        bound.increment("b")
    assert bound.keys() == ["a", "b", "c", "n"]
    assert [key for key, _ in bound.scan()] == ["a", "b", "c", "n"]
    with pytest.raises(kv.ConfigError, match="inside a transaction"):
        bound.compact()


def test_a_bound_async_store_commits_and_rolls_back_with_the_caller(table: str, postgres: Server) -> None:
    async def main() -> None:
        async with kv.AsyncPostgresStore(postgres.url, table=table) as store:
            connection = await asyncpg.connect(postgres.url)
            bound = store.namespace("n").bind(connection)
            outside = store.namespace("n")

            async def fails() -> None:
                async with connection.transaction():
                    await bound.set_many({"a": b"1", "b": b"2"})
                    raise RuntimeError("mine")

            with pytest.raises(RuntimeError, match="mine"):
                await fails()
            assert await outside.keys() == []
            async with connection.transaction():
                await bound.set("a", b"1")
                assert await bound.increment("n", 5) == 5
                assert await bound.update("b", lambda _: b"2!") == b"2!"
                await bound.set("gone", b"x")
                assert await bound.update_many(["c", "gone"], lambda _: {"c": b"3"}) == {"c": b"3"}
                for keys in (["new"], ["new", "a"]):
                    with pytest.raises(ZeroDivisionError):
                        await bound.update_many(keys, lambda _: {"new": b"%d" % (1 // 0)})
                assert await bound.keys() == ["a", "b", "c", "n"]
                with pytest.raises(kv.ConfigError, match="inside a transaction"):
                    await bound.compact()
                assert await outside.keys() == []
            assert await outside.keys() == ["a", "b", "c", "n"]
            await bound.set("single", b"1")  # outside a transaction each call is its own
            assert await outside.get("single") == b"1"
            await bound.aclose()
            assert await connection.fetchval("SELECT 1") == 1
            await connection.close()
            with pytest.raises(kv.ConfigError, match="asyncpg connection, not str"):
                store.bind(postgres.url)

    bounded(main, 60)


def test_a_bound_store_on_an_autocommit_connection_makes_each_call_its_own(table: str, postgres: Server) -> None:
    with (
        kv.PostgresStore(postgres.url, table=table) as store,
        psycopg.connect(postgres.url, autocommit=True) as connection,
    ):
        bound = store.bind(connection)
        bound.set("a", b"1")
        assert store.get("a") == b"1"
        with connection.transaction(force_rollback=True):
            bound.set("a", b"2")
            assert bound.get("a") == b"2"
        assert store.get("a") == b"1"


def test_an_outbox_row_and_an_entry_are_written_together_or_not_at_all(
    postgres_url: str, postgres: Server, table: str
) -> None:
    with kv.PostgresStore(postgres.url, table=table) as store, psycopg.connect(postgres.url) as connection:
        connection.execute("CREATE TEMPORARY TABLE orders (id int PRIMARY KEY)")
        connection.commit()
        for _ in range(2):
            with connection.transaction():
                store.bind(connection).increment("orders")
                connection.execute("INSERT INTO orders VALUES (1) ON CONFLICT DO NOTHING")

        def fails() -> None:
            with connection.transaction():
                store.bind(connection).increment("orders")
                connection.execute("INSERT INTO orders VALUES (1)")

        with pytest.raises(psycopg.errors.UniqueViolation):
            fails()
        assert store.get("orders") == b"2"
