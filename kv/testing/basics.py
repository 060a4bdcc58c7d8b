"""Getting, setting and deleting, one entry or many; keys and values."""

from __future__ import annotations

import asyncio
import enum
import inspect
import math
from collections import UserDict
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from kv.errors import InvalidKey, InvalidValue
from kv.store import AsyncStore, Store

from .hostile import (
    BAD_KEYS,
    BAD_VALUES,
    BUFFERS,
    COLLISIONS,
    KEY_CALLS,
    KEYS,
    UNHASHABLE,
    VALUE_CALLS,
    VALUES,
    A,
    B,
    C,
    D,
)
from .suite import Suite, listed, plant, raises, recorded, together

if TYPE_CHECKING:
    from collections.abc import Iterator


class Basics(Suite):
    async def test_every_method_has_the_parameters_and_defaults_of_the_contract(self, store: AsyncStore) -> None:  # noqa: ARG002
        parameter = attrgetter("name", "kind", "default")
        for name, method in vars(AsyncStore if hasattr(self.given, "aclose") else Store).items():
            if not name.startswith("_"):
                _, *promised = map(parameter, inspect.signature(method).parameters.values())
                given = map(parameter, inspect.signature(getattr(self.given, name)).parameters.values())
                assert [*given] == promised, name

    async def test_a_new_store_is_empty(self, store: AsyncStore) -> None:
        assert await store.keys() == []
        assert await listed(store.scan()) == []
        assert await store.count() == 0
        assert await store.namespaces() == []
        assert await store.clear() == 0
        assert (await store.stats())[:4] == (0, 0, 0, 0)

    async def test_get_gives_what_was_set(self, store: AsyncStore) -> None:
        assert await store.set(A, b"one") is None  # type: ignore[func-returns-value]
        assert await store.get(A) == b"one"
        assert await store.get(B) is None

    async def test_get_gives_the_default_where_the_key_is_missing(self, store: AsyncStore) -> None:
        default = object()
        assert await store.get(A, default) is default
        await store.set(A, b"one")
        assert await store.get(A, default) == b"one"

    async def test_set_replaces_what_was_there(self, store: AsyncStore) -> None:
        for value in (b"one", b"", b"a longer one" * 100, b"1"):
            await store.set(A, value)
            assert await store.get(A) == value
        assert await store.count() == 1

    async def test_delete_says_whether_there_was_an_entry(self, store: AsyncStore) -> None:
        assert await store.delete(A) is False
        await store.set(A, b"one")
        await store.set(B, b"two")
        assert await store.delete(A) is True
        assert await store.delete(A) is False
        assert await store.get(A) is None
        assert await store.get(B) == b"two"

    async def test_a_deleted_key_can_be_set_again(self, store: AsyncStore) -> None:
        for value in (b"one", b"two"):
            await store.set(A, value, ttl=5)
            assert await store.delete(A)
        await store.set(A, b"three")
        assert (await store.get(A), await store.ttl(A)) == (b"three", math.inf)

    async def test_exists_and_size_describe_the_entry(self, store: AsyncStore) -> None:
        assert (await store.exists(A), await store.size(A)) == (False, None)
        for value in VALUES:
            await store.set(A, value)
            assert (await store.exists(A), await store.size(A)) == (True, len(value))

    async def test_the_empty_value_is_a_value(self, store: AsyncStore) -> None:
        await store.set(A, b"")
        default = object()
        assert await store.get(A, default) == b""
        assert (await store.exists(A), await store.size(A), await store.ttl(A)) == (True, 0, math.inf)
        assert await store.get_many([A]) == {A: b""}
        assert (await store.keys(), await store.count()) == ([A], 1)
        assert await listed(store.scan()) == [(A, b"")]
        assert await store.add(A, b"new") is False
        assert await store.compare_and_set(A, None, b"new") is False
        assert await store.compare_and_set(A, b"", b"") is True
        seen: list[bytes | None] = []
        found: list[dict[str, bytes]] = []
        assert await store.update(A, recorded(seen, b"")) == b""
        assert await store.update_many([A], recorded(found, {A: b""})) == {A: b""}
        assert ({*seen}, found[-1]) == ({b""}, {A: b""})
        assert await store.expire(A, 5) is True
        assert await store.persist(A) is True
        assert await store.pop(A, default) == b""
        assert await store.pop(A, default) is default
        await store.set(A, b"")
        assert await store.delete(A) is True

    async def test_pop_gives_the_value_and_deletes(self, store: AsyncStore) -> None:
        await store.set(A, b"one")
        await store.set(B, b"two")
        assert await store.pop(A) == b"one"
        assert await store.get(A) is None
        assert await store.pop(A) is None
        default = object()
        assert await store.pop(A, default) is default
        assert await store.keys() == [B]

    async def test_add_sets_only_where_there_is_no_entry(self, store: AsyncStore) -> None:
        assert await store.add(A, b"one") is True
        assert await store.add(A, b"two") is False
        assert await store.get(A) == b"one"
        await store.delete(A)
        assert await store.add(A, b"three") is True
        assert await store.get(A) == b"three"

    # many

    async def test_get_many_gives_what_it_finds_in_the_order_asked(self, store: AsyncStore) -> None:
        for key in (A, B, C):
            await store.set(key, key.encode())
        found = await store.get_many([C, "missing", A, C, B, A])
        assert type(found) is dict
        assert [*found.items()] == [(C, C.encode()), (A, A.encode()), (B, B.encode())]
        assert await store.get_many([]) == {}
        assert await store.get_many(["missing"]) == {}

    async def test_get_many_finds_hundreds(self, store: AsyncStore) -> None:
        entries = {f"{{t}}{i:04}": b"%d" % i for i in range(1_200)}
        await store.set_many(entries)
        asked = [*entries][::-1]
        assert [*(await store.get_many(asked)).items()] == [(key, entries[key]) for key in asked]

    async def test_keys_may_be_any_iterable(self, store: AsyncStore) -> None:
        for keys in (lambda: [A, B], lambda: (A, B), lambda: {A: 1, B: 2}, lambda: {A, B}, lambda: iter([A, B, A])):
            await store.set_many({A: b"1", B: b"2"})
            assert await store.get_many(keys()) == {A: b"1", B: b"2"}
            assert await store.update_many(keys(), dict) == {A: b"1", B: b"2"}
            assert await store.delete_many(keys()) == 2

    async def test_set_many_takes_mappings_and_pairs(self, store: AsyncStore) -> None:
        entries = {A: b"1", B: b"2"}
        for items in (entries, UserDict(entries), [*entries.items()], iter(entries.items()), entries.items()):
            assert await store.set_many(items) is None  # type: ignore[func-returns-value]
            assert await store.get_many([A, B, C]) == entries
            await store.clear()
        await store.set_many({})
        await store.set_many(iter(()))
        assert await store.keys() == []

    async def test_set_many_refuses_what_is_no_pairs(self, store: AsyncStore) -> None:
        wrong: Any
        for wrong in ("ab", 5, None, [(A,)], [5], [(A, b"1", b"2")], [(A, b"1"), A]):
            with raises(InvalidValue, wrong):
                await store.set_many(wrong)
        assert await store.keys() == []

    async def test_set_many_stores_the_last_value_of_a_key_that_comes_twice(self, store: AsyncStore) -> None:
        await store.set_many([(A, b"1"), (B, b"2"), (A, b"3"), (A, b"4")])
        assert await store.get_many([A, B]) == {A: b"4", B: b"2"}

    async def test_set_many_replaces_and_leaves_the_others(self, store: AsyncStore) -> None:
        await store.set_many({A: b"1", B: b"2"}, ttl=5)
        await store.set_many({B: b"3", C: b"4"})
        assert await store.get_many([A, B, C]) == {A: b"1", B: b"3", C: b"4"}
        assert await store.ttl(B) == await store.ttl(C) == math.inf
        assert await store.ttl(A) != math.inf

    async def test_set_many_stores_all_or_nothing(self, store: AsyncStore) -> None:
        class Stop(Exception):
            pass

        def pairs() -> Iterator[tuple[str, bytes]]:
            yield A, b"new"
            raise Stop

        await store.set(A, b"old")
        with raises(InvalidKey):
            await store.set_many([(A, b"new"), (B, b"new"), ("\0", b"new"), (C, b"new")])
        with raises(InvalidValue):
            await store.set_many([(A, b"new"), (B, b"new"), (C, "text"), (D, b"new")])  # type: ignore[list-item]
        with raises(Stop):
            await store.set_many(pairs())
        assert await listed(store.scan()) == [(A, b"old")]

    async def test_delete_many_counts_the_entries_that_it_removes(self, store: AsyncStore) -> None:
        await store.set_many({A: b"1", B: b"2", C: b"3"})
        assert await store.delete_many([A, "missing", C, A, A]) == 2
        assert await store.keys() == [B]
        assert await store.delete_many([A, C]) == 0
        assert await store.delete_many([]) == 0
        assert await store.keys() == [B]

    async def test_delete_many_deletes_hundreds(self, store: AsyncStore) -> None:
        keys = [f"{{t}}{i:04}" for i in range(1_200)]
        await store.set_many(dict.fromkeys(keys, b"1"))
        assert await store.delete_many(keys[1:]) == 1_199
        assert await store.keys() == keys[:1]

    # keys

    async def test_every_valid_key_is_one_entry_of_its_own(self, store: AsyncStore) -> None:
        assert len({*KEYS}) == len(KEYS)
        await plant(store, *KEYS)
        entries = {key: key.encode() for key in sorted(KEYS)}
        assert await store.keys() == [*entries]
        assert await listed(store.scan()) == [*entries.items()]
        assert [*(await store.get_many(KEYS)).items()] == [(key, entries[key]) for key in KEYS]
        assert await together(store, *(store.get(key) for key in KEYS)) == [entries[key] for key in KEYS]
        assert await together(store, *(store.size(key) for key in KEYS)) == [len(entries[key]) for key in KEYS]
        assert await together(store, *(store.delete(key) for key in KEYS[::2])) == [True] * len(KEYS[::2])
        assert await store.keys() == sorted(KEYS[1::2])

    async def test_a_valid_key_works_in_every_method(self, store: AsyncStore) -> None:
        async def live(key: str) -> None:
            assert await store.add(key, b"1"), key
            assert not await store.add(key, b"2"), key
            assert (await store.exists(key), await store.size(key)) == (True, 1), key
            assert await store.increment(key, 4) == 5, key
            assert await store.update(key, lambda current: (current or b"") + b"0", ttl=1_000) == b"50", key
            assert await store.update_many([key], lambda found: {key: found[key] + b"0"}) == {key: b"500"}, key
            assert 0 < (await store.ttl(key) or 0) < 1_001, key
            assert await store.persist(key), key
            assert await store.expire(key, 1_000), key
            assert await store.compare_and_set(key, b"500", b"7"), key
            assert await store.get_many([key]) == {key: b"7"}
            assert await store.keys(key, limit=1) == [key]
            assert await store.pop(key) == b"7", key
            assert await store.delete_many([key]) == 0, key

        await together(store, *map(live, KEYS[::3]))
        assert await store.keys() == []

    async def test_two_keys_with_one_hash_are_two_entries(self, store: AsyncStore) -> None:
        for one, other in COLLISIONS:
            await store.set(one, b"1")
            assert (await store.get(other), await store.exists(other), await store.ttl(other)) == (None, False, None)
            assert await store.delete(other) is False
            assert await store.add(other, b"2") is True
            assert await store.get_many([one, other]) == {one: b"1", other: b"2"}
            assert await store.increment(other) == 3
            assert await store.expire(other, 5) is True
            assert await store.ttl(one) == math.inf
            assert await store.update(one, lambda current: (current or b"") + b"1") == b"11"
            assert await store.pop(other) == b"3"
            assert await store.get(one) == b"11"
            assert await store.delete_many([one, other]) == 1

    async def test_a_key_that_is_a_kind_of_str_is_the_key_that_it_spells(self, store: AsyncStore) -> None:
        class Setting(enum.StrEnum):
            COLOUR = "colour"

        await store.set(Setting.COLOUR, b"red")
        assert await store.get("colour") == await store.get(Setting.COLOUR) == b"red"
        for keys in (await store.keys(), [*await store.get_many([Setting.COLOUR])]):
            assert [(type(key), key) for key in keys] == [(str, "colour")]
        assert await store.delete(Setting.COLOUR)

    async def test_what_is_no_key_is_refused_by_every_method(self, store: AsyncStore) -> None:
        await store.set(A, b"old")
        for what, call in KEY_CALLS.items():
            for key in BAD_KEYS:
                with raises(InvalidKey, f"{what} with {ascii(key)[:40]}"):
                    await call(store, key)
            for other in UNHASHABLE:
                if what != "set_many, a dict":
                    with raises(InvalidKey, f"{what} with {other}"):
                        await call(store, other)
        assert await listed(store.scan()) == [(A, b"old")]
        assert await store.ttl(A) == math.inf

    # values

    async def test_every_value_comes_back_as_it_was(self, store: AsyncStore) -> None:
        big = bytes(range(256)) * (self.big // 256)
        for value in (*VALUES, big):
            await store.set(A, value)
            assert await store.get(A) == value
            assert await store.get_many([A]) == {A: value}
            assert await store.compare_and_set(A, value, value)
            assert await store.update(A, lambda current: current) == value
            assert await listed(store.scan()) == [(A, value)]
            assert await store.size(A) == len(value)
            assert await store.pop(A) == value

    async def test_every_buffer_is_stored_as_the_bytes_that_it_holds(self, store: AsyncStore) -> None:
        for buffer in BUFFERS:
            expected = bytes(buffer)
            for what, call in VALUE_CALLS.items():
                await store.set(A, b"old")
                await store.delete(C)
                await call(store, buffer)
                value = await store.get(C if await store.exists(C) else A)
                assert (type(value), value) == (bytes, expected), f"{what} of {buffer!r}"
            await store.set(A, buffer)
            assert await store.compare_and_set(A, buffer, b"new") is True

    async def test_a_later_change_to_a_buffer_changes_nothing(self, store: AsyncStore) -> None:
        for what, call in VALUE_CALLS.items():
            await store.set(A, b"old")
            await store.delete(C)
            for buffer, view in ((b := bytearray(b"text"), b), (b := bytearray(b"text"), memoryview(b))):
                await call(store, view)
                buffer[:] = b"TEXT"
                assert b"text" in (await store.get_many([A, C])).values(), what
                await store.set(A, b"old")
                await store.delete(C)

    async def test_a_change_to_a_buffer_while_the_call_is_under_way_changes_nothing(self, store: AsyncStore) -> None:
        for what, call in VALUE_CALLS.items():
            if not what.startswith("update"):  # there the value comes from `fn`, later than the call
                await store.set(A, b"old")
                await store.delete(C)
                buffer = bytearray(b"text")
                task = asyncio.ensure_future(call(store, buffer))
                await asyncio.sleep(0)  # now the call has begun
                buffer[:] = b"TEXT"
                await task
                assert b"text" in (await store.get_many([A, C])).values(), what

    async def test_what_comes_back_is_always_bytes_of_its_own(self, store: AsyncStore) -> None:
        buffer = bytearray(b"text")
        seen: list[object] = []

        def keep(current: bytes | None) -> bytearray:
            seen.append(current)
            return buffer

        def keep_all(found: dict[str, bytes]) -> dict[str, bytearray]:
            seen.extend(found.values())
            return {A: buffer}

        await store.set(A, buffer)
        seen += [await store.get(A), *(await store.get_many([A])).values(), await store.update(A, keep)]
        seen += (await store.update_many([A], keep_all)).values()
        await store.set_many({A: buffer})
        seen += [value for _, value in await listed(store.scan())]
        await store.add(B, buffer)
        seen += [await store.get(B), await store.pop(A), await store.pop(B)]
        buffer[:] = b"TEXT"
        assert [type(value) for value in seen] == [bytes] * len(seen)
        assert {*seen} == {b"text"}

    async def test_what_is_no_value_is_refused_by_every_method(self, store: AsyncStore) -> None:
        await store.set_many({A: b"old", B: b"old"})
        for what, call in VALUE_CALLS.items():
            for value in BAD_VALUES:
                with raises(InvalidValue, f"{what} with {value!r}"):
                    await call(store, value)
            if not what.startswith(("update", "compare_and_set")) or what == "update_many":
                with raises(InvalidValue, f"{what} with None"):
                    await call(store, None)
        for value in BAD_VALUES:
            with raises(InvalidValue, f"compare_and_set expecting {value!r}"):
                await store.compare_and_set(A, value, b"new")
        assert await listed(store.scan()) == [(A, b"old"), (B, b"old")]

    async def test_the_message_about_a_str_names_what_takes_it(self, store: AsyncStore) -> None:
        for what, call in VALUE_CALLS.items():
            await store.set(A, b"old")
            with raises(TypeError, what) as caught:
                await call(store, "text")
            assert "kv.typed" in str(caught.error), what
