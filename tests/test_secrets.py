"""Passwords, encryption keys and values are in no message, no argument of an exception, no `repr` and no log."""

from __future__ import annotations

import io
import logging
import traceback
from typing import TYPE_CHECKING, Any

import pytest
import servers
from colours import both, run
from exports import signed
from fuzzing import SECRET, tells_no

import kv
from kv import transfer
from kv.testing.suite import Lifted
from kv.wrappers import AsyncCompressed, AsyncEncrypted, Compressed, Encrypted, new_key

if TYPE_CHECKING:
    from collections.abc import Callable

    Opens = Callable[..., Any]

DEAD = "127.0.0.1:{dead}"
URLS = [
    # nobody answers
    *(f"postgresql://u:{SECRET}@{DEAD}/db", f"postgresql://{DEAD}/db?user=u&password={SECRET}"),
    *(f"postgres://u:{SECRET}@{DEAD},{DEAD}/db?connect_timeout=5", f"postgresql:///db?host=/nowhere&password={SECRET}"),
    *(f"postgresql://u:{SECRET}%25%2F@{DEAD}/db?sslpassword={SECRET}", f"postgresql://u:{SECRET}@nowhere.invalid/db"),
    *(f"redis://u:{SECRET}@{DEAD}", f"redis://:{SECRET}@{DEAD}/0", f"redis://{DEAD}?username=u&password={SECRET}"),
    *(f"rediss://u:{SECRET}@{DEAD}?ssl_password={SECRET}", f"unix://u:{SECRET}@/nowhere.sock"),
    *(f"redis+cluster://u:{SECRET}@{DEAD},{DEAD}", f"rediss+cluster://{DEAD},{DEAD}?password={SECRET}"),
    # the server refuses
    *(f"redis://u:{SECRET}@{{redis}}", f"redis://{{redis}}?password={SECRET}"),
    *(f"postgresql://nobody:{SECRET}@{{postgres}}/nothing", f"postgresql://{{postgres}}/nothing?password={SECRET}"),
    # what is no URL, or not written as one should be
    *(f"postgresql://u:{SECRET}%zz@h/db", f"postgresql://u:{SECRET}%00@h/db", f"postgresql://u:{SECRET}%ff@h/db"),
    *(f"postgresql://u:{SECRET}\ud800@h/db", f"postgresql://u:{SECRET}\0@h/db", f"postgresql://u:{SECRET}℀@h/db"),
    *(f"postgresql://u:{SECRET}@[::1]5432/db", f"postgresql://u:[{SECRET}@h/db", f"postgresql://u:{SECRET}@h:0/db"),
    *(
        f"postgresql://u:{SECRET}@h/db?a",
        f"postgresql://u:{SECRET}@h/db?user=a=b&=",
        f"postgresql://u:{SECRET}@[::1/db",
    ),
    *(f"postgresql://u:{SECRET}/@h/db", f"postgresql://u:{SECRET}?@h/db", f"postgresql://u:?a={SECRET}@h/db"),
    *(f"postgresql://u:{SECRET}", f"postgresql://u:{SECRET}/db", f"postgresql://u:{SECRET}@h/db?pasword={SECRET}"),
    *(f"postgresql://u:{SECRET}@h/db?password=%ff{SECRET}", f"postgresql://u:{SECRET}@h/db?options=\ud800"),
    *(f"postgresql://u:{SECRET}@h/db?sslmode=maybe", f"postgresql://u:{SECRET}@h/db?pool_min=9&pool_max=1"),
    *(f"redis://u:{SECRET}%zz@h:x", f"redis://u:{SECRET}[@h", f"redis://u:{SECRET}\ud800@h:x", f"redis://:{SECRET}"),
    *(
        f"redis+cluster://u:{SECRET}@h:x,u:{SECRET}@h:y",
        f"redis://u:{SECRET}@h?db=x",
        f"redis://u:?protocol={SECRET}@h",
    ),
    *(f"redis://h?passwrd={SECRET}", f"redis://u:{SECRET}@h,h", f"rediss://h?ssl_password={SECRET}&ssl_min_version=1"),
    *(f"sqlite://u:{SECRET}@h/a.db", f"memory://u:{SECRET}@h", f"nosuch://u:{SECRET}@h", f"postgres:/u:{SECRET}@h/db"),
    *(f"host=h password={SECRET} user=u", f"service=s password = '{SECRET} x'", f"u:{SECRET}@h/db"),
    *(f"memory://?encryption_keys={SECRET}", f"memory://?encryption_key={SECRET}", f"memory://?password={SECRET}"),
    *(f"memory://?encryption_keys=é{SECRET}{'x' * 37}", f"memory://?encryption_keys={SECRET}&encryption_keys={SECRET}"),
]


@pytest.fixture(scope="session")
def dead() -> int:
    return servers.free_port()


def seen(error: BaseException, log: pytest.LogCaptureFixture) -> None:
    """See that neither who prints it, nor who looks at its chain, nor who reads the log sees the secret."""
    tells_no(SECRET, error)
    assert SECRET not in "".join(traceback.format_exception(error)).replace(f"SECRET = {SECRET!r}", "")
    assert SECRET not in log.text
    assert SECRET not in "".join(str(record.__dict__) for record in log.records)


@pytest.mark.parametrize("url", URLS, ids=range(len(URLS)))
@both
def test_no_error_of_opening_tells_a_password(
    opens: Opens,
    url: str,
    dead: int,
    redis: servers.Server,
    postgres: servers.Server,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.chdir(tmp_path)
    places = {
        name: one.url.partition("@")[2] or one.url.partition("://")[2]
        for name, one in (("redis", redis), ("postgres", postgres))
    }
    for name, place in places.items():
        url = url.replace(f"{{{name}}}", place.partition("/")[0])
    url = url.replace("{dead}", str(dead))
    with pytest.raises((kv.ConfigError, kv.Unavailable)) as caught:
        run(_shown(opens(url)), lambda store: store.get("k"))
    seen(caught.value, caplog)


@both
def test_nor_does_one_of_a_url_in_the_environment(
    opens: Opens, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for url in (
        *(f"postgresql://u:{SECRET}%zz@h/db", f"host=h password={SECRET}", f"u:{SECRET}@h/db", f"redis://:{SECRET}"),
        *(f"memory://?encryption_keys={SECRET}", f"sqlite://u:{SECRET}@h/a.db"),
    ):
        monkeypatch.setenv("KV_URL", url)
        with pytest.raises(kv.ConfigError) as caught:
            run(opens(), lambda store: store.get("k"))
        seen(caught.value, caplog)


def _shown(store: object) -> object:
    assert SECRET not in repr(store)
    return store


async def _raised(call: Any) -> BaseException:
    try:
        await call
    except (kv.KVError, TypeError, ValueError) as e:
        return e
    raise AssertionError("it was taken")


@both
def test_no_error_tells_a_value(opens: Opens, anywhere: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    value: Any = SECRET.encode()
    key = new_key()

    async def body(store: kv.AsyncStore) -> None:
        await store.set("k", value)
        lifted = isinstance(store, Lifted)
        inner: Any = store._store if isinstance(store, Lifted) else store

        def around(sync: Any, colour: Any, *args: Any) -> Any:
            return Lifted(sync(inner, *args)) if lifted else colour(inner, *args)

        typed = Lifted(kv.typed(inner)) if lifted else kv.typed(inner)
        vault, packed = around(Encrypted, AsyncEncrypted, key), around(Compressed, AsyncCompressed)
        calls: list[Any] = [
            store.increment("k"),
            store.set("k", SECRET),  # type: ignore[arg-type]
            store.set_many({"a": value, "b": SECRET}),
            store.update("k", lambda old: SECRET),  # type: ignore[arg-type,return-value]
            store.update_many(["k"], lambda found: {"other": value}),
            store.compare_and_set("k", SECRET, value),  # type: ignore[arg-type]
            typed.get("k"),
            typed.set("k", {SECRET: {SECRET}}),
            typed.increment("k"),
            vault.get("k"),
            vault.update("k", lambda old: old),
            vault.reencrypt(),
        ]
        errors = [await _raised(call) for call in calls]
        await store.set("k", b"\xf8\x28\xb5\x2f\xfd" + value)
        errors.append(await _raised(packed.get("k")))
        errors.append(await _raised(transfer.import_file_async(inner, _file(), name="f")))
        for error in errors:
            seen(error, caplog)
        for one in (store, typed, vault, packed):
            assert SECRET not in repr(one)
            assert key not in repr(one) + repr(getattr(one, "_store", one))

    run(opens(anywhere), body)


def _file() -> io.BytesIO:
    return io.BytesIO(signed({"key": "a", "value": SECRET}, {"key": "b", "value": SECRET, "expires_at": SECRET}))
