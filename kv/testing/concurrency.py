"""What many callers at once see: nothing is lost, one of many wins, nobody sees half, nobody waits forever."""

from __future__ import annotations

import asyncio
import math
import random
from itertools import count
from typing import TYPE_CHECKING, Any, Final, TypeVar

from .hostile import A, B, C, D
from .suite import CALLERS, LONG, Suite, anything, expired, increased, together

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from kv.store import AsyncStore

T = TypeVar("T")

ROUNDS: Final = 3
STATES: Final = 8
"""How many different states a reader waits to see, while others write."""


async def crowd(store: AsyncStore, call: Callable[[], Coroutine[Any, Any, T]]) -> list[T]:
    """Make one call many times at once."""
    return await together(store, *(call() for _ in range(CALLERS)))


def all_increased(found: dict[str, bytes]) -> dict[str, bytes]:
    return {key: increased(found.get(key)) for key in (A, B)}


class Concurrency(Suite):
    async def test_concurrent_updates_lose_nothing(self, store: AsyncStore) -> None:
        await store.set(A, b"0")
        for _ in range(ROUNDS):
            await crowd(store, lambda: store.update(A, increased))
        assert await store.get(A) == b"%d" % (CALLERS * ROUNDS)

    async def test_concurrent_updates_of_a_missing_key_lose_nothing(self, store: AsyncStore) -> None:
        for _ in range(ROUNDS):
            given = await crowd(store, lambda: store.update(A, increased))
            assert {*given} == {b"%d" % i for i in range(1, CALLERS + 1)}
            assert await store.pop(A) == b"%d" % CALLERS

    async def test_concurrent_updates_of_an_expired_entry_lose_nothing(self, store: AsyncStore) -> None:
        for _ in range(ROUNDS):
            await expired(store, A, value=b"1000")
            await crowd(store, lambda: store.update(A, increased))
            assert (await store.get(A), await store.ttl(A)) == (b"%d" % CALLERS, math.inf)

    async def test_concurrent_updates_that_delete_and_create_lose_nothing(self, store: AsyncStore) -> None:
        def flip(current: bytes | None) -> bytes | None:
            taken.append(current)
            return b"there" if current is None else None

        for _ in range(ROUNDS):
            taken: list[bytes | None] = []
            given = await crowd(store, lambda: store.update(A, flip))
            assert given.count(b"there") == given.count(None) == CALLERS / 2
            assert await store.exists(A) is False

    async def test_concurrent_updates_of_many_keys_lose_nothing(self, store: AsyncStore) -> None:
        for plant in (False, True):
            if plant:
                await expired(store, A, B, value=b"1000")
            await together(
                store,
                *(store.update_many([A, B], all_increased) for _ in range(CALLERS)),
                *(store.update_many([B, A], all_increased) for _ in range(CALLERS)),
                *(store.update(A, increased) for _ in range(CALLERS)),
                *(store.increment(B) for _ in range(CALLERS)),
            )
            assert await store.get_many([A, B]) == dict.fromkeys([A, B], b"%d" % (CALLERS * 3))
            assert await store.delete_many([A, B]) == 2

    async def test_concurrent_increments_lose_nothing(self, store: AsyncStore) -> None:
        for there in (None, b"old"):
            for _ in range(ROUNDS):
                if there is not None:
                    await expired(store, A, value=b"1000")
                given = await crowd(store, lambda: store.increment(A, 2))
                assert {*given} == {*range(2, 2 * CALLERS + 2, 2)}
                assert (await store.ttl(A), await store.pop(A)) == (math.inf, b"%d" % (2 * CALLERS))

    async def test_one_of_many_adds_wins(self, store: AsyncStore) -> None:
        for i in range(ROUNDS * 2):
            if i % 2:
                await expired(store, A)
            won = await together(store, *(store.add(A, b"%d" % i) for i in range(CALLERS)))
            assert sum(won) == 1
            assert await store.pop(A) == b"%d" % won.index(True)

    async def test_one_of_many_compare_and_sets_wins(self, store: AsyncStore) -> None:
        for expected in (None, b"old", b""):
            for _ in range(ROUNDS):
                if expected is not None:
                    await store.set(A, expected)
                won = await together(store, *(store.compare_and_set(A, expected, b"%d" % i) for i in range(CALLERS)))
                assert sum(won) == 1
                assert await store.pop(A) == b"%d" % won.index(True)
                await store.set(A, b"old")
                assert sum(await crowd(store, lambda: store.compare_and_set(A, b"old", None))) == 1

    async def test_compare_and_set_counts_without_loss(self, store: AsyncStore) -> None:
        async def count() -> None:
            while True:
                current = await store.get(A)
                if await store.compare_and_set(A, current, increased(current)):
                    return

        await together(store, *(count() for _ in range(8)))
        assert await store.get(A) == b"8"

    async def test_one_of_many_pops_gets_the_value(self, store: AsyncStore) -> None:
        for _ in range(ROUNDS * 2):
            await store.set(A, b"prize")
            given = await crowd(store, lambda: store.pop(A))
            assert given.count(b"prize") == 1
            assert given.count(None) == CALLERS - 1

    async def test_one_of_many_deletes_removes_the_entry(self, store: AsyncStore) -> None:
        for _ in range(ROUNDS * 2):
            await store.set_many({A: b"1", B: b"2"})
            assert sum(await crowd(store, lambda: store.delete(A))) == 1
            assert sum(await crowd(store, lambda: store.delete_many([B, A]))) == 1

    async def test_one_of_many_persists_removes_the_deadline(self, store: AsyncStore) -> None:
        for _ in range(ROUNDS):
            await store.set(A, b"1", ttl=LONG)
            assert sum(await crowd(store, lambda: store.persist(A))) == 1

    async def test_no_reader_sees_half_of_set_many(self, store: AsyncStore) -> None:
        keys = [f"{{t}}{i}" for i in range(40)]
        await store.set_many(dict.fromkeys(keys, b"0"))
        done: list[int] = []

        async def write(writer: int) -> None:
            for i in count():
                await store.set_many(dict.fromkeys(keys, b"%d %d" % (writer, i)))
                await asyncio.sleep(0)
                if len(done) == 2:
                    return

        async def read(reader: int) -> None:
            seen: set[object] = set()
            try:
                while len(seen) < STATES:
                    found = await store.get_many(keys[::-1])
                    assert len(found) == len(keys)
                    assert len({*found.values()}) == 1, "some of one set_many, some of another"
                    seen |= {*found.values()}
                    await asyncio.sleep(0)
            finally:
                done.append(reader)

        await together(store, write(1), write(2), read(1), read(2))

    async def test_no_reader_sees_half_of_update_many(self, store: AsyncStore) -> None:
        accounts = [f"{{t}}{i}" for i in range(40)]
        await store.set_many(dict.fromkeys(accounts, b"100"))
        done: list[int] = []

        async def transfer(seed: int) -> None:
            chance = random.Random(seed)
            while len(done) < 2:
                payer, payee = chance.sample(accounts, 2)

                def fn(found: dict[str, bytes], payer: str = payer, payee: str = payee) -> dict[str, bytes]:
                    amount = chance.randint(0, int(found[payer]))
                    return {payer: b"%d" % (int(found[payer]) - amount), payee: b"%d" % (int(found[payee]) + amount)}

                await store.update_many([payer, payee], fn)
                await asyncio.sleep(0)

        async def audit(auditor: int) -> None:
            seen: set[object] = set()
            try:
                while len(seen) < STATES:
                    found = await store.get_many(accounts)
                    assert sum(map(int, found.values())) == 4_000, "some of one transfer, not the other"
                    seen.add(tuple(found.values()))
                    await asyncio.sleep(0)
            finally:
                done.append(auditor)

        await together(store, *map(transfer, range(6)), *map(audit, range(2)))

    async def test_an_error_of_fn_locks_nobody_out(self, store: AsyncStore) -> None:
        class Stop(BaseException):
            pass

        async def fail(stop: type[BaseException]) -> None:
            def fn(_: object) -> bytes:
                raise stop

            try:
                await store.update(A, fn)
            except stop:
                return
            raise AssertionError("the error did not come out")

        half = range(CALLERS // 2)
        calls = [call for _ in half for call in (fail(Stop), fail(ValueError), store.update(A, increased))]
        await together(store, *calls)
        assert await store.get(A) == b"%d" % (CALLERS // 2)

    async def test_no_two_calls_wait_for_each_other_forever(self, store: AsyncStore) -> None:
        keys = [A, B, C, D, "{t}e", "{t}f"]

        async def caller(seed: int) -> None:
            chance = random.Random(seed)
            for _ in range(12):
                await anything(store, keys, chance)

        await together(store, *map(caller, range(12)))
        await store.set_many(dict.fromkeys(keys, b"9"))
        assert await store.get_many(keys) == dict.fromkeys(keys, b"9")

    async def test_cleanup_removes_nothing_that_has_been_set_again(self, store: AsyncStore) -> None:
        keys = [f"{{t}}{i:02}" for i in range(40)]
        for _ in range(ROUNDS):
            await expired(store, *keys)
            calls: list[Coroutine[Any, Any, object]] = [store.add(key, b"new") for key in keys]
            for i in range(0, len(calls), 8):
                calls.insert(i, store.cleanup())
            assert (await together(store, *calls)).count(True) >= len(keys)
            assert await store.get_many(keys) == dict.fromkeys(keys, b"new")
            assert await store.clear() == len(keys)

    async def test_a_cancelled_call_leaves_the_old_value_or_the_new_one(self, store: AsyncStore) -> None:
        await store.set_many({A: b"old", B: b"old"})
        for turns in range(6):
            tasks = [
                asyncio.ensure_future(call)
                for call in (
                    *(store.set(A, b"new") for _ in range(4)),
                    *(store.update(A, lambda _: b"new") for _ in range(4)),
                    *(store.set_many({A: b"new", B: b"new"}) for _ in range(4)),
                    *(store.update_many([A, B], lambda _: {A: b"new", B: b"new"}) for _ in range(4)),
                    *(store.get(A) for _ in range(4)),
                    *(store.keys() for _ in range(4)),
                )
            ]
            for _ in range(turns):
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert {await store.get(A), await store.get(B)} <= {b"old", b"new"}
        await crowd(store, lambda: store.increment(C))
        assert await store.update(A, lambda _: b"after") == b"after"
        assert await store.get_many([A, C]) == {A: b"after", C: b"%d" % CALLERS}
