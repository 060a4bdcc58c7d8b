"""How it is measured: clients that call one after the other, in threads or in tasks, the time of each call, and the CPU of both sides."""

from __future__ import annotations

import asyncio
import gc
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractAsyncContextManager, AbstractContextManager
    from typing import Self

    from .ycsb import Step

    Calls = Mapping[str, Callable[..., Any]]
    """What a store can do, by name; in the async colour each gives an awaitable."""
    Bound = list[tuple[Callable[..., Any], tuple[Any, ...]]]

MOST = 64
"""Clients at once."""


class Sample(NamedTuple):
    """One run."""

    seconds: float
    calls: int
    p50: float
    p99: float
    cpu: float
    """Seconds of this process, all its threads."""
    server_cpu: float | None


class Ran(NamedTuple):
    """What a client saw: the times before its first call and after each, and the process' CPU before and after."""

    stamps: list[float]
    before: float
    after: float


class Clients(Protocol):
    """Those of one colour. A store is opened, used and closed by them alone."""

    def enter(self, store: Any) -> Calls:
        """Open a store."""
        ...

    def leave(self, store: Any) -> None:
        """Close it."""

    def call(self, call: Callable[..., Any], *args: Any) -> Any:
        """Make one call."""

    def run(self, work: list[Bound]) -> list[Ran]:
        """Let so many clients work at once."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class Threads:
    """Clients of the sync colour: one thread each, the same for all rounds, so that what is kept for a thread is kept."""

    def __init__(self) -> None:
        self._threads = [ThreadPoolExecutor(1) for _ in range(MOST)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self._threads:
            thread.shutdown()

    def enter(self, store: AbstractContextManager[Calls]) -> Calls:
        return store.__enter__()

    def leave(self, store: AbstractContextManager[Calls]) -> None:
        store.__exit__(None, None, None)

    def call(self, call: Callable[..., Any], *args: Any) -> Any:
        return self._threads[0].submit(call, *args).result()

    def run(self, work: list[Bound]) -> list[Ran]:
        together = Barrier(len(work))

        def client(steps: Bound) -> Ran:
            together.wait()
            before = process_time()
            stamps = [perf_counter()]
            stamp, now = stamps.append, perf_counter
            for call, args in steps:
                call(*args)
                stamp(now())
            return Ran(stamps, before, process_time())

        running = [thread.submit(client, steps) for thread, steps in zip(self._threads, work, strict=False)]
        return [each.result() for each in running]


class Tasks:
    """Clients of the async colour: tasks on one event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.Runner()

    def __enter__(self) -> Self:
        self._loop.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.close()

    def enter(self, store: AbstractAsyncContextManager[Calls]) -> Calls:
        return self.call(store.__aenter__)  # type: ignore[no-any-return]

    def leave(self, store: AbstractAsyncContextManager[Calls]) -> None:
        self.call(store.__aexit__, None, None, None)

    def call(self, call: Callable[..., Any], *args: Any) -> Any:
        async def called() -> Any:
            return await call(*args)

        return self._loop.run(called())

    def run(self, work: list[Bound]) -> list[Ran]:
        async def client(steps: Bound) -> Ran:
            before = process_time()
            stamps = [perf_counter()]
            stamp, now = stamps.append, perf_counter
            for call, args in steps:
                await call(*args)
                stamp(now())
            return Ran(stamps, before, process_time())

        async def all_of_them() -> list[Ran]:
            return await asyncio.gather(*map(client, work))

        return self._loop.run(all_of_them())


def measure(clients: Clients, calls: Calls, work: list[list[Step]], server: int | None) -> Sample:
    """Let the clients work, each through its own steps, and say how long it took.

    Args:
        clients: of the colour of the calls.
        calls: the store's.
        work: the steps of each client.
        server: the process of the server behind the store.
    """
    bound = [[(calls[name], args) for name, args in steps] for steps in work]
    gc.collect(0)
    gc.disable()
    try:
        before = None if server is None else cpu_of(server)
        ran = clients.run(bound)
        after = None if server is None else cpu_of(server)
    finally:
        gc.enable()
    times = sorted(b - a for one in ran for a, b in zip(one.stamps, one.stamps[1:], strict=False))
    return Sample(
        max(one.stamps[-1] for one in ran) - min(one.stamps[0] for one in ran),
        len(times),
        times[len(times) // 2],
        times[min(len(times) - 1, len(times) * 99 // 100)],
        max(one.after for one in ran) - min(one.before for one in ran),
        None if before is None or after is None else max(0.0, after - before),
    )


def cpu_of(pid: int) -> float | None:
    """Give the CPU seconds of a process, its threads, and its children, to the nanosecond; None where no /proc says so."""
    total = 0
    for process in (pid, *_children(pid)):
        try:
            for thread in os.listdir(f"/proc/{process}/task"):
                total += int(Path(f"/proc/{process}/task/{thread}/schedstat").read_text().split()[0])
        except (OSError, IndexError):  # it has just ended, or the kernel keeps no such account
            if process == pid:
                return None
    return total / 1e9


def _children(pid: int) -> list[int]:
    """Give the processes that a server has started; none of them starts others."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
