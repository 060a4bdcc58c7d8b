"""Deadlines: an expired entry is a missing one, for every method, from the deadline on."""

from __future__ import annotations

import math
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from kv.errors import InvalidTTL
from kv.expiry import KEEP_TTL

from .hostile import BAD_TTLS, TTL_CALLS, TTL_IF_NEW_CALLS, A, B, C
from .suite import LONG, SOON, Suite, expired, expires_in, gone, listed, raises, recorded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kv.store import AsyncStore

UPDATES: Final[dict[str, Callable[..., Awaitable[object]]]] = {
    "update": lambda s, key, **ttl: s.update(key, lambda _: b"1", **ttl),
    "update_many": lambda s, key, **ttl: s.update_many([key], lambda _: {key: b"1"}, **ttl),
    "increment": lambda s, key, **ttl: s.increment(key, **ttl),
}
"""The methods with `ttl=KEEP_TTL` and `ttl_if_new`, in a call that leaves `b"1"` where `b"0"` or nothing was."""

CHANGES: Final[dict[str, Callable[..., Awaitable[object]]]] = {
    **UPDATES,
    "compare_and_set": lambda s, key, **ttl: s.compare_and_set(key, b"0", b"1", **ttl),
}


class Expiry(Suite):
    async def test_an_entry_without_a_ttl_never_expires(self, store: AsyncStore) -> None:
        await store.set(A, b"1")
        await store.set_many({B: b"1"})
        await store.add(C, b"1")
        await store.update("u", lambda _: b"1")
        await store.update_many(["m"], lambda _: {"m": b"1"})
        await store.increment("i")
        await store.compare_and_set("c", None, b"1")
        for key in (A, B, C, "u", "m", "i", "c"):
            assert await store.ttl(key) == math.inf, key

    async def test_ttl_gives_the_seconds_left(self, store: AsyncStore) -> None:
        since = time.monotonic()
        await store.set(A, b"1", ttl=LONG)
        before = await store.ttl(A)
        await expires_in(store, A, LONG, since)
        await expired(store, B)  # some time passes
        after = await store.ttl(A)
        assert type(before) is float
        assert type(after) is float
        assert after <= before - SOON + 0.005

    async def test_ttl_of_a_missing_key_is_none(self, store: AsyncStore) -> None:
        assert await store.ttl(A) is None
        await store.set(A, b"1", ttl=LONG)
        await store.delete(A)
        assert await store.ttl(A) is None

    async def test_every_way_to_say_a_ttl_is_understood(self, store: AsyncStore) -> None:
        ways: list[tuple[Any, float]] = [
            (LONG, LONG),
            (1_000, 1_000),
            (1_000.5, 1_000.5),
            (1_000.25, 1_000.25),
            (timedelta(seconds=1_000, milliseconds=500), 1_000.5),
            (timedelta(minutes=20), 1_200),
            (timedelta(days=400), 400 * 86_400),
            (10**9, 10**9),
        ]
        for ttl, seconds in ways:
            for what, call in TTL_CALLS.items():
                await store.set(A, b"0")
                await store.delete(C)
                since = time.monotonic()
                await call(store, ttl)
                assert await store.ttl(C if await store.exists(C) else A) is not None, f"{what} with {ttl!r}"
                await expires_in(store, C if await store.exists(C) else A, seconds, since)

    async def test_none_and_infinity_mean_never(self, store: AsyncStore) -> None:
        for never in (None, math.inf):
            for what, call in TTL_CALLS.items():
                await store.set(A, b"0", ttl=LONG)
                await store.delete(C)
                await call(store, never)
                assert await store.ttl(C if await store.exists(C) else A) == math.inf, f"{what} with {never}"

    async def test_every_method_with_a_ttl_makes_the_entry_expire(self, store: AsyncStore) -> None:
        views = {what: store.namespace(what) for what in TTL_CALLS}
        for what, call in TTL_CALLS.items():
            await views[what].set(A, b"0")
            await call(views[what], SOON)
        for what, view in views.items():
            await gone(view, C if "missing" in what or what == "add" else A)

    async def test_the_shortest_ttl_is_taken_and_ends(self, store: AsyncStore) -> None:
        for ttl in (0.001, 0.000_1, 1e-9, 1e-300, timedelta(milliseconds=1), timedelta(microseconds=1)):
            await store.set(A, b"1", ttl=ttl)
            await gone(store, A)

    async def test_what_is_no_ttl_is_refused_by_every_method(self, store: AsyncStore) -> None:
        await store.set_many({A: b"0"})
        for calls in (TTL_CALLS, TTL_IF_NEW_CALLS):
            for what, call in calls.items():
                for ttl in BAD_TTLS:
                    with raises(InvalidTTL, f"{what} with {ttl!r}"):
                        await call(store, ttl)
        for what in ("set", "set_many", "add", "expire"):
            with raises(InvalidTTL, f"{what} with KEEP_TTL"):
                await TTL_CALLS[what](store, KEEP_TTL)
        assert await listed(store.scan()) == [(A, b"0")]
        assert await store.ttl(A) == math.inf

    async def test_what_is_no_ttl_is_refused_where_there_is_nothing_to_do(self, store: AsyncStore) -> None:
        await store.set(A, b"0")
        with raises(InvalidTTL):
            await store.expire("missing", 0)
        with raises(InvalidTTL):
            await store.add(A, b"1", ttl=0)
        with raises(InvalidTTL):
            await store.set_many({}, ttl=0)
        with raises(InvalidTTL):
            await store.compare_and_set(A, b"other", b"1", ttl=0)
        with raises(InvalidTTL):
            await store.update(A, lambda _: None, ttl=0)
        with raises(ValueError):
            await store.set(A, b"1", ttl=-1)
        assert await store.get(A) == b"0"

    # whatever has expired is missing

    async def test_an_expired_entry_is_seen_by_no_method(self, store: AsyncStore) -> None:
        await expired(store, A, B, value=b"5")
        await store.set(C, b"live")
        default = object()
        assert await store.get(A) is None
        assert await store.get(A, default) is default
        assert await store.get_many([A, B, C]) == {C: b"live"}
        assert await store.exists(A) is False
        assert await store.size(A) is None
        assert await store.ttl(A) is None
        assert await store.keys() == await store.keys("{t}") == await store.keys(match="*") == [C]
        assert await store.keys(limit=1) == [C]
        assert await listed(store.scan()) == await listed(store.scan("{t}", match="*", limit=1)) == [(C, b"live")]
        assert await store.count() == await store.count("{t}") == await store.count(match="*") == 1
        assert (await store.stats())[0] == 1

    async def test_an_expired_entry_is_nothing_to_delete(self, store: AsyncStore) -> None:
        await expired(store, A, B)
        await store.set(C, b"live")
        assert await store.delete(A) is False
        assert await store.delete_many([A, B, C]) == 1
        assert await store.clear() == 0

    async def test_clear_counts_no_expired_entry(self, store: AsyncStore) -> None:
        await expired(store, A, B)
        await store.set(C, b"live")
        assert await store.clear("{t}") == 1
        await expired(store, A)
        assert await store.clear() == 0

    async def test_an_expired_entry_is_nothing_to_pop(self, store: AsyncStore) -> None:
        await expired(store, A, B)
        default = object()
        assert await store.pop(A) is None
        assert await store.pop(B, default) is default

    async def test_an_expired_entry_cannot_be_brought_back(self, store: AsyncStore) -> None:
        await expired(store, A)
        assert await store.expire(A, LONG) is False
        assert await store.expire(A, None) is False
        assert await store.persist(A) is False
        assert (await store.get(A), await store.ttl(A), await store.keys()) == (None, None, [])

    async def test_add_succeeds_over_an_expired_entry(self, store: AsyncStore) -> None:
        await expired(store, A, B)
        assert await store.add(A, b"new") is True
        assert (await store.get(A), await store.ttl(A)) == (b"new", math.inf)
        since = time.monotonic()
        assert await store.add(B, b"new", ttl=LONG) is True
        assert await store.add(B, b"newer") is False
        await expires_in(store, B, LONG, since)

    async def test_set_over_an_expired_entry_has_no_deadline(self, store: AsyncStore) -> None:
        await expired(store, A, B)
        await store.set(A, b"new")
        await store.set_many({B: b"new"})
        assert await store.get_many([A, B]) == {A: b"new", B: b"new"}
        assert await store.ttl(A) == await store.ttl(B) == math.inf

    async def test_update_after_the_deadline_gets_none_and_has_no_deadline(self, store: AsyncStore) -> None:
        await expired(store, A)
        seen: list[bytes | None] = []
        assert await store.update(A, recorded(seen, b"new")) == b"new"
        assert {*seen} == {None}
        assert (await store.get(A), await store.ttl(A)) == (b"new", math.inf)

    async def test_update_many_after_the_deadline_finds_nothing_and_has_no_deadline(self, store: AsyncStore) -> None:
        await expired(store, A)
        await store.set(B, b"live")
        seen: list[dict[str, bytes]] = []
        await store.update_many([A, B], recorded(seen, {A: b"new", B: b"new"}))
        assert seen[-1] == {B: b"live"}
        assert await store.get_many([A, B]) == {A: b"new", B: b"new"}
        assert await store.ttl(A) == math.inf

    async def test_increment_after_the_deadline_starts_at_zero_and_has_no_deadline(self, store: AsyncStore) -> None:
        await expired(store, A, value=b"41")
        await expired(store, B, value=b"no number")
        assert await store.increment(A) == 1
        assert await store.increment(B, -1) == -1
        assert (await store.get(A), await store.get(B)) == (b"1", b"-1")
        assert await store.ttl(A) == await store.ttl(B) == math.inf

    async def test_compare_and_set_finds_nothing_after_the_deadline(self, store: AsyncStore) -> None:
        await expired(store, A, value=b"old")
        assert await store.compare_and_set(A, b"old", b"new") is False
        assert await store.compare_and_set(A, None, b"new") is True
        assert (await store.get(A), await store.ttl(A)) == (b"new", math.inf)

    async def test_ttl_if_new_counts_for_what_has_expired(self, store: AsyncStore) -> None:
        for what, call in UPDATES.items():
            await expired(store, A, value=b"0")
            since = time.monotonic()
            await call(store, A, ttl_if_new=LONG)
            assert await store.get(A) == b"1", what
            await expires_in(store, A, LONG, since)

    # what becomes of a deadline

    async def test_set_without_a_ttl_removes_the_deadline(self, store: AsyncStore) -> None:
        await store.set_many({A: b"1", B: b"1"}, ttl=LONG)
        await store.set(A, b"2")
        await store.set_many({B: b"2"})
        assert await store.ttl(A) == await store.ttl(B) == math.inf
        await store.set(A, b"1", ttl=SOON)
        await store.set(A, b"2")
        await expired(store, C)
        assert await store.get(A) == b"2"

    async def test_set_with_a_ttl_replaces_the_deadline(self, store: AsyncStore) -> None:
        for old in (None, SOON, LONG * 5):
            await store.set_many({A: b"1", B: b"1"}, ttl=old)
            since = time.monotonic()
            await store.set(A, b"2", ttl=LONG)
            await store.set_many({B: b"2"}, ttl=LONG)
            await expires_in(store, A, LONG, since)
            await expires_in(store, B, LONG, since)

    async def test_keep_ttl_keeps_the_deadline(self, store: AsyncStore) -> None:
        for what, call in CHANGES.items():
            await store.set(A, b"0", ttl=LONG)
            before = await store.ttl(A)
            await expired(store, B)  # some time passes
            await call(store, A)
            after = await store.ttl(A)
            assert before is not None, what
            assert after is not None, what
            assert LONG / 2 < after <= before - SOON + 0.005, f"{what} began the ttl anew, or dropped it"
            assert await store.get(A) == b"1", what
            await store.set(A, b"0", ttl=LONG)
            await call(store, A, ttl=KEEP_TTL)
            assert LONG / 2 < (await store.ttl(A) or 0) <= LONG, what
            await store.set(A, b"0")
            await call(store, A)
            assert await store.ttl(A) == math.inf, what

    async def test_an_update_with_a_ttl_replaces_the_deadline(self, store: AsyncStore) -> None:
        for what, call in CHANGES.items():
            for old in (None, LONG * 5):
                await store.set(A, b"0", ttl=old)
                since = time.monotonic()
                await call(store, A, ttl=LONG)
                await expires_in(store, A, LONG, since)
                for never in (None, math.inf):
                    await store.set(A, b"0", ttl=old)
                    await call(store, A, ttl=never)
                    assert await store.ttl(A) == math.inf, what

    async def test_ttl_if_new_counts_only_where_the_call_creates_the_entry(self, store: AsyncStore) -> None:
        for what, call in UPDATES.items():
            await store.delete(A)
            since = time.monotonic()
            await call(store, A, ttl_if_new=LONG)
            await expires_in(store, A, LONG, since)
            await store.set(A, b"0", ttl=LONG)
            await call(store, A, ttl_if_new=LONG * 5)
            assert (await store.ttl(A) or 0) <= LONG, what
            await store.set(A, b"0")
            await call(store, A, ttl_if_new=LONG)
            assert await store.ttl(A) == math.inf, what

    async def test_ttl_and_ttl_if_new_each_have_their_case(self, store: AsyncStore) -> None:
        for what, call in UPDATES.items():
            await store.delete(A)
            since = time.monotonic()
            await call(store, A, ttl=LONG, ttl_if_new=LONG * 5)
            await expires_in(store, A, LONG * 5, since)
            await store.set(A, b"0")
            since = time.monotonic()
            await call(store, A, ttl=LONG, ttl_if_new=LONG * 5)
            await expires_in(store, A, LONG, since)
            await store.delete(A)
            since = time.monotonic()
            await call(store, A, ttl=LONG)
            await expires_in(store, A, LONG, since)
            await store.set(A, b"0", ttl=LONG)
            await call(store, A, ttl=None, ttl_if_new=LONG)
            assert await store.ttl(A) == math.inf, what

    async def test_update_many_gives_each_key_the_ttl_of_its_own_case(self, store: AsyncStore) -> None:
        await store.set(A, b"0", ttl=LONG)
        since = time.monotonic()
        await store.update_many([A, B], lambda _: {A: b"1", B: b"1"}, ttl_if_new=LONG * 5)
        assert (await store.ttl(A) or 0) <= LONG
        await expires_in(store, B, LONG * 5, since)

    async def test_a_deadline_counts_from_the_write(self, store: AsyncStore) -> None:
        ended = 0.0

        def slow(_: object) -> bytes:
            nonlocal ended
            time.sleep(0.1)
            ended = time.monotonic()
            return b"1"

        await store.update(A, slow, ttl=LONG)
        await expires_in(store, A, LONG, ended)
        await store.update(B, slow, ttl_if_new=LONG)
        await expires_in(store, B, LONG, ended)
        await store.update_many([C], lambda _: {C: slow(None)}, ttl=LONG)
        await expires_in(store, C, LONG, ended)

    async def test_what_does_not_happen_changes_no_deadline(self, store: AsyncStore) -> None:
        await store.set(A, b"0", ttl=LONG)
        await store.set(B, b"0")
        for key in (A, B):
            assert await store.add(key, b"1", ttl=LONG * 5) is False
            assert await store.compare_and_set(key, b"other", b"1", ttl=LONG * 5) is False
            assert await store.compare_and_set(key, None, b"1", ttl=LONG * 5) is False
            assert await store.get(key) == b"0"
        assert (await store.ttl(A) or 0) <= LONG
        assert await store.ttl(B) == math.inf

    async def test_expire_gives_a_live_entry_a_new_deadline(self, store: AsyncStore) -> None:
        for old in (None, LONG * 5):
            await store.set(A, b"value", ttl=old)
            since = time.monotonic()
            assert await store.expire(A, LONG) is True
            await expires_in(store, A, LONG, since)
            assert await store.get(A) == b"value"
            assert await store.expire(A, timedelta(seconds=LONG * 2)) is True
            assert (await store.ttl(A) or 0) > LONG
            assert await store.expire(A, SOON) is True
            await gone(store, A)

    async def test_expire_with_no_ttl_makes_the_entry_live_on(self, store: AsyncStore) -> None:
        for never in (None, math.inf):
            await store.set(A, b"value", ttl=LONG)
            assert await store.expire(A, never) is True
            assert await store.ttl(A) == math.inf
            assert await store.expire(A, never) is True
            assert await store.get(A) == b"value"

    async def test_expire_of_a_missing_key_creates_nothing(self, store: AsyncStore) -> None:
        assert await store.expire(A, LONG) is False
        assert await store.expire(A, None) is False
        assert (await store.exists(A), await store.keys()) == (False, [])

    async def test_persist_says_whether_it_removed_a_deadline(self, store: AsyncStore) -> None:
        assert await store.persist(A) is False
        await store.set(A, b"value")
        assert await store.persist(A) is False
        await store.set(A, b"value", ttl=LONG)
        assert await store.persist(A) is True
        assert (await store.ttl(A), await store.get(A)) == (math.inf, b"value")
        assert await store.persist(A) is False
        assert await store.persist(B) is False

    async def test_the_deadlines_of_two_entries_are_two(self, store: AsyncStore) -> None:
        await store.set(A, b"1", ttl=LONG)
        await store.set(B, b"2", ttl=SOON)
        await store.set(C, b"3")
        await gone(store, B)
        assert await store.get_many([A, B, C]) == {A: b"1", C: b"3"}
        assert await store.ttl(C) == math.inf
