"""Namespaces: whole stores over one connection, of which none ever sees into another."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from kv.errors import InvalidKey

from .hostile import BAD_KEYS, A, B, C
from .suite import LONG, Suite, expired, gone, listed, raises, together

if TYPE_CHECKING:
    from kv.store import AsyncStore

PATHS: Final[tuple[tuple[str, ...], ...]] = (
    *((), ("a",), ("A",), ("a2",), ("a:b",), ("a%",), ("a_",), ("aa",), ("ab",), ("b",), ("a/b",), ("a.b",), ("a b",)),
    *(("a", "b"), ("a", "b", "c"), ("a", "b:c"), ("a:b", "c"), ("a", "b/c"), ("a/b", "c"), ("a:", "b"), ("a", ":b")),
    *(("b", "a"), ("a", "a"), ("a", "a", "a"), ("a:b:c",), ("ab", "c"), ("a", "bc"), ("abc",), ("a", "%"), ("a", "2")),
    *(("%",), ("_",), ("*",), ("\\",), ("'",), (" ",), ("a ",), (" a",), (":",), ("::",), (":", ":")),
    *(("0",), ("None",), ("é",), ("e\u0301",), ("ß",), ("ss",), ("😀",), ("\uffff",), ("\U0010ffff",), ("{t}",)),
    *(("1",), ("1:a",), ("1:a1:b",), ("a\u2028b",), ("\\x1f",), ("a\\x1fb",), ("n" * 255,), ("n" * 254,), ("é" * 127,)),
)
"""Paths that are all different, and that some ways to write a path as one string would take for each other."""


def at(store: AsyncStore, path: tuple[str, ...]) -> AsyncStore:
    for name in path:
        store = store.namespace(name)
    return store


class Namespaces(Suite):
    async def test_a_namespace_is_a_store_of_its_own(self, store: AsyncStore) -> None:
        one, other = store.namespace("one"), store.namespace("other")
        await one.set(A, b"1")
        await other.set(A, b"2", ttl=LONG)
        assert [await s.get(A) for s in (store, one, other)] == [None, b"1", b"2"]
        assert [await s.exists(A) for s in (store, one, other)] == [False, True, True]
        assert [await s.size(A) for s in (store, one, other)] == [None, 1, 1]
        assert await one.ttl(A) == math.inf
        assert await store.ttl(A) is None
        assert await one.increment(A) == 2
        assert await other.update(A, lambda current: (current or b"") + b"2") == b"22"
        assert await store.add(A, b"0") is True
        assert await one.update_many([A, B], lambda found: {**found, B: b"5"}) == {A: b"2", B: b"5"}
        assert await other.compare_and_set(A, b"2", b"3") is False
        assert await other.expire(B, 5) is False
        assert await one.persist(A) is False
        assert await other.persist(A) is True
        assert [await s.keys() for s in (store, one, other)] == [[A], [A, B], [A]]
        assert [await s.count() for s in (store, one, other)] == [1, 2, 1]
        assert [(await s.stats())[0] for s in (store, one, other)] == [1, 2, 1]
        assert await listed(one.scan()) == [(A, b"2"), (B, b"5")]
        assert await store.pop(B) is None
        assert await other.delete(B) is False
        assert await store.delete_many([A, B]) == 1
        assert await one.get_many([A, B]) == {A: b"2", B: b"5"}
        await other.set_many({A: b"x", C: b"y"})
        assert await one.pop(B) == b"5"
        assert await one.delete(A) is True
        assert await listed(other.scan()) == [(A, b"x"), (C, b"y")]

    async def test_no_two_namespaces_see_each_other(self, store: AsyncStore) -> None:
        assert len({*PATHS}) == len(PATHS)
        stores = {path: at(store, path) for path in PATHS}
        await together(store, *(s.set("key", repr(path).encode()) for path, s in stores.items()))
        for path, s in stores.items():
            assert await listed(s.scan()) == [("key", repr(path).encode())], path
            assert (await s.keys("k"), await s.count()) == (["key"], 1), path
        for path, s in stores.items():
            assert await s.delete("key") is True, path
        assert [await s.count() for s in stores.values()] == [0] * len(stores)

    async def test_what_a_key_holds_never_makes_it_the_key_of_another_namespace(self, store: AsyncStore) -> None:
        keys = ("a:b", "a/b", "ab", "a\u2028b", "1:ab", "a.b", "a b", ":a:b", "('a',)b", "a\\x1fb")
        entries = [
            *(((), key) for key in keys),
            *((("a",), "b"), (("a",), "b:c"), (("a:b",), "c"), (("a", "b"), "c"), (("a",), "1:b")),
        ]
        await together(store, *(at(store, path).set(key, repr((path, key)).encode()) for path, key in entries))
        for path, key in entries:
            assert await at(store, path).get(key) == repr((path, key)).encode()
        assert await store.keys() == sorted(key for path, key in entries if not path)
        assert await store.keys("a") == sorted(key for path, key in entries if not path and key.startswith("a"))

    async def test_clear_leaves_every_other_namespace_alone(self, store: AsyncStore) -> None:
        stores = {path: at(store, path) for path in PATHS}

        async def plant() -> None:
            await together(store, *(s.set_many({"{t}": b"1", "{t}2": b"2"}) for s in stores.values()))

        await plant()
        for path in [("a",), (), ("a", "b"), ("%",), ("_",), ("*",), ("\\",), (" ",), (":",), ("n" * 254,)]:
            assert await stores[path].clear() == 2, path
            assert [await s.count() for s in stores.values()] == [0 if p == path else 2 for p in stores], path
            await stores[path].set_many({"{t}": b"1", "{t}2": b"2"})
        for prefix, left in (("{t}2", ["{t}"]), ("", [])):
            await stores["a",].clear(prefix)
            assert await stores["a",].keys() == left
        assert sum([await s.count() for s in stores.values()]) == 2 * len(stores) - 2

    async def test_namespaces_lists_the_names_directly_below(self, store: AsyncStore) -> None:
        for path in PATHS:
            await at(store, path).set("key", b"1")
        assert await store.namespaces() == sorted({path[0] for path in PATHS if path})
        for parent in (("a",), ("a", "b"), ("a:b",), ("A",), ("a2",), ("%",), (":",), ("a/b",)):
            below = {path[len(parent)] for path in PATHS if len(path) > len(parent) and path[: len(parent)] == parent}
            assert await at(store, parent).namespaces() == sorted(below), parent

    async def test_namespaces_lists_a_name_with_entries_only_below_it(self, store: AsyncStore) -> None:
        await at(store, ("a", "b", "c")).set("key", b"1")
        assert await store.namespaces() == ["a"]
        assert await at(store, ("a",)).namespaces() == ["b"]
        assert await at(store, ("a", "b")).namespaces() == ["c"]
        assert await at(store, ("a", "b", "c")).namespaces() == []
        assert await at(store, ("b",)).namespaces() == []

    async def test_namespaces_lists_only_those_with_live_entries(self, store: AsyncStore) -> None:
        store.namespace("never written")
        await store.set("root", b"1")
        for name in ("cleared", "deleted", "popped", "live"):
            await store.namespace(name).set("key", b"1")
        await expired(store.namespace("expired"), "key", "other")
        await expired(at(store, ("below", "expired")), "key")
        await store.namespace("cleared").clear()
        await store.namespace("deleted").delete("key")
        await store.namespace("popped").update("key", lambda _: None)
        assert await store.namespaces() == ["live"]
        await expired(store.namespace("live"), "other")
        assert await store.namespaces() == ["live"]

    async def test_two_views_of_one_path_are_one_namespace(self, store: AsyncStore) -> None:
        one = at(store, ("a", "b"))
        await one.set(A, b"1")
        other = at(store, ("a", "b"))
        assert await other.get(A) == b"1"
        await other.set(B, b"2")
        assert await one.keys() == [A, B]
        assert await other.clear() == 2
        await one.set(A, b"3")
        assert await other.get(A) == b"3"

    async def test_deadlines_of_one_key_in_two_namespaces_are_two(self, store: AsyncStore) -> None:
        one, other = store.namespace("one"), store.namespace("other")
        await one.set(A, b"1", ttl=LONG)
        await other.set(A, b"2", ttl=0.02)
        await gone(other, A)
        assert (await one.get(A), await one.keys()) == (b"1", [A])
        assert await other.add(A, b"new") is True
        assert await one.add(A, b"new") is False
        assert (await one.ttl(A) or 0) <= LONG

    async def test_concurrent_calls_in_two_namespaces_do_not_mix(self, store: AsyncStore) -> None:
        stores = [at(store, path) for path in PATHS[:8]]
        await together(store, *(s.increment(A, i + 1) for _ in range(5) for i, s in enumerate(stores)))
        assert [await s.get(A) for s in stores] == [b"%d" % (5 * (i + 1)) for i in range(8)]

    async def test_closing_a_view_closes_nothing(self, store: AsyncStore) -> None:
        view = store.namespace("a")
        await view.set(A, b"1")
        await view.aclose()
        await view.aclose()
        async with store.namespace("a") as again:
            assert await again.get(A) == b"1"
            inner = again.namespace("b")
            await inner.set(A, b"2")
        with raises(ZeroDivisionError):
            async with at(store, ("a", "b")):
                raise ZeroDivisionError
        for s in (view, again, inner, store, self.root):
            await s.set(B, b"3")
            assert await s.get(B) == b"3"

    async def test_a_name_follows_the_key_rules(self, store: AsyncStore) -> None:
        wrong: Any
        for wrong in (*BAD_KEYS, "n" * 256, "é" * 128, "😀" * 64, ["a"]):
            with raises(InvalidKey, ascii(wrong)[:40]):
                store.namespace(wrong)
        for name in ("n", "n" * 255, "é" * 127, "😀" * 63):
            await store.namespace(name).set("k" * 2_048, name.encode())
            assert await listed(store.namespace(name).scan()) == [("k" * 2_048, name.encode())]

    async def test_a_path_has_an_end(self, store: AsyncStore) -> None:
        # the store that was given may have a path of its own, so not the very byte can be checked here
        deep = store
        with raises(InvalidKey):
            for _ in range(5):
                deep = deep.namespace("n" * 255)
        await deep.set(A, b"deep")
        assert await deep.get(A) == b"deep"
        assert await store.namespaces() == ["n" * 255]
        with raises(InvalidKey):
            for _ in range(600):
                deep = deep.namespace("n")
        assert await deep.namespaces() == []
