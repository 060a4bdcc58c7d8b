"""What a read-only store refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from colours import around, both, run

import kv
from kv.wrappers import AsyncReadOnly, ReadOnly

if TYPE_CHECKING:
    from collections.abc import Callable

    Opens = Callable[..., Any]

WRITES: dict[str, tuple[Any, ...]] = {
    "set": ("k", b"2"),
    "delete": ("k",),
    "update": ("k", lambda _: b"2"),
    "set_many": ({"k": b"2"},),
    "delete_many": (["k"],),
    "update_many": (["k"], lambda _: {}),
    "add": ("new", b"2"),
    "compare_and_set": ("k", b"1", b"2"),
    "pop": ("k",),
    "increment": ("k",),
    "expire": ("k", 5),
    "persist": ("k",),
    "clear": (),
    "cleanup": (),
    "compact": (),
    "_load": ([],),
}


@both
@pytest.mark.parametrize("method", WRITES)
def test_every_write_is_refused_and_does_nothing(opens: Opens, method: str) -> None:
    async def body(store: Any) -> None:
        await store.set("k", b"1", ttl=1_000)
        closed = around(store, ReadOnly, AsyncReadOnly)
        for view in (closed, closed.namespace("n")):
            with pytest.raises(kv.ConfigError, match=rf"{method}\(\) may write, and .* is read-only"):
                await getattr(view, method)(*WRITES[method])
        assert [await store.get("k"), await store.count()] == [b"1", 1]
        assert await closed.get("k") == b"1"
        assert (await closed.ttl("k") or 0) > 900

    run(opens("memory://"), body)


@both
def test_a_url_opens_a_store_to_read(opens: Opens, shared: str) -> None:
    with kv.open(shared) as store:
        store.set("k", b"1")

    async def body(store: Any) -> None:
        assert await store.get("k") == b"1"
        with pytest.raises(kv.ConfigError, match="read-only"):
            await store.delete("k")

    run(opens(shared, read_only=True), body)


def test_a_transaction_of_the_caller_opens_no_way_around_it(postgres_url: str, admin: Any) -> None:
    with ReadOnly(kv.open(postgres_url)) as store, pytest.raises(kv.ConfigError, match="bind"):
        store.bind(admin)
