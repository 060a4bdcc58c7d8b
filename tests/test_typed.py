"""Values of a type over every store, in both colours, and a store as a mapping."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from colours import around, both, run
from programs import python, pythons

import kv
from kv.testing import Conformance
from kv.testing.suite import listed, together
from kv.wrappers import AsyncCompressed, Compressed

if TYPE_CHECKING:
    from collections.abc import Callable

SECRET = "hunter2-secret"


@dataclass
class User:
    name: str
    visits: int = 0
    tags: list[str] = field(default_factory=list)


class Point(msgspec.Struct, frozen=True):
    x: int
    y: float = 0.0


class Raw(Conformance):
    @pytest.fixture(params=[kv.MemoryStore, kv.AsyncMemoryStore], ids=["sync", "async"])
    def store(self, request: pytest.FixtureRequest) -> Any:
        return kv.typed(request.param(), bytes, codec="raw")

    def test_every_method_has_the_parameters_and_defaults_of_the_contract(self, store: Any) -> None:  # type: ignore[override]
        """Besides the `default` of `update`, see `tests/test_public.py`."""


class TestRawIsTheStoreItself(Raw):
    pass


class TestRawInANamespace(Raw):
    view = ("a", "b:c")


def of(store: Any, *args: Any, **kwargs: Any) -> Any:
    """Type what `run` gives, in its colour."""
    return around(store, kv.typed, kv.typed, *args, **kwargs)


@both
def test_every_method_is_of_values(opens: Callable[..., Any], anywhere: str) -> None:
    async def body(store: Any) -> None:
        users = of(store, User).namespace("{u}")
        ada, bob = User("Ada", 1, ["a"]), User("Bob")
        await users.set("{t}ada", ada, ttl=1_000)
        assert await users.get("{t}ada") == ada
        assert await users.get("{t}bob") is None
        assert await users.get("{t}bob", 7) == 7
        assert await users.require("{t}ada") == ada
        with pytest.raises(kv.KeyNotFound, match="bob"):
            await users.require("{t}bob")
        assert await users.add("{t}bob", bob) is True
        assert await users.add("{t}bob", ada) is False
        assert await users.get_many(["{t}bob", "{t}no", "{t}ada"]) == {"{t}bob": bob, "{t}ada": ada}
        await users.set_many({"{t}ada": bob, "{t}bob": ada})
        assert await listed(users.scan()) == [("{t}ada", bob), ("{t}bob", ada)]
        assert await users.update("{t}ada", lambda user: User(user.name, user.visits + 1)) == User("Bob", 1)
        assert await users.update("{t}new", lambda user: user, default=ada) == ada
        assert await users.update("{t}new", lambda _: None) is None
        assert await users.update_many(["{t}ada", "{t}bob"], lambda found: {"{t}ada": found["{t}bob"]}) == {
            "{t}ada": ada
        }
        assert await users.compare_and_set("{t}ada", bob, ada) is False
        assert await users.compare_and_set("{t}ada", ada, bob) is True
        assert await users.compare_and_set("{t}none", ada, None) is False
        assert await users.compare_and_set("{t}none", None, bob) is True
        assert await users.compare_and_set("{t}none", bob, None) is True
        assert await users.exists("{t}ada")
        assert await users.size("{t}ada") == len(b'{"name":"Bob","visits":0,"tags":[]}')
        assert await users.ttl("{t}ada") == math.inf
        assert await users.expire("{t}ada", 1_000) is True
        assert await users.persist("{t}ada") is True
        assert await users.keys("{t}") == ["{t}ada"]
        assert await users.count() == 1
        assert (await users.stats()).keys == 1
        assert await users.verify() == []
        assert await users.cleanup(limit=0) == 0
        await users.compact()
        assert await of(store).namespaces() == ["{u}"]
        assert await users.pop("{t}ada") == bob
        assert await users.pop("{t}ada", 3) == 3
        await users.set("{t}ada", ada)
        assert await users.delete("{t}ada") is True
        assert await users.delete_many(["{t}ada"]) == 0
        assert await users.clear() == 0

    run(opens(anywhere), body)


@both
def test_none_is_a_value_and_told_from_missing(opens: Callable[..., Any]) -> None:
    async def body(store: Any) -> None:
        values = of(store)
        await values.set("null", None)
        assert await values.get("null", "default") is None
        assert await values.require("null") is None
        assert await values.exists("null")
        assert await values.get_many(["null", "no"]) == {"null": None}
        assert await values.update("null", lambda value: value, ttl=1_000) is None
        assert await store.get("null") == b"null"
        assert await values.update_many(["null"], lambda found: found) == {"null": None}
        assert await values.add("null", 1) is False
        assert await values.compare_and_set("null", None, 1) is False
        assert await values.pop("null", "default") is None
        assert await values.update("null", lambda value: value) is None
        assert not await values.exists("null")
        await values.set("five", 5)
        assert await values.update("five", lambda _: None) is None
        assert not await values.exists("five")

    run(opens("memory://"), body)


@both
def test_bytes_of_somebody_else_are_corrupt_and_stay(opens: Callable[..., Any], anywhere: str) -> None:
    async def body(store: Any) -> None:
        users = of(store, User)
        foreign = b'{"name":5,"secret":"%s"}' % SECRET.encode()
        await store.set("{t}k", foreign, ttl=1_000)
        await users.set("{t}ok", User("Ada"))
        calls: list[Callable[[], Any]] = [
            lambda: users.get("{t}k"),
            lambda: users.require("{t}k"),
            lambda: users.pop("{t}k"),
            lambda: users.update("{t}k", lambda _: User("new")),
            lambda: users.update_many(["{t}k", "{t}ok"], lambda _: {}),
            lambda: users.get_many(["{t}k"]),
            lambda: users.compare_and_set("{t}k", User("Ada"), None),
            lambda: listed(users.scan()),
        ]
        for call in calls:
            with pytest.raises(kv.CorruptData, match=r"'\{t\}k'.*\$\.name") as caught:
                await call()
            assert SECRET not in str(caught.value)
            assert await store.get("{t}k") == foreign
        (wrong,) = await users.verify()
        assert "{t}k" in wrong
        assert "name" in wrong
        assert SECRET not in wrong
        with pytest.raises(kv.NotAnInteger):
            await of(store).increment("{t}k")
        assert await store.count() == 2

    run(opens(anywhere), body)


@both
def test_what_a_type_does_not_take_is_refused_before_anything_is_written(opens: Callable[..., Any]) -> None:
    async def body(store: Any) -> None:
        users = of(store, User)
        wrong = User(5, tags=[SECRET])  # type: ignore[arg-type]
        await users.set("k", User("Ada"))
        calls: list[Callable[[], Any]] = [
            lambda: users.set("k", wrong),
            lambda: users.add("new", wrong),
            lambda: users.set_many({"new": User("Bob"), "k": wrong}),
            lambda: users.set_many([("new", User("Bob")), ("k", wrong)]),
            lambda: users.update("k", lambda _: wrong),
            lambda: users.update_many(["k", "new"], lambda _: {"new": User("Bob"), "k": wrong}),
            lambda: users.compare_and_set("k", User("Ada"), wrong),
            lambda: users.compare_and_set("k", wrong, User("Bob")),
            lambda: users.set("k", b"bytes"),
            lambda: users.set("k", None),
            lambda: users.increment("new"),
        ]
        for call in calls:
            with pytest.raises(kv.InvalidValue) as caught:
                await call()
            assert SECRET not in str(caught.value)
            assert await listed(users.scan()) == [("k", User("Ada"))]
        with pytest.raises(kv.InvalidKey):
            await users.set(5, wrong)
        with pytest.raises(kv.InvalidKey):
            await users.update_many(["k"], lambda _: {"other": User("Bob")})
        with pytest.raises(kv.InvalidValue, match="dict"):
            await users.update_many(["k"], lambda _: [("k", User("Bob"))])

    run(opens("memory://"), body)


@both
def test_increment_adds_to_what_json_stores_and_to_what_it_does_not(opens: Callable[..., Any], anywhere: str) -> None:
    async def body(store: Any) -> None:
        for n, (kind, codec) in enumerate([(object, None), (int, "json"), (int, "msgpack"), (int | None, "json")]):
            numbers = of(store.namespace(f"{n}"), kind, codec=codec)
            await numbers.set("n", 40)
            assert await numbers.increment("n", 2) == 42
            assert await numbers.get("n") == 42
            assert await numbers.increment("new", -3, ttl_if_new=1_000) == -3
            assert await numbers.ttl("new") <= 1_000
            await numbers.set("n", 2**63 - 1)
            with pytest.raises(kv.IntegerOverflow):
                await numbers.increment("n")
            with pytest.raises(kv.IntegerOverflow):
                await numbers.increment("n", 2**63)
            with pytest.raises(TypeError):
                await numbers.increment("n", True)
            assert await numbers.get("n") == 2**63 - 1
        packed = of(store, codec="msgpack")
        for value in (True, 1.0, "1", None, [1]):
            await packed.set("n", value)
            with pytest.raises(kv.NotAnInteger):
                await packed.increment("n")
            assert await packed.get("n") == value

    run(opens(anywhere), body)


@both
def test_compare_and_set_is_by_value_and_type(opens: Callable[..., Any]) -> None:
    async def body(store: Any) -> None:
        values, users = of(store), of(store, User)
        await store.set("old", b'{"name": "Ada"}')  # before User had visits and tags
        assert await users.compare_and_set("old", User("Ada"), User("Bob")) is True
        await values.set("n", 1)
        for other in (True, 1.0, "1"):
            assert await values.compare_and_set("n", other, 2) is False
        await store.set("d", b'{"b": 1, "a": 2}')
        assert await values.compare_and_set("d", {"a": 2, "b": 1}, 3) is True

    run(opens("memory://"), body)


@both
def test_updates_side_by_side_lose_nothing(opens: Callable[..., Any], anywhere: str) -> None:
    async def body(store: Any) -> None:
        users = of(store, User)

        async def visit(n: int) -> None:
            await users.update(
                "{t}u", lambda user: User(user.name, user.visits + 1, [*user.tags, f"{n}"]), default=User("Ada")
            )

        await together(store, *map(visit, range(20)))
        user = await users.require("{t}u")
        assert user.visits == 20
        assert sorted(map(int, user.tags)) == [*range(20)]
        popped = await together(store, *(users.pop("{t}u") for _ in range(8)))
        assert [one for one in popped if one] == [user]
        won = await together(store, *(users.compare_and_set("{t}c", None, User(f"{n}")) for n in range(8)))
        assert won.count(True) == 1

    run(opens(anywhere), body)


def test_processes_update_and_increment_without_losing_one(shared: str) -> None:
    code = """
        import sys, kv
        with kv.open(sys.argv[1]) as store:
            values, packed = kv.typed(store, dict[str, int]), kv.typed(store, int, codec="msgpack")
            for _ in range(150):
                values.update("{t}d", lambda d: {**d, f"{me}": d.get(f"{me}", 0) + 1}, default={})
                packed.increment("{t}n")
            print(values.compare_and_set("{t}won", None, {"me": me}), values.pop("{t}prey") is not None)
        """
    with kv.open(shared) as store:
        values = kv.typed(store, dict[str, int])
        values.set("{t}prey", {})
        said = pythons(code, shared)
        assert values.require("{t}d") == dict.fromkeys("0123", 150)
        assert kv.typed(store, int, codec="msgpack").require("{t}n") == 600
    assert [sum(line.split()[i] == "True" for line in said) for i in (0, 1)] == [1, 1]


@both
def test_verify_goes_on_where_the_store_inside_cannot_read(opens: Callable[..., Any]) -> None:
    async def body(store: Any) -> None:
        sealed = around(store, Compressed, AsyncCompressed)
        for key, data in {"a": b"1", "b": b"x", "d": b"y"}.items():
            await sealed.set(key, data)
        await store.set("c", b"\xffforeign")
        wrong = await of(sealed, int).verify()
        assert sorted(line.split("'")[1] for line in wrong) == ["b", "c", "d"]

    run(opens("memory://"), body)


@both
def test_a_typed_store_is_a_context_and_closes_what_it_is_over(opens: Callable[..., Any]) -> None:
    async def body(store: Any) -> None:
        async with of(store) as values:
            await values.namespace("n").set("k", [1])
            async with values.namespace("n") as view:
                pass
            assert await view.get("k") == [1]
        with pytest.raises(kv.StoreClosed):
            await store.get("k")

    run(opens("memory://"), body)
    assert "TypedStore <MemoryStore" in repr(kv.typed(kv.MemoryStore()))


def test_what_is_no_store_is_refused(memory: kv.Store) -> None:
    wrong: Any
    for wrong in (None, {}, kv.typed(memory)):
        with pytest.raises(TypeError, match=r"kv\.Store"):
            kv.typed(wrong)
    with pytest.raises(kv.ConfigError, match="json, msgpack, pickle, raw, text"):
        kv.typed(memory, codec="yaml")


def test_a_missing_library_is_said_at_once_and_with_the_command(memory: kv.Store) -> None:
    code = """
        import sys
        sys.modules["msgspec"] = None     # as if it were not installed
        import dataclasses, kv
        @dataclasses.dataclass
        class User:
            name: str
        store = kv.MemoryStore()
        kv.typed(store).set("k", {"plain": [1]})
        for kind, codec in [(User, None), (object, "msgpack"), (list[int], "json")]:
            try:
                kv.typed(store, kind, codec=codec)
            except kv.ConfigError as e:
                print('pip install "anykv[typed]"' in str(e))
        """
    assert python(code) == "True\n" * 3


def test_the_function_stays_the_function_whatever_is_imported_first() -> None:
    assert python("import kv.typed, kv.mapping, kv.typedstore, kv; print(callable(kv.typed), callable(kv.as_mapping))")


# as_mapping


def test_a_store_is_a_mapping() -> None:
    with kv.MemoryStore() as store:
        mapping = kv.as_mapping(kv.typed(store))
        mapping["b"] = 2
        mapping.update({"a": 1}, c=3)
        assert dict(mapping) == {"a": 1, "b": 2, "c": 3} == mapping
        assert [*mapping] == ["a", "b", "c"] == [*mapping.keys()]
        assert [*mapping.values()] == [1, 2, 3]
        assert [*mapping.items()] == [("a", 1), ("b", 2), ("c", 3)]
        assert len(mapping) == len(mapping.items()) == 3
        assert ("a", 1) in mapping.items()
        assert "a" in mapping
        assert "z" not in mapping
        assert "" not in mapping
        assert 5 not in mapping  # type: ignore[comparison-overlap]
        assert mapping.get("z") is None
        assert mapping.setdefault("a", 9) == 1
        assert mapping.setdefault("d", 4) == 4
        assert mapping.setdefault("null") is None
        assert mapping["null"] is None
        assert mapping.pop("null", 5) is None
        assert mapping.pop("z", 5) == 5
        assert mapping.popitem() == ("a", 1)
        del mapping["b"]
        for wrong in (mapping.__getitem__, mapping.pop, mapping.__delitem__):
            with pytest.raises(KeyError, match="'z'") as caught:
                wrong("z")
            assert type(caught.value) is kv.KeyNotFound
        mapping.clear()
        assert not mapping
        with pytest.raises(kv.KeyNotFound, match="empty"):
            mapping.popitem()
        plain = kv.as_mapping(store)
        plain["k"] = b"v"
        assert plain == {"k": b"v"}


def test_a_mapping_of_a_typed_store_lists_what_does_not_decode() -> None:
    with kv.MemoryStore() as store:
        store.set_many({f"{i:04}": b"?" for i in range(1_100)})
        mapping = kv.as_mapping(kv.typed(store, int))
        assert [*mapping] == store.keys()
        with pytest.raises(kv.CorruptData):
            next(iter(mapping.values()))


def test_a_mapping_update_is_all_or_nothing() -> None:
    with kv.MemoryStore() as store:
        mapping = kv.as_mapping(kv.typed(store, int))
        with pytest.raises(kv.InvalidValue):
            mapping.update([("a", 1), ("b", "2")])  # type: ignore[list-item]
        assert not store.keys()


def test_no_mapping_of_an_async_store() -> None:
    store: Any
    for store in (kv.AsyncMemoryStore(), kv.typed(kv.AsyncMemoryStore())):
        with pytest.raises(TypeError, match="sync store"):
            kv.as_mapping(store)
    store = {}
    with pytest.raises(TypeError, match="dict"):
        kv.as_mapping(store)


def test_processes_take_from_a_mapping_and_set_its_defaults_each_once(shared: str) -> None:
    code = """
        import sys, kv
        with kv.open(sys.argv[1]) as store:
            mapping = kv.as_mapping(kv.typed(store))
            print(mapping.setdefault("a", me))
            taken = []
            while True:
                try:
                    taken.append(mapping.popitem()[0])
                except KeyError:
                    break
                if len(taken) > 40: break
            print(*taken)
        """
    with kv.open(shared) as store:
        for i in range(30):
            store.set(f"b{i}", b"1")
        said = [out.split("\n") for out in pythons(code, shared)]
        taken = sorted(key for out in said for key in out[1].split() if key != "a")
        assert taken == sorted(f"b{i}" for i in range(30))
        assert not store.keys()


def test_processes_agree_on_what_setdefault_stored(shared: str) -> None:
    code = """
        import sys, kv
        with kv.open(sys.argv[1]) as store:
            mapping = kv.as_mapping(kv.typed(store))
            print([mapping.setdefault(f"{i}", me) for i in range(150)])
        """
    assert len(set(pythons(code, shared))) == 1
