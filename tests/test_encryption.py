"""Encryption: what does not open, keys, and what lies on the disk."""

from __future__ import annotations

import pickle
import time
from base64 import b64encode, urlsafe_b64encode
from typing import TYPE_CHECKING, Any

import pytest
from colours import around, both, run
from programs import python

import kv
from kv import ConfigError, CorruptData
from kv.testing.suite import Lifted, expires_in
from kv.wrappers import AsyncEncrypted, Encrypted, new_key
from kv.wrappers.encryption import OVERHEAD, KeyRing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Opens = Callable[[str], Any]

OLD, NEW = bytes(range(32)), bytes(range(100, 132))


def encrypted(store: Any, keys: Any = NEW) -> Any:
    return around(store, Encrypted, AsyncEncrypted, keys)


# what does not open


async def refused(store: Any, inside: Any, stored: bytes) -> None:
    """See that no method takes what is stored under `k`, and that it stays as it is."""
    await inside.set("k", stored, ttl=1_000)
    before = await inside.ttl("k")

    async def scanned() -> list[tuple[str, bytes]]:
        return [entry async for entry in store.scan()]

    calls: list[Callable[[], Any]] = [
        lambda: store.get("k"),
        lambda: store.get_many(["k"]),
        lambda: store.pop("k"),
        lambda: store.update("k", lambda _: b"new"),
        lambda: store.update_many(["k"], lambda _: {}),
        lambda: store.increment("k"),
        lambda: store.compare_and_set("k", stored, b"new"),
        lambda: store.compare_and_set("k", b"", None),
        lambda: store.expire("k", 5),
        scanned,
    ]
    for call in calls[:-2]:
        with pytest.raises(CorruptData, match="'k'"):
            await call()
        assert await inside.get("k") == stored
    with pytest.raises(CorruptData):
        await scanned()
    assert await inside.get("k") == stored
    assert await inside.ttl("k") <= before
    assert await store.verify() != []
    assert await store.add("k", b"new") is False
    assert await store.exists("k")


@both
def test_what_is_not_encrypted_is_refused_and_stays(opens: Opens, anywhere: str) -> None:
    async def body(inside: Any) -> None:
        store = encrypted(inside)
        for plain in (b"", b"42", b"plain text that is longer than what encryption adds to a value"):
            await refused(store, inside, plain)
        with pytest.raises(CorruptData, match="'k' is not encrypted, and is refused"):
            await store.get("k")
        await inside.set("k", b"short")
        with pytest.raises(CorruptData, match="not encrypted"):
            await store.size("k")
        assert await store.delete("k")  # which reads nothing
        await store.set("k", b"v")
        assert await store.get("k") == b"v"
        assert await store.verify() == []

    run(opens(anywhere), body)


@both
def test_what_was_moved_from_another_key_or_namespace_does_not_open(opens: Opens, anywhere: str) -> None:
    async def body(inside: Any) -> None:
        store = encrypted(inside)
        await store.set("other", b"secret")
        await refused(store, inside, await inside.get("other"))
        for here, there in [((), ("a",)), (("a",), ()), (("a",), ("a", "b")), (("a", "b"), ("a",)), (("a",), ("b",))]:
            stores = []
            for path in (here, there):
                one, bare = store, inside
                for name in path:
                    one, bare = one.namespace(name), bare.namespace(name)
                stores.append((one, bare))
            await stores[0][0].set("k", b"secret")
            moved = await stores[0][1].get("k")
            await stores[1][1].set("k", moved)
            with pytest.raises(CorruptData, match="damaged, or was moved here"):
                await stores[1][0].get("k")
            assert await stores[0][0].get("k") == b"secret"
            assert await stores[1][1].get("k") == moved

    run(opens(anywhere), body)


def test_a_path_and_a_key_are_not_mistaken_for_others() -> None:
    ring = KeyRing(NEW)
    for (path, key), (other, another) in [
        ((("a", "b"), "c"), (("a",), "b/c")),
        ((("ab",), "c"), (("a",), "bc")),
        (((), "a"), (("a",), "a")),
        ((("a",), "b"), (("b",), "a")),
    ]:
        sealed = ring.seal(path, key, b"v")
        assert ring.open(path, key, sealed) == b"v"
        with pytest.raises(CorruptData):
            ring.open(other, another, sealed)


@both
def test_every_bit_and_every_byte_counts(opens: Opens) -> None:
    async def body(inside: Any) -> None:
        store = encrypted(inside)
        await store.set("k", b"value")
        good = await inside.get("k")
        assert len(good) == 5 + OVERHEAD
        flipped = [good[:i] + bytes([good[i] ^ 1 << bit]) + good[i + 1 :] for i in range(len(good)) for bit in range(8)]
        for bad in [*flipped, *(good[:size] for size in range(len(good))), good + b"\0", good + good]:
            await inside.set("k", bad)
            with pytest.raises(CorruptData):
                await store.get("k")
            assert await inside.get("k") == bad
        for bad in (flipped[0], flipped[100], flipped[-1], good[:41], good[:-1]):
            await refused(store, inside, bad)

    run(opens("memory://"), body)


@both
def test_another_key_opens_nothing_and_is_named_by_its_id(opens: Opens) -> None:
    async def body(inside: Any) -> None:
        await encrypted(inside, OLD).set("k", b"value")
        stored = await inside.get("k")
        await refused(encrypted(inside, NEW), inside, stored)
        with pytest.raises(CorruptData, match=f"key of id {stored[4:12].hex()}, which is not in the key ring"):
            await encrypted(inside, NEW).get("k")
        assert await encrypted(inside, [NEW, OLD]).get("k") == b"value"

    run(opens("memory://"), body)


# what is stored


def test_no_value_and_no_key_lies_in_the_file(tmp_path: Path) -> None:
    key = new_key()
    with kv.open(f"sqlite:///{tmp_path}/app.db", encryption_keys=key) as store:
        store.set("visible name", b"a very secret value" * 9)
        store.set_many({"b": b"another secret", "c": b"1"}, ttl=1_000)
        store.update("b", lambda v: (v or b"") + b", and more secrets")
        store.increment("c", 1_234_567_890)
        store.namespace("n").add("d", b"secret below")
        files = [entry.read_bytes() for entry in tmp_path.iterdir()]
    files += [entry.read_bytes() for entry in tmp_path.iterdir()]
    raw = KeyRing(key)
    assert any(b"visible name" in data for data in files)  # so that this can fail
    for hidden in (b"secret", b"1234567890", b"1234567891", key.encode(), b64encode(NEW), repr(raw).encode()):
        assert not any(hidden in data for data in files), hidden


def test_one_value_is_never_stored_the_same_way_twice() -> None:
    with kv.open("memory://") as inside:
        store = Encrypted(inside, NEW)
        seen = set()
        for _ in range(100):
            store.set("k", b"v")
            seen.add(inside.get("k"))
        assert len(seen) == 100


@both
def test_sizes_are_told_without_opening(opens: Opens, anywhere: str) -> None:
    async def body(inside: Any) -> None:
        await encrypted(inside, OLD).set("k", b"12345")
        await encrypted(inside, OLD).set("empty", b"")
        other = encrypted(inside, NEW)
        assert await other.size("k") == 5
        assert await other.size("empty") == 0
        assert await other.size("missing") is None
        stats = await other.stats()
        assert (stats.keys, stats.value_bytes) == (2, 5)

    run(opens(anywhere), body)


@both
def test_namespaces_of_an_encrypted_store_are_encrypted_namespaces(opens: Opens, anywhere: str) -> None:
    async def body(inside: Any) -> None:
        await encrypted(inside.namespace("a").namespace("b")).set("k", b"1")
        assert await encrypted(inside).namespace("a").namespace("b").get("k") == b"1"
        assert await encrypted(inside.namespace("a")).namespace("b").increment("k") == 2
        assert await encrypted(inside.namespace("a").namespace("b")).get("k") == b"2"

    run(opens(anywhere), body)


def test_too_large_for_the_cipher() -> None:
    with kv.open("memory://") as inside:
        store = Encrypted(inside, NEW)
        store.set("k", b"v")
        with pytest.raises(kv.ValueTooLarge, match="fewer than 2 GiB"):
            store.set("k", bytes(2**31))  # pages that nobody touches
        assert store.get("k") == b"v"


# keys


def test_keys_as_bytes_and_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = b"\xfb\xff" * 16  # + and / in base64
    file = tmp_path / "keys, all of them"
    file.write_text(f"{b64encode(NEW).decode()}\n{b64encode(odd).decode()}\n\n")
    monkeypatch.setenv("RING", f"{urlsafe_b64encode(NEW).decode()} , {urlsafe_b64encode(odd).decode()}")
    monkeypatch.setenv("ONE", b64encode(odd).decode())
    with kv.open("memory://") as inside:
        Encrypted(inside, NEW).set("k", b"new")
        Encrypted(inside, odd).set("odd", b"odd")
        rings: list[Any] = [
            [NEW, odd],
            (bytearray(NEW), memoryview(odd)),
            iter([NEW, b64encode(odd).decode()]),
            f"{b64encode(NEW).decode()},{b64encode(odd).decode()}",
            f"{urlsafe_b64encode(NEW).decode().rstrip('=')}\n{urlsafe_b64encode(odd).decode()}\n",
            "env:RING",
            f"{b64encode(NEW).decode()},env:ONE",
            f"file:{file}",
            [f"file:{file}"],
            KeyRing([NEW, odd]),
        ]
        for keys in rings:
            store = Encrypted(inside, keys)
            assert store.get_many(["k", "odd"]) == {"k": b"new", "odd": b"odd"}
            store.set("mine", b"v")
            assert Encrypted(inside, NEW).get("mine") == b"v"  # the first seals
    assert len({new_key() for _ in range(100)}) == 100
    with kv.open("memory://", encryption_keys=new_key()) as opened:
        opened.set("k", b"v")
        assert opened.get("k") == b"v"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (b"s3cr3t", "key 1 is of 6 bytes, and must be of 32"),
        (b"s3cr3t" * 5 + b"s", "key 1 is of 31 bytes, and must be of 32"),
        ([NEW, b"s3cr3t" * 6], "key 2 is of 36 bytes"),
        ("s3cr3ts3cr3t", "key 1 is of 9 bytes"),
        ("s3cr3t!", "no base64"),
        ("s3cr3", "no base64"),
        ("s3cr3té", "no base64"),
        (b64encode(NEW).decode() + ",s3cr3t!", "no base64"),
        ([NEW, OLD, NEW], "key 3 is the same as one before"),
        (f"{b64encode(NEW).decode()},{urlsafe_b64encode(NEW).decode()}", "key 2 is the same"),
        ("", "there is no encryption key in the text"),
        (" , ", "there is no encryption key in the text"),
        ([], "there is no encryption key;"),
        (None, "not NoneType"),
        (5, "not int"),
        ([NEW, 5], "not int"),
        ("env:KV_NO_SUCH", "environment variable KV_NO_SUCH, which is not set"),
        ("env:KV_EMPTY", "no encryption key in the environment variable KV_EMPTY"),
        ("env:KV_BAD", "an encryption key in the environment variable KV_BAD is no base64"),
        ("file:/no/such", "the file /no/such cannot be read: No such file or directory"),
        ("file:/dev/null", "no encryption key in the file /dev/null"),
        ("file:\0", "holds no encryption keys"),
    ],
)
def test_wrong_keys_are_an_error_that_shows_none(keys: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KV_EMPTY", "")
    monkeypatch.setenv("KV_BAD", "s3cr3t!")
    with kv.open("memory://") as inside, pytest.raises(ConfigError, match=message) as raised:
        Encrypted(inside, keys)
    shown = str(raised.value) + repr(raised.value.__cause__)
    assert "s3cr3" not in shown
    assert b64encode(NEW).decode()[:8] not in shown


def test_keys_are_neither_shown_nor_pickled() -> None:
    key = new_key()
    with kv.open("memory://") as inside:
        store = Encrypted(inside, key)
        assert repr(store) == "<Encrypted <MemoryStore>>"
        assert repr(store._ring) == "<KeyRing of 1>"
        assert key not in str(vars(store)) + str(vars(store._ring))
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(store._ring)


def test_without_the_extra_it_says_what_to_install() -> None:
    python(
        """
        import sys
        sys.modules["cryptography"] = None
        import kv
        from kv.wrappers import Encrypted, new_key
        for make in (
            lambda: Encrypted(kv.MemoryStore(), new_key()),
            lambda: kv.open("memory://", encryption_keys=new_key()),
            lambda: kv.open_async("memory://", encryption_keys=new_key()),
        ):
            try:
                make()
            except kv.ConfigError as e:
                assert 'pip install "anykv[encryption]"' in str(e), e
            else:
                raise AssertionError
        """
    )


@both
def test_the_deadline_counts_for_what_is_encrypted_too(opens: Opens) -> None:
    async def body(inside: Any) -> None:
        store, since = encrypted(inside), time.monotonic()
        await store.increment("k", ttl_if_new=1_000)
        await store.increment("k", ttl_if_new=5)
        await expires_in(store, "k", 1_000, since)

    run(opens("memory://"), body)


@both
def test_a_wrapper_stands_around_a_store_of_its_colour(opens: Opens) -> None:
    async def body(inside: Any) -> None:
        sync = isinstance(inside, Lifted)
        wrong: Any = AsyncEncrypted if sync else Encrypted
        with pytest.raises(TypeError, match=r"stands around a kv\."):
            wrong(inside._store if sync else inside, NEW)

    run(opens("memory://"), body)
