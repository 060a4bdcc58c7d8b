"""Wrappers that a URL asks for: their order, what is wrong, and the command line and moves over them."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from typing import TYPE_CHECKING, Any

import pytest
from colours import around, both, run
from commands import ANY_BYTES, call, failed, real
from programs import python

import kv
from kv import ConfigError, transfer
from kv.url import hide, knows
from kv.wrappers import compression, encryption, new_key
from kv.wrappers.base import Wrapper

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Opens = Callable[..., Any]

KEY, OTHER = new_key(), new_key()
LONG = b"the same words again and again, " * 100


def layers(store: Any) -> list[str]:
    """The names of a store's classes, from the outside in, of either colour alike."""
    names = []
    while store is not None:
        names.append(type(store).__name__.removeprefix("Async"))
        store = getattr(store, "store", None)
    return names


@both
def test_wrappers_come_from_the_url_or_from_keywords_in_one_order(opens: Opens) -> None:
    for store in (
        opens(f"memory://?encryption_keys={KEY}&compress=true&namespace=a"),
        opens(f"memory://?compress=true&namespace=a&encryption_keys={KEY}"),
        opens("memory://", compress=True, encryption_keys=KEY, namespace="a"),
        opens("memory://?compress=false", compress=3, encryption_keys=[KEY], namespace="a"),
    ):
        assert layers(store) == ["Compressed", "Encrypted", "MemoryStore"]
        assert store._path == ("a",)
        run(store, _round_trip)


async def _round_trip(store: Any) -> None:
    await store.set("k", LONG)
    assert await store.get("k") == LONG


@both
def test_an_option_that_is_off_puts_nothing_there(opens: Opens) -> None:
    for off in ("compress=false", "compress=0", "compress=off"):
        assert layers(opens(f"memory://?{off}")) == ["MemoryStore"]
    assert layers(opens("memory://", compress=False)) == ["MemoryStore"]


def test_the_level_of_compression() -> None:
    for given, level in [(True, 3), ("true", 3), ("yes", 3), ("1", 1), (1, 1), ("19", 19), (22, 22)]:
        store = kv.open("memory://", compress=given)
        assert isinstance(store, compression.Compressed)
        assert level in store._options.values()


def test_keys_come_from_the_environment_or_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = b64encode(b"\xfb\xef\xff" * 10 + b"\xfb\xef").decode()  # a + and a / in it, and padding
    assert {"+", "/", "="} <= set(odd)
    monkeypatch.setenv("KV_TEST_KEY", odd)
    (tmp_path / "keys").write_text(f"{odd}\n")
    url = f"sqlite:///{tmp_path}/app.db"
    with kv.open(url, encryption_keys=odd) as store:
        store.set("k", b"v")
    for given in ("env:KV_TEST_KEY", f"file:{tmp_path}/keys", odd, odd.replace("+", "%2B"), f"{odd},{KEY}"):
        with kv.open(f"{url}?encryption_keys={given}") as store:
            assert store.get("k") == b"v"


def test_nothing_of_it_is_loaded_unless_it_is_asked_for() -> None:
    python(
        """
        import asyncio, sys, kv
        def loaded():
            return [name for name in sys.modules if name.startswith(("kv.wrappers", "cryptography", "backports.zstd"))]
        with kv.open("memory://?max_entries=5", namespace="a") as store:
            store.set("k", b"v")
        async def main():
            async with kv.open_async("memory://") as store:
                await store.set("k", b"v")
        asyncio.run(main())
        assert loaded() == [], loaded()
        with kv.open("memory://?compress=true"):
            assert not any("encryption" in name or "cryptography" in name for name in loaded()), loaded()
        """
    )


# what is wrong


@both
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("compres=true", "Did you mean 'compress'? Known: "),
        ("encryption_key=s3cr3t", "Did you mean 'encryption_keys'? Known: "),
        ("compress=23", "option compress='23' for sqlite://: expected true, false, or a level from 1 to 22"),
        ("compress=often", "option compress='often'"),
        ("compress=-1", "option compress='-1'"),
        ("compress=1.5", "option compress='1.5'"),
        ("compress=1&compress=1", "stands twice"),
        ("encryption_keys=", "there is no encryption key"),
        ("encryption_keys=s3cr3t!", "no base64"),
        ("encryption_keys=s3cr3ts3cr3t", "of 9 bytes, and must be of 32"),
        (f"encryption_keys={b64encode(b's3cr3t' * 5 + b's').decode()}", "of 31 bytes, and must be of 32"),
        ("encryption_keys=env:KV_NO_SUCH", "environment variable KV_NO_SUCH, which is not set"),
        ("encryption_keys=file:/no/such", "the file /no/such cannot be read"),
        ("encryption_keys=s3cr3t&encryption_keys=s3cr3t", "stands twice in sqlite:///"),
    ],
)
def test_a_wrong_option_is_an_error_before_anything_is_opened(
    opens: Opens, options: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as raised:
        opens(f"sqlite:///{tmp_path}/app.db?{options}")
    assert message in str(raised.value)
    for hidden in ("s3cr3t", b64encode(b"s3cr3t").decode()):
        assert hidden not in str(raised.value) + repr(raised.value.__cause__)
    assert [*tmp_path.iterdir()] == []


@both
def test_no_key_where_one_is_meant_is_no_store_without_encryption(opens: Opens) -> None:
    nothings: list[Any] = [None, "", [], False]
    for nothing in nothings:
        with pytest.raises(ConfigError, match="encryption key"):
            opens("memory://", encryption_keys=nothing)


def test_keys_in_a_url_are_hidden() -> None:
    assert hide(f"sqlite:///a.db?encryption_keys={KEY}&x=y") == "sqlite:///a.db?encryption_keys=***&x=y"
    assert hide(f"sqlite:///a.db?x=y&encryption_keys={KEY},{OTHER}") == "sqlite:///a.db?x=y&encryption_keys=***"
    with kv.open(f"memory://?encryption_keys={KEY}") as store:
        assert KEY not in repr(store)


def test_what_is_inside_is_closed_where_a_wrapper_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside: list[Any] = []

    class Failing(Wrapper):
        def __init__(self, store: Any, **options: Any) -> None:
            inside.append(store)
            raise KeyboardInterrupt

    monkeypatch.setattr(compression, "Compressed", Failing)
    with pytest.raises(KeyboardInterrupt):
        kv.open(f"sqlite:///{tmp_path}/app.db", compress=True, encryption_keys=KEY)
    with pytest.raises(kv.StoreClosed):
        inside[0].get("k")


def test_every_store_knows_the_options() -> None:
    for url in ("memory://", "sqlite:///app.db", "postgresql://h/db", "redis://h"):
        assert knows(url, "compress")
        assert knows(url, "encryption_keys")
        assert not knows(url, "compres")
    assert knows("postgresql://h/db", "create")
    assert not knows("memory://", "create")


def test_a_scheme_of_another_package_has_them_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "fifth_kv.py").write_text("import kv\nBACKEND = kv.Backend(kv.MemoryStore, kv.AsyncMemoryStore)\n")
    info = tmp_path / "fifth_kv-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fifth-kv\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[kv.backends]\nfifth = fifth_kv:BACKEND\n")
    monkeypatch.syspath_prepend(tmp_path)
    for store in (kv.open("fifth://?compress=1", encryption_keys=KEY), kv.open_async("fifth://", compress=True)):
        run(store, _round_trip)


# moves


def test_a_store_is_copied_into_an_encrypted_one_and_back(shared: str, tmp_path: Path) -> None:
    plain, back = f"sqlite:///{tmp_path}/plain.db", f"sqlite:///{tmp_path}/back.db"
    sealed = {"encryption_keys": KEY, "compress": True}
    with kv.open(plain) as store:
        for n in range(300):
            store.set(f"k{n}", b"%d " % n * (n % 50), ttl=None if n % 3 else 10_000)
        store.set("long", LONG * 50)
        store.namespace("a").namespace("b c").set("k", ANY_BYTES)

    async def there() -> None:
        async with kv.open_async(plain) as old, kv.open_async(shared, **sealed) as new:
            assert (await transfer.copy_async(old, new)).stored == 302
            assert [found async for found in transfer.differences_async(old, new, extra=True)] == []
            assert (await transfer.copy_async(old, new, resume=True)).stored == 0

    asyncio.run(there())
    with kv.open(shared, **sealed) as old, kv.open(back) as new:
        assert transfer.copy(old, new).stored == 302
        assert [*transfer.differences(old, new, extra=True)] == []
    with kv.open(plain) as old, kv.open(back) as new:
        assert [*transfer.differences(old, new, extra=True)] == []
    with kv.open(shared) as inside:
        assert all(value.startswith(encryption.MAGIC) for _, value in inside.scan())
        assert inside.stats().value_bytes < LONG.__len__() * 10


@both
def test_each_layer_names_what_does_not_open_in_it_and_no_other(opens: Opens, anywhere: str) -> None:
    async def body(inside: Any) -> None:
        sealed = around(inside, encryption.Encrypted, encryption.AsyncEncrypted, KEY)
        store = around(sealed, compression.Compressed, compression.AsyncCompressed)
        for n in range(30):
            await store.set(f"k{n}", LONG)
        await inside.set("k11", b"not encrypted")
        await sealed.set("k2", b"\xf8 not compressed")
        await sealed.set("k10", b"\xf8 not compressed")
        await sealed.namespace("n").set("k", b"\xf8 not compressed")
        findings = await store.verify()
        assert [finding.split("'")[1] for finding in findings] == ["k11", "k10", "k2", "k"]

    run(opens(anywhere), body)


# the command line


@pytest.fixture
def urls(home: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """A plain store and an encrypted one that also compresses."""
    monkeypatch.setenv("KV_TEST_KEY", KEY)
    return "sqlite:///plain.db", "sqlite:///sealed.db?compress=true&encryption_keys=env:KV_TEST_KEY"


def test_copy_with_verify_there_and_back(urls: tuple[str, str]) -> None:
    plain, sealed = urls
    for n in range(20):
        call("-u", plain, "set", f"k{n}", stdin=LONG + b"%d" % n)
    call("-u", plain, "set", "k", "-n", "a", "-n", "b", "--ttl", "1h", stdin=ANY_BYTES)
    assert real("copy", plain, sealed, "--verify").err.endswith("compared: no difference\n")
    assert call("-u", "sqlite:///sealed.db", "get", "k1").out.startswith(encryption.MAGIC)
    assert call("copy", sealed, "sqlite:///back.db", "--verify").code == 0
    assert call("copy", plain, "sqlite:///back.db", "--verify", "--resume", "--replace").err.find(" 0 stored") > 0
    failed(call("copy", "sqlite:///sealed.db", sealed), "are the same store; nothing was copied")
    failed(call("copy", "postgresql://h/db", "postgres://h/db?compress=1"), "are the same store; nothing was copied")


def test_every_verb_works_on_a_wrapped_store(urls: tuple[str, str], tmp_path: Path) -> None:
    url = ("-u", urls[1])
    assert call(*url, "set", "long", stdin=LONG).code == 0
    assert call(*url, "get", "long").out == LONG
    assert call(*url, "increment", "n").out == b"1\n"
    assert call(*url, "size", "long").out == b"%d\n" % len(LONG)
    stats = call("stats", urls[1], "--json").json[0]
    assert stats["value_bytes"] == len(LONG) + 1
    assert stats["backend"] == "sqlite"
    assert "env:KV_TEST_KEY" not in stats["url"]
    export = call(*url, "export").out
    assert b"the same words" in export
    assert call("-u", urls[1].replace("sealed", "other"), "import", stdin=export).code == 0
    assert call("-u", urls[1].replace("sealed", "other"), "export").out == export
    assert call(*url, "verify").code == 0
    assert call(*url, "cleanup").code == call(*url, "compact").code == 0
    assert call(*url, "backup", "copy.db").code == 0
    assert call("-u", urls[1].replace("sealed", "copy"), "get", "long").out == LONG
    assert b"CREATE TABLE" in call("ddl", urls[1]).out
    failed(call("-u", urls[1].replace("_KEY", "_KEY2"), "get", "long"), "KV_TEST_KEY2, which is not set")
    failed(call("-u", f"sqlite:///sealed.db?encryption_keys={OTHER}", "get", "long"), "not in the key ring")
    failed(call("-u", "memory://?compress=1", "backup", "x.db"), "has no backup")
    call("-u", "sqlite:///sealed.db", "set", "plain", "not encrypted")
    answer = call(*url, "verify")
    assert answer.code == 1
    assert answer.lines == [
        "the value of 'plain' is not encrypted, and is refused; kv copy moves a store into an encrypted one"
    ]


def test_reencrypt(urls: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    call("-u", urls[1], "set", "a", "1")
    call("-u", urls[1], "set", "b", "2", "-n", "below")
    monkeypatch.setenv("KV_TEST_NEW", OTHER)
    both_keys = "sqlite:///sealed.db?encryption_keys=env:KV_TEST_NEW,env:KV_TEST_KEY&compress=1"
    assert call("reencrypt", both_keys) == (0, b"2\n", "")
    assert call("reencrypt", both_keys, "--json").json == [{"reencrypted": 0}]
    new = ("-u", "sqlite:///sealed.db?encryption_keys=env:KV_TEST_NEW")
    assert call(*new, "get", "b", "-n", "below").out == b"2"
    failed(call("reencrypt", urls[1]), "0 sealed anew, and 2 left as they are", "not in the key ring")
    failed(call("reencrypt", "sqlite:///sealed.db"), "has no encryption; its keys go into the URL")
    failed(call("reencrypt", "sqlite:///sealed.db?compress=1"), "has no reencrypt()")
