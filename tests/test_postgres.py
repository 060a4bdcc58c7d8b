"""What is PostgreSQL's own: the table, and the statements on it."""

from __future__ import annotations

import asyncio
import math
import threading
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from programs import python
from waiting import until

import kv
from kv.backends.postgres.rows import CHUNK_BYTES
from kv.keys import Listing, fnv1a_64
from kv.testing.suite import bounded, lifted

if TYPE_CHECKING:
    from collections.abc import Callable

    from servers import Server

    Admin = psycopg.Connection[tuple[Any, ...]]

# Pairs of keys with one FNV-1a 64 hash, and their hash: two that are known, and those that a search of a minute found.
COLLISIONS = [
    ("8yn0iYCKYHlIj4-BwPqk", "GReLUrM4wMqfg9yzV3KQ"),
    ("gMPflVXtwGDXbIhP73TX", "LtHf1prlU1bCeYZEdqWf"),
    ("7AYxKoAEekM", "w0hNgTikuyD"),
    ("r73waD53udO", "q9xb1-lzvTP"),
]


@pytest.fixture(params=[kv.open, kv.open_async], ids=["sync", "async"])
def opens(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Opens a store of either colour."""
    opened: Callable[..., Any] = request.param
    return opened


def run(store: Any, body: Callable[[kv.AsyncStore], Any]) -> None:
    """Do it with a store of either colour, and close that."""

    async def main() -> None:
        async with lifted(store) as opened:
            await body(opened)

    bounded(main, 60)


def one(admin: Admin, sql: str) -> Any:
    """The only value that a query gives."""
    row = admin.execute(sql).fetchone()
    assert row is not None
    return row[0]


# the table


def columns(admin: Admin, table: str) -> dict[str, str]:
    found = admin.execute(
        "SELECT column_name, data_type || coalesce(' ' || collation_name, '') FROM information_schema.columns "
        "WHERE table_name = %s",
        (table,),
    )
    return {str(name): str(kind) for name, kind in found}


def test_the_table_has_the_columns_of_the_contract(postgres_url: str, table: str, admin: Admin) -> None:
    kv.open(postgres_url).close()
    found = columns(admin, table)
    assert found["key_hash"] == "bigint"
    assert found["key"] == "text C"
    assert found["value"] == "bytea"
    assert {"expires_at", "updated_at", "namespace"} <= found.keys()
    first = admin.execute(
        "SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] "
        "WHERE i.indrelid = %s::regclass AND i.indisprimary",
        (table,),
    ).fetchone()
    assert first == ("key_hash",)


def test_a_row_is_as_the_contract_says(opens: Callable[..., Any], postgres_url: str, table: str, admin: Admin) -> None:
    async def body(store: kv.AsyncStore) -> None:
        for key in ("é🌍", *COLLISIONS[1]):
            await store.namespace("a").namespace("b").set(key, b"v", ttl=100)
        rows = admin.execute(f"SELECT key_hash, namespace, key, value, expires_at - now() < '100 s' FROM {table}")
        assert sorted(rows) == sorted(
            (fnv1a_64(key.encode()), "a\x1fb", key, b"v", True) for key in ("é🌍", *COLLISIONS[1])
        )

    run(opens(postgres_url), body)


@pytest.mark.parametrize(("left", "right"), COLLISIONS)
def test_two_keys_with_one_hash_are_two_entries_in_every_operation(
    opens: Callable[..., Any], postgres_url: str, left: str, right: str
) -> None:
    assert fnv1a_64(left.encode()) == fnv1a_64(right.encode())

    async def body(store: kv.AsyncStore) -> None:
        await store.set(left, b"1")
        assert await store.get(right) is None
        assert not await store.delete(right)
        assert await store.pop(right) is None
        assert not await store.exists(right)
        assert not await store.expire(right, 5)
        assert not await store.compare_and_set(right, b"1", b"x")
        assert await store.add(right, b"5")
        assert (await store.increment(left), await store.increment(right)) == (2, 6)
        assert await store.update(left, lambda value: (value or b"") + b"l") == b"2l"
        assert await store.get_many([right, left]) == {right: b"6", left: b"2l"}
        await store.set_many({left: b"3", right: b"7"}, ttl=60)
        assert await store.update_many([right, left], lambda found: {k: v + b"!" for k, v in found.items()}) == {
            left: b"3!",
            right: b"7!",
        }
        assert [entry async for entry in store.scan()] == sorted([(left, b"3!"), (right, b"7!")])
        assert await store.persist(left)
        assert await store.ttl(right) != await store.ttl(left)
        assert await store.delete_many([left, left]) == 1
        assert await store.keys() == [right]
        assert await store.verify() == []

    run(opens(postgres_url), body)


def test_a_clash_of_both_hashes_is_an_error_and_never_a_wrong_value(
    opens: Callable[..., Any], postgres_url: str, table: str, admin: Admin
) -> None:
    with kv.open(postgres_url) as store:
        store.set("mine", b"1")
        admin.execute(f"UPDATE {table} SET key = 'other'")  # now the row of "mine" holds another key

    async def body(store: kv.AsyncStore) -> None:
        assert await store.get("mine") is None
        assert await store.get_many(["mine"]) == {}
        assert not await store.delete("mine")
        assert await store.delete_many(["mine"]) == 0
        assert not await store.compare_and_set("mine", b"1", b"2")
        writes: list[Callable[[], Any]] = [
            lambda: store.set("mine", b"2"),
            lambda: store.set("mine", b"2", ttl=5),
            lambda: store.set_many({"mine": b"2"}),
            lambda: store.set_many({"mine": b"2"}, ttl=5),
            lambda: store.add("mine", b"2"),
            lambda: store.increment("mine"),
            lambda: store.increment("mine", ttl=5),
            lambda: store.update("mine", lambda _: b"2"),
            lambda: store.update_many(["mine", "more"], lambda _: {"mine": b"2"}),
            lambda: store.compare_and_set("mine", None, b"2"),
        ]
        for write in writes:
            with pytest.raises(kv.CorruptData, match="another key"):
                await write()
        assert admin.execute(f"SELECT key, value FROM {table}").fetchall() == [("other", b"1")]
        assert len(await store.verify()) == 1

    run(opens(postgres_url), body)


def test_verify_names_every_row_that_no_store_has_written(
    opens: Callable[..., Any], postgres_url: str, table: str, admin: Admin
) -> None:
    async def body(store: kv.AsyncStore) -> None:
        await store.set_many({f"key {n}": b"v" for n in range(3_000)}, ttl=100)
        assert await store.verify() == []
        admin.execute(f"UPDATE {table} SET key_hash = key_hash + 1 WHERE key = 'key 1'")
        admin.execute(f"UPDATE {table} SET expires_bucket = NULL WHERE key = 'key 2'")
        admin.execute(f"UPDATE {table} SET key = E'\\n' WHERE key = 'key 3'")
        admin.execute(f"UPDATE {table} SET namespace = 'x' WHERE key = 'key 4'")
        found = sorted(await store.verify())
        assert len(found) == 4
        assert "'key 1': a key_hash of another key" in found[1]
        assert "'key 2': an expires_bucket" in found[2]
        assert "control character" in found[0]
        assert "'key 4': a key_check" in found[3]

    run(opens(postgres_url), body)


def test_ten_processes_make_a_new_table_at_once(postgres_url: str) -> None:
    out = python(
        """
        import subprocess, sys
        code = "import sys, kv; sys.stdin.readline(); kv.open(sys.argv[1]).increment('n')"
        many = [subprocess.Popen([sys.executable, "-c", code, sys.argv[1]], stdin=subprocess.PIPE) for _ in range(10)]
        for one in many: one.stdin.write(b"\\n"); one.stdin.close()
        print([one.wait() for one in many])
        """,
        postgres_url,
    )
    assert out == f"{[0] * 10}\n"
    with kv.open(postgres_url) as store:
        assert store.get("n") == b"10"


def test_what_ddl_prints_makes_a_table_that_a_store_takes(
    opens: Callable[..., Any], postgres: Server, table: str, admin: Admin
) -> None:
    for options in ("", "&unlogged=true", "&listing=false", "&schema=kv%20%22schema"):
        url = f"{postgres.url}?table={table}{options}"
        assert "DROP" not in kv.url.ddl(url)
        admin.execute(kv.url.ddl(url))

        async def body(store: kv.AsyncStore) -> None:
            await store.set("k", b"v")
            assert await store.get("k") == b"v"

        run(opens(url + "&create=false"), body)
        admin.execute(f'DROP TABLE IF EXISTS "{table}"; DROP SCHEMA IF EXISTS "kv ""schema" CASCADE')


def test_a_schema_that_is_missing_is_made_too(opens: Callable[..., Any], postgres: Server, admin: Admin) -> None:
    async def body(store: kv.AsyncStore) -> None:
        await store.set("k", b"v")

    try:
        run(opens(postgres.url, schema="Kv; DROP", table='"'), body)
        assert admin.execute('SELECT key FROM "Kv; DROP".""""').fetchall() == [("k",)]
        run(opens(postgres.url, schema="Kv; DROP", table='"'), body)
    finally:
        admin.execute('DROP SCHEMA IF EXISTS "Kv; DROP" CASCADE')


def test_without_create_nothing_is_made(opens: Callable[..., Any], postgres_url: str, table: str, admin: Admin) -> None:
    async def body(store: kv.AsyncStore) -> None:
        with pytest.raises(kv.ConfigError, match="kv ddl"):
            await store.get("k")

    def opened() -> Any:
        return opens(postgres_url + "&create=false")

    if opens is kv.open:
        with pytest.raises(kv.ConfigError, match="kv ddl"):
            opened()
    else:
        run_open(opened(), body)
    assert columns(admin, table) == {}


def run_open(store: Any, body: Callable[[Any], Any]) -> None:
    """As `run`, without `async with`, which would connect."""

    async def main() -> None:
        try:
            await body(store)
        finally:
            await store.aclose()

    bounded(main, 60)


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        ("SET UNLOGGED", "", ["UNLOGGED", "unlogged=true", "SET LOGGED"]),
        ("ADD extra int", "", ["extra integer", "untouched", "table="]),
        ("DROP updated_at", "", ["lacks updated_at"]),
        ('ALTER key TYPE text COLLATE "POSIX"', "", ["key text", "kv ddl"]),
        ("DROP CONSTRAINT {table}_pkey", "", ["primary key is ()"]),
        ("SET (fillfactor = 75)", "&unlogged=true", ["LOGGED", "unlogged=false", "SET UNLOGGED"]),
        (None, "", ["schema version 2", "Upgrade anykv"]),
    ],
)
def test_a_table_that_is_another_one_is_refused_and_left_alone(
    opens: Callable[..., Any],
    postgres_url: str,
    table: str,
    admin: Admin,
    change: str | None,
    options: str,
    said: list[str],
) -> None:
    with kv.open(postgres_url) as store:
        store.set("k", b"v")
    admin.execute(
        f"COMMENT ON TABLE {table} IS 'anykv 2'"
        if change is None
        else f"ALTER TABLE {table} {change}".format(table=table)
    )
    before = columns(admin, table)

    async def body(store: kv.AsyncStore) -> None:
        await store.get("k")

    with pytest.raises(kv.ConfigError) as caught:
        run(opens(postgres_url + options), body)
    for words in said:
        assert words in str(caught.value)
    assert columns(admin, table) == before
    assert admin.execute(f"SELECT key FROM {table}").fetchall() == [("k",)]


def test_a_page_reads_what_it_gives_and_not_all_under_its_prefix(postgres_url: str, admin: Admin) -> None:
    store: Any
    with kv.open(postgres_url) as store:
        store.set_many({f"{side}{n}": b"" for n in range(3_000) for side in "az"})
        store.compact()  # which tells the planner that there is nothing between them
        store.set_many({f"m{n}": b"" for n in range(10_000)})
        bounds, arguments = store._rows.range(Listing("m"))
        sql = f"EXPLAIN (ANALYZE, FORMAT JSON) {store._sql.keys(10, bounds)}"
    row: Any = psycopg.RawCursor(admin).execute(sql, arguments).fetchone()

    def rows(plan: dict[str, Any]) -> list[float]:
        return [plan["Actual Rows"], *(number for part in plan.get("Plans", ()) for number in rows(part))]

    assert max(rows(row[0][0]["Plan"])) < 100


def test_without_listing_there_is_no_index_for_it_and_everything_works(
    opens: Callable[..., Any], postgres_url: str, table: str, admin: Admin
) -> None:
    async def body(store: kv.AsyncStore) -> None:
        inside = store.namespace("n")
        await inside.set_many({f"k{i}": b"v" for i in range(20)})
        await inside.namespace("m").set("k", b"v")
        assert await inside.keys("k1", limit=3) == ["k1", "k10", "k11"]
        assert await store.namespaces() == ["n"]
        assert await inside.namespaces() == ["m"]
        assert await inside.count() == 20
        assert await inside.clear("k1") == 11

    run(opens(postgres_url + "&listing=false"), body)
    indexes = admin.execute("SELECT indexdef FROM pg_indexes WHERE tablename = %s", (table,)).fetchall()
    assert len(indexes) == 2
    assert not any("left" in str(index) for index in indexes)


# statements


def test_a_deadline_counts_from_the_write_and_not_from_when_it_began_to_wait(
    opens: Callable[..., Any], postgres_url: str, table: str, admin: Admin
) -> None:
    with kv.open(postgres_url) as store:
        store.set_many(dict.fromkeys("abcd", b"1"))
        store.set("gone", b"1", ttl=0.5)
    with psycopg.connect(admin.info.dsn) as other:
        other.execute(f"SELECT FROM {table} FOR UPDATE")

        async def body(store: kv.AsyncStore) -> None:
            results: dict[str, Any] = {}

            async def call(name: str, method: str, *args: Any, **kwargs: Any) -> None:
                results[name] = await getattr(opens(postgres_url) if opens is kv.open else store, method)(
                    *args, **kwargs
                )

            def calls(method: str, *args: Any, **kwargs: Any) -> threading.Thread:
                async def main() -> None:
                    async with lifted(opens(postgres_url)) as own:
                        results[f"{method} {args[0]}"] = await getattr(own, method)(*args, **kwargs)

                thread = threading.Thread(target=asyncio.run, args=(main(),))
                thread.start()
                return thread

            threads = [
                calls("set", "a", b"2", ttl=100),
                calls("increment", "b", ttl=100),
                calls("expire", "c", 100),
                calls("set_many", {"d": b"2"}, ttl=100),
                calls("persist", "gone"),
                calls("expire", "gone", 100),
                calls("delete", "gone"),
                calls("pop", "gone"),
                calls("compare_and_set", "gone", b"1", b"2"),
            ]
            waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
            await until(lambda: one(admin, waiting) == len(threads))
            await until(lambda: not one(admin, f"SELECT count(*) FROM {table} WHERE expires_at > clock_timestamp()"))
            released = admin.execute("SELECT clock_timestamp()").fetchone()
            other.commit()
            for thread in threads:
                thread.join()
            early = admin.execute(
                f"SELECT key FROM {table} WHERE key < 'e' AND expires_at < %s::timestamptz + interval '100 s'", released
            )
            assert early.fetchall() == []
            assert {name: result for name, result in results.items() if "gone" in name and result} == {}
            assert await store.get("gone") is None

        run(opens(postgres_url), body)


def test_a_later_deadline_is_a_hot_update(
    opens: Callable[..., Any], postgres_url: str, table: str, admin: Admin
) -> None:
    async def body(store: kv.AsyncStore) -> None:
        for n in range(200):
            await store.set(f"session:{n}", b"x" * 200, ttl=600)
        for n in range(200):
            await store.expire(f"session:{n}", 600 + n * 60)
            await store.set(f"session:{n}", b"y" * 200, ttl=1_000 + n * 60)
            await store.update(f"session:{n}", lambda _: b"z" * 200, ttl=2_000 + n * 60)

    run(opens(postgres_url), body)
    hot, every = hot_updates(admin, table)
    assert every == 600
    assert hot >= 0.8 * every
    with kv.open(postgres_url) as store:
        assert store.verify() == []


def hot_updates(admin: Admin, table: str) -> tuple[int, int]:
    """How many updates of the table were HOT, and how many there were, when the server has been told of them."""
    admin.execute("SELECT pg_stat_clear_snapshot()")
    while True:
        row = admin.execute(
            "SELECT n_tup_hot_upd, n_tup_upd FROM pg_stat_user_tables WHERE relname = %s", (table,)
        ).fetchone()
        assert row is not None
        if row[1]:
            return int(row[0]), int(row[1])


def test_cleanup_finds_what_has_expired_wherever_its_deadline_has_been_before(
    opens: Callable[..., Any], postgres_url: str, table: str, admin: Admin
) -> None:
    async def body(store: kv.AsyncStore) -> None:
        for first in (0.05, 5, 500, 50_000, 10**12):
            for then in (0.05, 0.06):
                await store.set(f"{first} {then}", b"v", ttl=first)
                await store.expire(f"{first} {then}", 3_000)
                await store.update(f"{first} {then}", lambda v: v, ttl=then)
        await store.set("stays", b"v", ttl=50)
        await until(lambda: one(admin, f"SELECT count(*) FROM {table} WHERE expires_at > clock_timestamp()") == 1)
        assert await store.cleanup(limit=3) == 3
        assert await store.cleanup() == 7
        assert await store.cleanup() == 0
        assert await store.verify() == []

    run(opens(postgres_url), body)


def test_cleanup_takes_what_nobody_holds(
    opens: Callable[..., Any], postgres_url: str, table: str, admin: Admin
) -> None:
    async def body(store: kv.AsyncStore) -> None:
        await store.set_many({f"k{n}": b"v" for n in range(10)}, ttl=0.02)
        await until(lambda: not one(admin, f"SELECT count(*) FROM {table} WHERE expires_at > clock_timestamp()"))
        with psycopg.connect(admin.info.dsn) as other:
            other.execute(f"SELECT FROM {table} WHERE key IN ('k1', 'k2') FOR UPDATE")
            assert await store.cleanup() == 8
        assert await store.cleanup() == 2

    run(opens(postgres_url), body)


def test_a_batch_of_more_bytes_than_a_statement_takes_is_all_or_nothing(
    opens: Callable[..., Any], postgres_url: str, table: str, admin: Admin
) -> None:
    value = b"v" * 20_000_000
    entries = {f"k{n}": value for n in range(CHUNK_BYTES // len(value) + 2)}

    async def body(store: kv.AsyncStore) -> None:
        await store.set_many(entries)
        assert await store.count() == len(entries)
        sizes = [len(value) async for _, value in store.scan()]
        assert sizes == [len(value)] * len(entries)
        await store.clear()
        last = max(entries, key=lambda key: fnv1a_64(key.encode()))  # in the last statement
        admin.execute(f"ALTER TABLE {table} ADD CONSTRAINT no CHECK (key <> '{last}')")
        with pytest.raises(kv.BackendError):
            await store.set_many(entries)
        assert await store.count() == 0

    run(opens(postgres_url), body)


def test_a_value_too_large_is_refused(
    opens: Callable[..., Any], postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kv.backends.postgres.errors.MAX_VALUE", 1_000)
    big = b"v" * 1_001

    async def body(store: kv.AsyncStore) -> None:
        await store.set("k", b"v" * 1_000)
        writes: list[Callable[[], Any]] = [
            lambda: store.set("k", big),
            lambda: store.set_many({"a": b"1", "k": big}),
            lambda: store.add("new", big),
            lambda: store.update("k", lambda _: big),
            lambda: store.update_many(["k", "l"], lambda _: {"k": big}),
            lambda: store.compare_and_set("k", b"v" * 1_000, big),
        ]
        for write in writes:
            with pytest.raises(kv.ValueTooLarge, match="1,001 bytes"):
                await write()
        assert await store.keys() == ["k"]

    run(opens(postgres_url), body)


def test_entries_without_a_deadline_are_in_no_index_of_cleanup(
    opens: Callable[..., Any], postgres_url: str, table: str, admin: Admin
) -> None:
    async def body(store: kv.AsyncStore) -> None:
        await store.set("a", b"1", ttl=5)
        await store.set("a", b"1")
        await store.add("b", b"1")
        await store.update("c", lambda _: b"1")
        await store.update_many(["d", "e"], lambda _: {"d": b"1", "e": b"1"})
        await store.increment("f", ttl_if_new=5)
        await store.persist("f")
        await store.increment("g")
        await store.set_many({"h": b"1"})
        await store.compare_and_set("i", None, b"1")
        assert await store.count() == 9

    run(opens(postgres_url), body)
    assert one(admin, f"SELECT count(*) FROM {table} WHERE expires_bucket IS NOT NULL") == 0


def test_a_counter_that_expires_while_it_is_counted_starts_anew(opens: Callable[..., Any], postgres_url: str) -> None:
    async def body(store: kv.AsyncStore) -> None:
        for _ in range(300):
            await store.set("k", b"100", ttl=0.002)
            for _ in range(8):
                if await store.increment("k") < 100:
                    break
                assert await store.ttl("k") != math.inf
            await store.delete("k")

    run(opens(postgres_url), body)
