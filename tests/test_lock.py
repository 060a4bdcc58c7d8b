"""Locks: who holds one, for how long, and what a holder who comes late may do."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from adapted import AsyncCutOff, CutOff, entered, now, on
from colours import both, in_threads, run
from programs import ROOT, pythons

import kv
from kv.adapters import AsyncLease, AsyncLock, Lease, LeaseLost, Lock
from kv.adapters.steps import pauses
from kv.testing.suite import LONG, together

if TYPE_CHECKING:
    from collections.abc import Callable


def lock_on(store: Any, name: str = "x", **options: Any) -> Any:
    return on(store, Lock, AsyncLock, name, **options)


async def end(store: kv.AsyncStore, name: str = "x") -> None:
    """End the lease, as its deadline does."""
    assert await store.namespace("lock").delete(name)


@both
def test_one_at_a_time_holds_it(opens: Callable[..., Any], anywhere: str) -> None:
    async def body(store: kv.AsyncStore) -> None:
        lock, other = lock_on(store), lock_on(store)
        assert not await now(lock.locked())
        lease = await now(lock.try_acquire())
        assert isinstance(lease, Lease | AsyncLease)
        assert await now(lock.locked())
        assert await now(other.try_acquire()) is None
        assert await now(lock.try_acquire()) is None  # not re-entrant
        assert await now(lease.release())
        assert not await now(lease.release())
        assert not await now(other.locked())
        with pytest.raises(LeaseLost, match=r"the lease on 'x' \(fence 1\) is over"):
            await now(lease.renew())
        async with entered(other) as second:
            assert await now(lock.try_acquire()) is None
            assert (lease.fence, second.fence) == (1, 2)
            assert lease.token != second.token
        assert await now((await now(lock.acquire())).release())

    run(opens(anywhere), body)


@both
def test_a_stranger_releases_and_renews_nothing(opens: Callable[..., Any], anywhere: str) -> None:
    async def body(store: kv.AsyncStore) -> None:
        lock = lock_on(store, lease=LONG)
        lease = await now(lock.acquire())
        for token in ("", "0" * 32, lease.token[:-1], lease.token.upper() + " ", "é\x00"):
            stranger = type(lease)(lock, token, lease.fence)
            assert not await now(stranger.release())
            with pytest.raises(LeaseLost):
                await now(stranger.renew(1))
        assert await store.namespace("lock").ttl("x") == pytest.approx(LONG, abs=100)
        await now(lease.renew())
        assert await now(lease.release())

    run(opens(anywhere), body)


@both
def test_a_lease_that_is_over_hands_the_lock_over(opens: Callable[..., Any], anywhere: str) -> None:
    async def body(store: kv.AsyncStore) -> None:
        late = await now(lock_on(store, lease=0.02).acquire())
        lock = lock_on(store)
        lease = await now(lock.acquire(timeout=30))
        assert lease.fence > late.fence
        with pytest.raises(LeaseLost):
            await now(late.renew())
        assert not await now(late.release())
        with pytest.raises(LeaseLost):
            async with entered(late):
                pass
        assert await now(lock.locked())
        assert await now(lease.release())

    run(opens(anywhere), body)


@both
def test_a_renewed_lease_goes_on(opens: Callable[..., Any], anywhere: str) -> None:
    async def body(store: kv.AsyncStore) -> None:
        lease = await now(lock_on(store, lease=50).acquire())
        place = store.namespace("lock")
        assert (await place.ttl("x") or 0) <= 50
        await now(lease.renew(LONG))
        assert (await place.ttl("x") or 0) > 900
        await now(lease.renew())
        assert (await place.ttl("x") or 0) <= 50

    run(opens(anywhere), body)


@both
def test_leaving_says_that_the_lease_was_lost_and_hides_nothing(opens: Callable[..., Any]) -> None:
    async def body(store: kv.AsyncStore) -> None:
        lock = lock_on(store)
        with pytest.raises(LeaseLost):
            async with entered(lock):
                await end(store)
        with pytest.raises(ZeroDivisionError) as caught:  # noqa: PT012
            async with entered(lock):
                await end(store)
                raise ZeroDivisionError
        assert "and then: the lease on 'x'" in caught.value.__notes__[0]
        with pytest.raises(ZeroDivisionError) as caught:
            async with entered(lock):
                raise ZeroDivisionError
        assert not hasattr(caught.value, "__notes__")
        async with entered(lock) as lease:
            await now(lease.release())
            other = await now(lock.acquire(0))
        assert await now(other.release())  # which leaving did not touch
        assert not await now(lock.locked())

    run(opens("memory://"), body)


@both
def test_waiting_ends_with_the_timeout(opens: Callable[..., Any]) -> None:
    async def body(store: kv.AsyncStore) -> None:
        lock = lock_on(store)
        async with entered(lock):
            for timeout in (0, 0.02):
                with pytest.raises(kv.Conflict, match=f"the lock 'x' was held by others for {timeout:g} s"):
                    await now(lock.acquire(timeout))
            for size in (-1, float("nan"), 10**11):
                with pytest.raises(ValueError, match="timeout must be from 0"):
                    await now(lock.acquire(size))
            for kind in ("1", True, b""):
                with pytest.raises(TypeError, match="timeout must be seconds"):
                    await now(lock.acquire(kind))
        lease = await now(lock.acquire(0))
        await now(lease.release())

    run(opens("memory://"), body)


def test_pauses_grow_are_jittered_and_end_with_the_timeout() -> None:
    time = [0.0]
    for timeout, longest in ((10.0, 0.25), (10.0, 1.0), (0.004, 0.25)):
        time[0], found = 0.0, []
        for pause in pauses(timeout, longest=longest, clock=lambda: time[0]):
            found.append(pause)
            time[0] += pause
        assert sum(found) == pytest.approx(timeout)
        assert found[0] == 0
        assert max(found) <= longest
        most = 0.005
        for pause in found[1:-1]:
            assert most / 2 <= pause <= most
            most = min(most * 1.5, longest)
    assert [*pauses(0)] == [0.0]
    assert len({tuple(pause for pause, _ in zip(pauses(None), range(5), strict=False)) for _ in range(5)}) == 5


@both
def test_taking_it_so_slowly_that_the_lease_may_be_over_counts_as_not_taken(opens: Callable[..., Any]) -> None:
    times = iter([0.0, 30.0, 100.0, 129.9])

    async def body(store: kv.AsyncStore) -> None:
        lock = lock_on(store, lease=30, clock=lambda: next(times))
        assert await now(lock.try_acquire()) is None
        assert not await now(lock.locked())
        assert (await now(lock.try_acquire())).fence == 2

    run(opens("memory://"), body)


@pytest.mark.parametrize("error", [kv.OutcomeUnknown, KeyboardInterrupt, asyncio.CancelledError])
@pytest.mark.parametrize("method", ["add", "increment"])
@both
def test_who_is_cut_off_while_taking_it_leaves_no_lock(opens: Any, method: str, error: type[BaseException]) -> None:
    async def main(store: kv.AsyncStore) -> None:
        slow = on(store, CutOff, AsyncCutOff, method, error("cut off"))
        lock: Any = (Lock if opens is kv.open else AsyncLock)(slow, "x")
        with pytest.raises(error, match="cut off"):
            await now(lock.acquire())
        assert not await now(lock.locked())
        assert slow.calls[: 1 + (method == "increment")] == ["add", "increment"][: 1 + (method == "increment")]
        assert await now(lock.try_acquire())

    run(opens("memory://"), main)


def test_a_task_cancelled_while_it_waits_or_takes_it_leaves_no_lock() -> None:
    class Slow(AsyncCutOff):
        reached: asyncio.Event

        async def _read(self, method: Any, *args: Any, **kwargs: Any) -> Any:
            answer = await super()._read(method, *args, **kwargs)
            if method.__name__ == "add" and answer:
                self.reached.set()
                await asyncio.Event().wait()
            return answer

    async def body(store: Any) -> None:
        Slow.reached = reached = asyncio.Event()
        quick, slow = AsyncLock(store, "x"), AsyncLock(Slow(store), "x")
        lease = await quick.acquire()
        waiting = asyncio.create_task(slow.acquire())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiting), 0.02)
        assert not reached.is_set()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await lease.release()
        taking = asyncio.create_task(slow.acquire())
        await reached.wait()
        assert await quick.locked()
        taking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taking
        assert not await quick.locked()

    run(kv.open_async("memory://"), body)


@both
def test_what_is_not_ours_is_left_as_it_is(opens: Callable[..., Any], anywhere: str) -> None:
    async def body(store: kv.AsyncStore) -> None:
        lock, place = lock_on(store), store.namespace("lock")
        await place.set("x", b"mine")
        for call in (lock.acquire, lambda: lock.acquire(1), lock.locked):
            with pytest.raises(kv.CorruptData, match="'x' is not a lease of a lock"):
                await now(call())
        assert await now(lock.try_acquire()) is None
        assert await place.get("x") == b"mine"
        await place.delete("x")
        await place.namespace("fence").set("x", b"mine")
        with pytest.raises(kv.NotAnInteger):
            await now(lock.acquire())
        assert await place.namespace("fence").get("x") == b"mine"
        assert not await now(lock.locked())  # given back

    run(opens(anywhere), body)


@both
def test_any_key_is_a_name_and_nothing_else(opens: Callable[..., Any], anywhere: str) -> None:
    names = ["fence", "lock", "a:b", "{x}", "}{", "a/*?[%]\\", "🔑é ", "x" * 2_048]

    async def body(store: kv.AsyncStore) -> None:
        leases = [await now(lock_on(store, name).acquire(0)) for name in names]
        assert [lease.fence for lease in leases] == [1] * len(names)
        assert [await now(lease.release()) for lease in leases] == [True] * len(names)

    run(opens(anywhere), body)


@both
def test_what_is_wrong_is_said_before_anything(opens: Callable[..., Any]) -> None:
    async def body(store: kv.AsyncStore) -> None:
        for name in ("", "a\nb", "x" * 2_049, 7, None):
            with pytest.raises(kv.InvalidKey, match="the name of a lock"):
                lock_on(store, name)  # type: ignore[arg-type]
        for lease in (0, -1, float("nan"), True, "30", None, float("inf")):
            with pytest.raises(kv.InvalidTTL):
                lock_on(store, lease=lease)
        lease = await now(lock_on(store).acquire())
        for wrong in (0, -1, float("nan"), True, "30", float("inf")):
            with pytest.raises(kv.InvalidTTL):
                await now(lease.renew(wrong))
        assert await now(lease.release())
        wrong_colour: Any = AsyncLock if opens is kv.open else Lock
        with pytest.raises(TypeError, match=r"Lock stands on a kv\.\w+, not on"):
            wrong_colour(getattr(store, "_store", store) if opens is kv.open else store, "x")
        assert await store.namespaces() == ["lock"]

    run(opens("memory://"), body)


@both
def test_nothing_shows_the_token(opens: Callable[..., Any]) -> None:
    async def body(store: kv.AsyncStore) -> None:
        lock = lock_on(store, "report")
        lease = await now(lock.acquire())
        await now(lease.release())
        with pytest.raises(LeaseLost) as caught:
            await now(lease.renew())
        assert lease.token not in repr(lease) + repr(lock) + str(caught.value)
        assert repr(lease) in ("<Lease of 'report', fence 1>", "<AsyncLease of 'report', fence 1>")
        assert "Lock 'report' on <" in repr(lock)

    run(opens("memory://"), body)


# one object for many


@both
def test_nobody_comes_in_between_threads_and_tasks_of_one_lock(opens: Callable[..., Any], anywhere: str) -> None:
    async def body(store: kv.AsyncStore) -> None:
        lock = lock_on(store)

        async def work() -> None:
            for _ in range(4):
                async with entered(lock) as lease:
                    seen = await store.get("fences", b"")
                    await asyncio.sleep(0)
                    await store.set("fences", seen + b"%d " % lease.fence)

        await together(store, *(work() for _ in range(4)))
        fences = [*map(int, (await store.get("fences", b"")).split())]
        assert fences == sorted(set(fences))
        assert len(fences) == 16

    run(opens(anywhere), body)


def test_each_thread_leaves_the_lease_that_it_has_entered(memory: kv.Store) -> None:
    lock, in_a, in_b, out_a = Lock(memory, "x"), *(threading.Event() for _ in range(3))

    def a() -> None:
        with lock:
            in_a.set()
            assert in_b.wait(30)

    def b() -> int:
        assert in_a.wait(30)
        memory.namespace("lock").delete("x")  # as a deadline does
        with lock as lease:
            in_b.set()
            assert out_a.wait(30)
            lease.renew()
            return lease.fence

    def a_then() -> None:
        try:
            a()
        finally:
            out_a.set()

    lost, fence = in_threads(a_then, b)
    assert isinstance(lost, LeaseLost)
    assert fence == 2
    assert not lock.locked()
    assert lock._entered == {}


def test_each_task_leaves_the_lease_that_it_has_entered() -> None:
    async def body(store: Any) -> None:
        lock = AsyncLock(store, "x")

        async def other() -> None:
            await store.namespace("lock").delete("x")
            async with lock:
                inside.set()
                await outside.wait()
                assert await lock.locked()

        inside, outside = asyncio.Event(), asyncio.Event()
        with pytest.raises(LeaseLost, match="fence 1"):  # noqa: PT012
            async with lock:
                task = asyncio.create_task(other())
                await inside.wait()
        outside.set()
        await task
        assert not await lock.locked()
        assert lock._entered == {}

    run(kv.open_async("memory://"), body)


def test_a_lock_is_left_where_it_was_entered(memory: kv.Store) -> None:
    lock = Lock(memory, "x")
    lock.__enter__()
    (error,) = in_threads(lambda: lock.__exit__(None, None, None))
    assert isinstance(error, RuntimeError)
    assert "another thread or task" in str(error)
    assert lock.locked()
    lock.__exit__(None, None, None)
    assert not lock.locked()


# processes

TAKE = """
    import asyncio, sys, kv
    from kv.adapters import AsyncLock, Lock
    url, lease = sys.argv[1], float(sys.argv[2])
    def sync():
        with kv.open(url) as store:
            lock = Lock(store, "x", lease=lease)
            for _ in range(5):
                with lock as lease_:
                    store.set("fences", store.get("fences", b"") + b"%d " % lease_.fence)
    async def main():
        async with kv.open_async(url) as store:
            lock = AsyncLock(store, "x", lease=lease)
            for _ in range(5):
                async with lock as lease_:
                    await store.set("fences", await store.get("fences", b"") + b"%d " % lease_.fence)
    asyncio.run(main()) if me % 2 else sync()
"""


def test_processes_lose_nothing_under_the_lock_and_fences_grow_as_it_is_held(shared: str) -> None:
    pythons(TAKE, shared, LONG)
    with kv.open(shared) as store:
        fences = [*map(int, store.get("fences", b"").split())]
        assert fences == [*range(1, 21)]
        assert not Lock(store, "x").locked()


def test_a_killed_holder_keeps_the_lock_no_longer_than_its_lease(shared: str) -> None:
    code = """
        import sys, kv
        from kv.adapters import Lock
        store = kv.open(sys.argv[1])
        print(Lock(store, "x", lease=1).acquire().fence, flush=True)
        sys.stdin.read()
    """
    command = [sys.executable, "-W", "error", "-c", "\n".join(map(str.strip, code.splitlines())), shared]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"1\n"
        process.kill()
        assert process.wait() == -signal.SIGKILL
    with kv.open(shared) as store, Lock(store, "x").acquire(timeout=30) as lease:
        assert lease.fence == 2
