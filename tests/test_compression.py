"""Compression: what is stored, what it costs, and what does not open."""

from __future__ import annotations

import os
import random
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from colours import around, both, run
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import python, pythons

import kv
from kv import ConfigError, CorruptData
from kv.wrappers import AsyncCompressed, Compressed
from kv.wrappers.compression import _library

if TYPE_CHECKING:
    from collections.abc import Callable

    Opens = Callable[[str], Any]

LONG = b"the same words again and again, " * 100
zstd = _library()


def compressed(store: Any, **options: Any) -> Any:
    return around(store, Compressed, AsyncCompressed, **options)


# what is stored


@both
def test_long_values_are_smaller_and_all_come_back(opens: Opens, anywhere: str) -> None:
    chance = random.Random(1)

    async def body(inside: Any) -> None:
        store = compressed(inside)
        values = [b"", b"\xf8", b"\xf8" * 2, b"\xf8" * 500, b"\xf8\x28\xb5\x2f\xfd", LONG, b"\xf8" + LONG]
        values += [chance.randbytes(size) for size in (1, 31, 32, 127, 128, 129, 1_000, 100_000)]
        values += [b"\xf8" + chance.randbytes(1_000), zstd.compress(LONG), b"\xf8" + zstd.compress(LONG)]
        for value in values:
            await store.set("k", value)
            assert await store.get("k") == value
            assert await store.size("k") == len(value)
            assert await inside.size("k") <= len(value) + 1
            assert await store.compare_and_set("k", value, value + b"!")
            assert await store.pop("k") == value + b"!"
        await store.set("k", LONG)
        assert await inside.size("k") < len(LONG) / 10
        assert (await store.stats()).value_bytes == len(LONG)

    run(opens(anywhere), body)


@settings(deadline=None, max_examples=200)
@given(
    value=st.binary(max_size=300)
    | st.builds(lambda a, n: a * n, st.binary(min_size=1, max_size=9), st.integers(1, 200))
)
def test_any_value_comes_back_and_costs_a_byte_at_most(value: bytes) -> None:
    with kv.open("memory://") as inside:
        for front in (b"", b"\xf8"):
            store = Compressed(inside, threshold=32)
            store.set("k", front + value)
            assert store.get("k") == front + value
            assert (inside.size("k") or 0) <= len(front + value) + 1


@both
def test_it_can_be_put_around_a_store_that_has_entries(opens: Opens, anywhere: str) -> None:
    async def body(inside: Any) -> None:
        await inside.set("text", LONG)
        await inside.set("n", b"41")
        store = compressed(inside)
        assert await store.get("text") == LONG
        assert await store.increment("n") == 42
        assert await inside.get("n") == b"42"
        await store.update("text", lambda v: v + b"!")
        assert await store.get("text") == LONG + b"!"
        assert await inside.size("text") < 500

    run(opens(anywhere), body)


@both
def test_short_values_and_integers_are_stored_as_they_are(opens: Opens) -> None:
    async def body(inside: Any) -> None:
        for store in (compressed(inside, threshold=32), compressed(inside), compressed(inside, threshold=1_000)):
            for value in (b"", b"v", b"%d" % -(2**63), b"a" * 31):
                await store.set("k", value)
                assert await inside.get("k") == value
        below = compressed(inside, threshold=1_000)
        await below.set("k", b"a" * 999)
        assert await inside.size("k") == 999
        await below.set("k", b"a" * 1_000)
        assert await inside.size("k") < 100

    run(opens("memory://"), body)


@both
def test_increment_is_the_stores_own(opens: Opens) -> None:
    async def body(inside: Any) -> None:
        store = compressed(inside, threshold=32)
        assert await store.increment("n", -(2**63)) == -(2**63)
        assert await store.increment("n", 2**63 - 1) == -1
        assert await inside.increment("n") == 0
        for value in (LONG, b"\xf8", b"01"):
            await store.set("k", value)
            with pytest.raises(kv.NotAnInteger):
                await store.increment("k")
            assert await store.get("k") == value

    run(opens("memory://"), body)


def test_updates_of_compressed_values_from_processes_lose_nothing(shared: str) -> None:
    pythons(
        """
        import asyncio, kv
        def longer(value):
            return (value or b"") + b"%d" % me * 50
        if me % 2:
            async def main():
                async with kv.open_async(sys.argv[1], compress=True) as store:
                    for _ in range(10):
                        await store.update("k", longer)
                        await store.increment("n")
            asyncio.run(main())
        else:
            with kv.open(sys.argv[1], compress=19) as store:
                for _ in range(10):
                    store.update("k", longer)
                    store.increment("n")
        """,
        shared,
    )
    with kv.open(shared, compress=True) as store:
        value = store.get("k") or b""
        assert [value.count(b"%d" % me) for me in range(4)] == [500] * 4
        assert store.get("n") == b"40"
    with kv.open(shared) as inside:
        assert (inside.size("k") or 0) < 1_000


# what does not open


async def refused(store: Any, inside: Any, stored: bytes) -> None:
    """See that nothing takes it, and that it stays."""
    await inside.set("k", stored)
    calls: list[Callable[[], Any]] = [
        lambda: store.get("k"),
        lambda: store.get_many(["k"]),
        lambda: store.size("k"),
        lambda: store.pop("k"),
        lambda: store.update("k", lambda _: b"new"),
        lambda: store.compare_and_set("k", stored, b"new"),
    ]
    for call in calls:
        with pytest.raises(CorruptData, match="'k'"):
            await call()
        assert await inside.get("k") == stored
    assert len(await store.verify()) == 1


@both
def test_what_is_damaged_does_not_open_and_stays(opens: Opens) -> None:
    async def body(inside: Any) -> None:
        store = compressed(inside)
        await store.set("k", LONG)
        good = await inside.get("k")
        assert good[:5] == b"\xf8\x28\xb5\x2f\xfd"
        whole = zstd.compress(LONG)
        for bad in (
            b"\xf8",
            b"\xf8\x00",
            b"\xf8" + LONG,
            good[:5],
            good[:-1],
            good[:-5],
            good + b"\0",
            good + good,
            good + whole,  # another frame: what is two values is none
            good[:20] + bytes([good[20] ^ 1]) + good[21:],
        ):
            await refused(store, inside, bad)
        for size in range(1, len(good)):
            await inside.set("k", good[:size])
            with pytest.raises(CorruptData):
                await store.get("k")
        await inside.set("k", good)
        assert await store.get("k") == LONG

    run(opens("memory://"), body)


def test_no_flipped_bit_gives_another_value() -> None:
    with kv.open("memory://") as inside:
        store = Compressed(inside)
        value = os.urandom(100) + LONG
        store.set("k", value)
        good = inside.get("k") or b""
        refusals = 0
        for i in range(1, len(good)):  # the first byte is the mark: without it, it is a value as it is
            for bit in range(8):
                bad = good[:i] + bytes([good[i] ^ 1 << bit]) + good[i + 1 :]
                if bad[1] == 0xF8:
                    continue  # that is another one that is stored as it is
                inside.set("k", bad)
                try:
                    assert store.get("k") == value
                except CorruptData:
                    refusals += 1
        assert refusals > len(good) * 7


@both
def test_a_frame_cannot_fill_the_memory(opens: Opens) -> None:
    async def body(inside: Any) -> None:
        store = compressed(inside, max_size=10_000)
        says = zstd.compress(bytes(10_001))
        stream = zstd.ZstdCompressor()
        silent = stream.compress(bytes(50_000_000)) + stream.flush()
        assert zstd.get_frame_info(says).decompressed_size == 10_001
        assert zstd.get_frame_info(silent).decompressed_size is None
        for bomb in (says, silent):
            await refused(store, inside, b"\xf8" + bomb)
            tracemalloc.start()
            try:
                with pytest.raises(CorruptData, match="more than 10,000 bytes, which is max_size"):
                    await store.get("k")
                assert tracemalloc.get_traced_memory()[1] < 1_000_000
            finally:
                tracemalloc.stop()
        await inside.set("k", b"\xf8" + zstd.compress(bytes(10_000)))
        assert await store.get("k") == bytes(10_000)

    run(opens("memory://"), body)


@both
def test_what_is_larger_than_max_size_is_stored_as_it_is(opens: Opens) -> None:
    async def body(inside: Any) -> None:
        store = compressed(inside, max_size=1_000)
        for value in (b"a" * 1_000, b"a" * 1_001, b"\xf8" * 5_000):
            await store.set("k", value)
            assert await store.get("k") == value
        assert await inside.size("k") == 5_001

    run(opens("memory://"), body)


# arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 31}, "threshold of a compressed store is a whole number from 32, not 31"),
        ({"threshold": 64.0}, "threshold"),
        ({"threshold": True}, "threshold"),
        ({"level": 0}, "level of a compressed store is a whole number from 1 to 22, not 0"),
        ({"level": 23}, "level"),
        ({"level": "3"}, "level"),
        ({"max_size": 0}, "max_size of a compressed store is a whole number from 1, not 0"),
        ({"max_size": None}, "max_size"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], message: str) -> None:
    with kv.open("memory://") as inside, pytest.raises(ConfigError, match=message):
        Compressed(inside, **options)


def test_every_level_works() -> None:
    with kv.open("memory://") as inside:
        for level in range(1, 23):
            Compressed(inside, level=level).set("k", LONG)
            assert Compressed(inside).get("k") == LONG


@pytest.mark.skipif("sys.version_info >= (3, 14)", reason="the standard library has it")
def test_without_the_extra_it_says_what_to_install() -> None:
    python(
        """
        import sys
        sys.modules["backports.zstd"] = None
        import kv
        from kv.wrappers import Compressed
        for make in (lambda: Compressed(kv.MemoryStore()), lambda: kv.open("memory://?compress=true")):
            try:
                make()
            except kv.ConfigError as e:
                assert 'pip install "anykv[compression]"' in str(e), e
            else:
                raise AssertionError
        """
    )
