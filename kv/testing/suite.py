"""What runs a check: a loop of its own, a bound on its time, and sync stores lifted into async ones."""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
import threading
import time
import traceback
from collections import deque
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar, cast

from kv.errors import ConfigError

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
    from typing import Self

    from kv.store import AsyncStore

T = TypeVar("T")
V = TypeVar("V")

SOON: Final = 0.02
"""A ttl for what shall be gone. On a slow machine it may be gone at the very next line."""
LONG: Final = 1_000.0
"""A ttl for what shall still be there, however slow the machine is."""
CALLERS: Final = 20
"""How many callers make one call at once, where that is the point."""
PATIENCE: Final = 20.0
"""How long `gone` waits before it says that an entry does not expire."""


class Suite:
    """A set of checks: each `async def test_...(self, store)` here becomes a plain test that gives it an open store.

    Attributes:
        view: the names of the namespace in which the checks work, from the store that is given.
        timeout: how many seconds one check may take before it has failed, as where calls wait for each other forever.
        big: the bytes of the largest value that the checks store; less for a backend that cannot hold so much.
        given: the store as it was given.
        root: the same store with every method async.
    """

    view: ClassVar[tuple[str, ...]] = ()
    timeout: ClassVar[float] = 60.0
    big: ClassVar[int] = 1_000_000
    given: Any
    root: AsyncStore

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, check in [*vars(cls).items()]:
            if name.startswith("test_") and inspect.iscoroutinefunction(check):
                setattr(cls, name, _plain(check))

    async def _run(self, check: Callable[[Any, AsyncStore], Awaitable[None]], given: Any) -> None:
        self.given = given
        self.root = store = lifted(given)
        for name in self.view:
            store = store.namespace(name)
        try:
            await check(self, store)  # not inside `async with`: a store connects when it is first used
        finally:
            await self.root.aclose()


def _plain(check: Callable[[Any, AsyncStore], Awaitable[None]]) -> Callable[[Suite, Any], None]:
    @functools.wraps(check)
    def test(self: Suite, store: Any) -> None:
        bounded(lambda: self._run(check, store), self.timeout)

    return test


def bounded(main: Callable[[], Coroutine[Any, Any, None]], seconds: float) -> None:
    """Run a coroutine in a loop of its own, on a thread that can be left behind where it never ends."""
    errors: list[BaseException] = []

    def work() -> None:
        try:
            asyncio.run(main())
        except BaseException as e:  # raised again below, in the caller's thread
            errors.append(e)

    thread = threading.Thread(target=work, name="kv.testing", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        frames = sys._current_frames()
        stuck = [t for t in threading.enumerate() if t.daemon and t.name.startswith("kv.testing") and t.ident in frames]
        where = "\n".join("".join(traceback.format_stack(frames[cast("int", t.ident)], limit=8)) for t in stuck)
        raise AssertionError(f"not done after {seconds:g} s, and still here:\n{where}")
    if errors:
        raise errors.pop()


class Lifted:
    """A sync store as an async one. What `together` is given runs in threads."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        @functools.wraps(method)
        async def call(*args: Any, **kwargs: Any) -> Any:
            return method(*args, **kwargs)

        return call

    async def scan(self, *args: Any, **kwargs: Any) -> AsyncIterator[tuple[str, bytes]]:
        for entry in self._store.scan(*args, **kwargs):
            yield entry

    def namespace(self, name: str) -> Lifted:
        return Lifted(self._store.namespace(name))

    async def aclose(self) -> None:
        self._store.close()

    async def __aenter__(self) -> Self:
        self._store.__enter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        self._store.__exit__(*error)


def lifted(store: Any) -> AsyncStore:
    """Give a store of either colour as an async one."""
    return cast("AsyncStore", store if hasattr(store, "aclose") else Lifted(store))


def inside(store: AsyncStore, method: str, *args: Any) -> object:
    """Call a method of the store from where nothing can be awaited, as from the function given to `update`."""
    if isinstance(store, Lifted):
        return getattr(store._store, method)(*args)
    call = getattr(store, method)(*args)
    try:
        return asyncio.run(call)
    finally:
        call.close()


# what checks are written with


class raises:  # noqa: N801 - reads like pytest's
    """Expect an exception, and give it as `.error`; `what` names the row of a table."""

    error: BaseException

    def __init__(self, kind: type[BaseException], what: object = "this") -> None:
        self._kind = kind
        self._what = what

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        assert error is not None, f"no {self._kind.__name__} from {self._what}"
        if not isinstance(error, self._kind):
            error.add_note(f"expected {self._kind.__name__} from {self._what}")
            return False
        self.error = error.with_traceback(None)
        return True


async def together(store: AsyncStore, *calls: Coroutine[Any, Any, T]) -> list[T]:
    """Run calls on the store side by side: in tasks, or where it is sync in threads."""
    return _in_threads(calls) if isinstance(store, Lifted) else await asyncio.gather(*calls)


def _in_threads(calls: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    waiting = deque(enumerate(calls))
    results: dict[int, T] = {}
    errors: list[BaseException] = []
    start = threading.Barrier(min(len(calls), CALLERS))

    def work() -> None:
        with asyncio.Runner() as runner:
            runner.get_loop()
            start.wait()
            while True:
                try:
                    i, call = waiting.popleft()
                except IndexError:
                    return
                try:
                    results[i] = runner.run(call)
                except BaseException as e:  # raised again below
                    errors.append(e)

    # Daemons, so that a call that never ends does not keep the process from ending; an executor's threads would.
    threads = [threading.Thread(target=work, name="kv.testing caller", daemon=True) for _ in range(start.parties)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # so that threads come in between each other where they rarely would
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    if errors:
        raise errors[0]
    return [results[i] for i in range(len(calls))]


async def listed(entries: AsyncIterator[T]) -> list[T]:
    """Read an iterator to its end."""
    return [entry async for entry in entries]


async def gone(store: AsyncStore, *keys: str) -> None:
    """Wait until the entries have expired. The one place that waits: a backend has a clock of its own."""
    start = time.monotonic()
    while left := await store.get_many(keys):
        assert time.monotonic() - start < PATIENCE, f"{[*left][:5]} have not expired after {PATIENCE:g} s"
        await asyncio.sleep(0.002)


async def plant(store: AsyncStore, *keys: str) -> None:
    """Store each key as its own value."""
    entries = {key: key.encode() for key in keys}
    try:
        await store.set_many(entries)
    except ConfigError:  # a server that spreads its keys, and these have no tag in common
        await together(store, *(store.set(key, value) for key, value in entries.items()))


async def expired(store: AsyncStore, *keys: str, value: bytes = b"old") -> None:
    """Plant entries and wait until they have expired."""
    await together(store, *(store.set(key, value, ttl=SOON) for key in keys))
    await gone(store, *keys)


async def expires_in(store: AsyncStore, key: str, ttl: float, since: float) -> None:
    """Check that the entry has a deadline `ttl` seconds after some instant between `since` and now.

    `since` is from `time.monotonic()`, so that a slow machine makes this check weaker and never wrong.
    """
    left = await store.ttl(key)
    slack = 0.05  # between this clock and the backend's
    assert left is not None, f"{key!r} is missing, and should live for {ttl:g} s"
    assert ttl - (time.monotonic() - since) - slack <= left <= ttl + slack


def recorded(seen: list[T], answer: V) -> Callable[[T], V]:
    """Give a function for `update` that keeps what it gets, and gives the answer."""

    def fn(current: T) -> V:
        seen.append(current)
        return answer

    return fn


async def anything(store: AsyncStore, keys: list[str], chance: random.Random) -> None:
    """Make some call on some of the keys, mostly one that writes several."""
    some = chance.sample(keys, 4)
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: store.update_many(some, lambda _: dict.fromkeys(some[:3], b"1")),
        lambda: store.set_many(dict.fromkeys(some, b"2"), ttl=chance.choice([None, 0.001, LONG])),
        lambda: store.delete_many(some),
        lambda: store.get_many(some),
        lambda: store.update(some[0], lambda _: b"3"),
        lambda: store.pop(some[0]),
        lambda: store.expire(some[0], LONG),
        lambda: store.clear("{t}"),
        store.cleanup,
        lambda: listed(store.scan()),
        store.stats,
    ]
    await chance.choice(calls)()


def increased(current: bytes | None) -> bytes:
    """Add one, slowly enough for a call that does not wait to come in between. For `update`."""
    time.sleep(0.0005)
    return b"%d" % (int(current or b"0") + 1)
