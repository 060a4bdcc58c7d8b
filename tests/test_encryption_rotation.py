"""Keys replaced while others read and write: `reencrypt`, beside threads, tasks and processes."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from typing import TYPE_CHECKING, Any

import pytest
from colours import around, both, run
from programs import pythons

import kv
from kv import CorruptData
from kv.testing.suite import together
from kv.wrappers import AsyncEncrypted, Encrypted

if TYPE_CHECKING:
    from collections.abc import Callable

    Opens = Callable[[str], Any]

OLD, NEW = bytes(range(32)), bytes(range(100, 132))


def encrypted(store: Any, keys: Any = NEW) -> Any:
    return around(store, Encrypted, AsyncEncrypted, keys)


@both
def test_reencrypt_seals_everything_with_the_first_key(opens: Opens, anywhere: str) -> None:
    async def body(inside: Any) -> None:
        old, ring = encrypted(inside, OLD), encrypted(inside, [NEW, OLD])
        await old.set("a", b"1", ttl=1_000)
        await old.set("b", b"2")
        await old.namespace("n").namespace("m").set("c", b"3")
        await ring.set("d", b"4")
        untouched = await inside.get("d")
        told: list[tuple[str, int, int | None]] = []
        assert await ring.reencrypt(progress=lambda *told_now: told.append(told_now)) == 3
        assert {(step, total) for step, _, total in told} == {("reencrypting", 4)}
        assert sum(n for _, n, _ in told) == 4
        assert await inside.get("d") == untouched
        assert await ring.reencrypt() == 0
        new = encrypted(inside, NEW)
        assert await new.get_many(["a"]) == {"a": b"1"}
        assert await new.get("b") == b"2"
        assert await new.namespace("n").namespace("m").get("c") == b"3"
        assert 0 < await new.ttl("a") <= 1_000
        assert await new.ttl("b") == float("inf")
        assert await new.verify() == []

    run(opens(anywhere), body)


@both
def test_reencrypt_in_a_namespace_leaves_those_beside_it(opens: Opens) -> None:
    async def body(inside: Any) -> None:
        old = encrypted(inside, OLD)
        for store in (old, old.namespace("n"), old.namespace("n").namespace("m"), old.namespace("n2")):
            await store.set("k", b"v")
        assert await encrypted(inside, [NEW, OLD]).namespace("n").reencrypt() == 2
        assert await encrypted(inside, NEW).namespace("n").namespace("m").get("k") == b"v"
        assert await old.get("k") == await old.namespace("n2").get("k") == b"v"

    run(opens("memory://"), body)


@both
def test_reencrypt_leaves_what_does_not_open_and_does_all_the_rest(opens: Opens, anywhere: str) -> None:
    async def body(inside: Any) -> None:
        old, ring = encrypted(inside, OLD), encrypted(inside, [NEW, OLD])
        await old.set("a", b"1")
        await old.set("z", b"2")
        bad = {f"bad{n}": b"not encrypted" for n in range(7)}
        for key, value in bad.items():
            await inside.set(key, value)
        await inside.namespace("n").set("moved", await inside.get("a"))
        await old.namespace("n").set("z", b"3")
        with pytest.raises(CorruptData) as raised:
            await ring.reencrypt()
        message = str(raised.value)
        assert message.startswith("3 sealed anew, and 8 left as they are: ")
        assert "'bad0' is not encrypted" in message
        assert message.endswith("; and 3 more")
        for key, value in bad.items():
            assert await inside.get(key) == value
        new = encrypted(inside, NEW)
        assert await new.get_many(["a"]) == {"a": b"1"}
        assert await new.get("z") == b"2"
        assert await new.namespace("n").get("z") == b"3"
        for key in bad:
            await inside.delete(key)
        with pytest.raises(CorruptData, match=r"1 left as they are: .*'moved'.*, in namespace 'n'$"):
            await ring.reencrypt()

    run(opens(anywhere), body)


@both
def test_rotation_beside_writers_loses_nothing(opens: Opens, anywhere: str) -> None:
    async def body(inside: Any) -> None:
        old, ring = encrypted(inside, [OLD, NEW]), encrypted(inside, [NEW, OLD])
        keys = [f"k{n}" for n in range(8)]
        for key in keys:
            await old.set(key, b"0", ttl=1_000)
            await old.set(f"still {key}", b"v")  # nobody writes to these
        counts = []

        async def write(store: Any) -> None:
            for _ in range(5):
                for key in keys:
                    await store.increment(key)

        async def rotate() -> None:
            counts.extend([await ring.reencrypt() for _ in range(5)])

        await together(inside, write(old), write(ring), write(old), rotate(), rotate())
        assert sum(counts) >= len(keys)
        await ring.reencrypt()
        new = encrypted(inside, NEW)
        assert [await new.get(key) for key in keys] == [b"15"] * len(keys)
        assert [await new.get(f"still {key}") for key in keys] == [b"v"] * len(keys)
        assert all([0 < await new.ttl(key) <= 1_000 for key in keys])

    run(opens(anywhere), body)


@both
def test_rotation_does_not_bring_back_what_was_deleted(opens: Opens, anywhere: str) -> None:
    async def body(inside: Any) -> None:
        old, ring = encrypted(inside, [OLD, NEW]), encrypted(inside, [NEW, OLD])
        keys = [f"k{n}" for n in range(40)]
        for key in keys:
            await old.set(key, b"0")

        async def remove() -> None:
            for key in keys:
                await old.delete(key)

        await together(inside, remove(), ring.reencrypt(), ring.reencrypt())
        assert await inside.keys() == []

    run(opens(anywhere), body)


def test_rotation_among_processes_loses_nothing(shared: str) -> None:
    keys = [f"k{n}" for n in range(5)]
    with kv.open(shared, encryption_keys=OLD) as store:
        for key in keys:
            store.set(key, b"0", ttl=1_000)
        for n in range(20):  # nobody writes to these
            store.set(f"still{n}", b"v")
    told = pythons(
        """
        import asyncio, kv
        url, old, new = sys.argv[1:]
        ring = f"{old},{new}" if me < 2 else f"{new},{old}"     # a process that has not the new order yet
        done = 0
        def rotated(store):
            return store.reencrypt() if me > 1 else 0
        if me % 2:
            async def main():
                global done
                async with kv.open_async(url, encryption_keys=ring) as store:
                    for turn in range(10):
                        for n in range(5):
                            await store.increment(f"k{n}")
                        if me > 1:
                            done += await store.reencrypt()
            asyncio.run(main())
        else:
            with kv.open(url, encryption_keys=ring) as store:
                for turn in range(10):
                    for n in range(5):
                        store.increment(f"k{n}")
                    if me > 1:
                        done += store.reencrypt()
        print(done)
        """,
        shared,
        *(urlsafe_b64encode(key).decode() for key in (OLD, NEW)),
    )
    assert sum(map(int, told)) >= 20
    with kv.open(shared, encryption_keys=[NEW, OLD]) as store:
        store.reencrypt()  # type: ignore[attr-defined]
    with kv.open(shared, encryption_keys=NEW) as store:
        assert [store.get(key) for key in keys] == [b"40"] * len(keys)
        assert all(0 < (store.ttl(key) or 0) <= 1_000 for key in keys)
        assert {value for _, value in store.scan("still")} == {b"v"}
        assert store.verify() == []
