"""A lock that many processes share: a lease that ends by itself, with a token and a fencing number."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from kv.errors import Conflict, KVError, OutcomeUnknown
from kv.keys import check_key, shown

from .records import foreign
from .steps import check_store, check_timeout, lasting, pauses, run, run_async

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from kv.expiry import TTL
    from kv.store import AsyncStore, Store

    from .steps import Steps

__all__ = ["AsyncLease", "AsyncLock", "Lease", "LeaseLost", "Lock"]

_HELD: Final = b"lease "
"""Before the token, in what is stored."""


class LeaseLost(KVError):
    """A lease, or a claim of a job, was over before its holder was done: somebody else may have it by now."""


class _Lease:
    """What both colours share."""

    token: str
    """What is stored while the lease holds. A secret: who knows it can end the lease."""
    fence: int
    """Greater than that of every lease of this lock that was held before. Hand it to what the lock protects, which then
    refuses a smaller one than it has seen: that is what stops a holder who was asleep while the lease ended."""

    def __init__(self, lock: Any, token: str, fence: int) -> None:
        self._lock: _Lock = lock
        self.token = token
        self.fence = fence
        self._released = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {shown(self._lock.name)}, fence {self.fence}>"

    def _renewing(self, lease: TTL) -> Steps[None]:
        lock, held = self._lock, _HELD + self.token.encode()
        ttl = lock._lease if lease is None else lasting(lease, "a lease")
        if not (yield lambda: lock._leases.compare_and_set(lock.name, held, held, ttl=ttl)):
            raise self._lost()

    def _releasing(self) -> Steps[bool]:
        lock, held = self._lock, _HELD + self.token.encode()
        done: bool = yield lambda: lock._leases.compare_and_set(lock.name, held, None)
        self._released |= done
        return done

    def _leaving(self, error: BaseException | None) -> Steps[None]:
        if self._released:
            return
        try:
            if not (yield from self._releasing()):
                raise self._lost()
        except KVError as e:
            if error is None:
                raise
            error.add_note(f"and then: {e}")  # what goes on is not hidden

    def _lost(self) -> LeaseLost:
        return LeaseLost(
            f"the lease on {shown(self._lock.name)} (fence {self.fence}) is over, and somebody else may hold the lock; what "
            "was done meanwhile may have been done beside them. Give a longer lease, or renew it in time"
        )


class Lease(_Lease):
    """A `Lock` that is held, until it is released or the lease is over. As a context manager it is released at the end.

    Leaving that raises `LeaseLost` where the lease was over before; another exception on its way out gets a note instead.
    """

    def renew(self, lease: TTL = None) -> None:
        """Hold it for so many seconds from now, or for the lock's `lease`; in one atomic call.

        Raises:
            LeaseLost: it was over already.
        """
        run(self._renewing(lease))

    def release(self) -> bool:
        """Give the lock back, in one atomic call. Gives whether it was still held: another holder's lease stays."""
        return run(self._releasing())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        run(self._leaving(error))


class AsyncLease(_Lease):
    """See `Lease`."""

    async def renew(self, lease: TTL = None) -> None:
        """See `Lease.renew`."""
        await run_async(self._renewing(lease))

    async def release(self) -> bool:
        """See `Lease.release`."""
        return await run_async(self._releasing())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await run_async(self._leaving(error))


class _Lock:
    """What both colours share: what is stored, and every step."""

    _kind: type[Any]

    def __init__(self, store: Any, name: str, lease: TTL, clock: Callable[[], float]) -> None:
        self.name = check_key(name, "the name of a lock")
        self._lease = lasting(lease, "a lease")
        self._store = store
        self._leases = store.namespace("lock")
        self._fences = self._leases.namespace("fence")
        self._clock = clock
        self._entered: dict[object, list[Any]] = {}  # by thread or task

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {shown(self.name)} on {self._store!r}>"

    def _trying(self) -> Steps[Any]:
        token = secrets.token_hex(16)
        held = _HELD + token.encode()
        added = unwanted = False
        since = self._clock()
        try:
            added = yield lambda: self._leases.add(self.name, held, ttl=self._lease)
            if not added:
                return None
            fence = yield lambda: self._fences.increment(self.name)
            # Fences grow in the order in which the lock is held because they are counted while it is held. The store
            # began the lease after `since`, so that one which is not over yet by this clock held all the time; of one
            # that may be over, the next holder may have counted first.
            unwanted = self._clock() - since >= self._lease
            if not unwanted:
                return self._kind(self, token, fence)
        except BaseException as e:
            # cancelled or cut off, it may have been added all the same; a closed generator takes no more steps
            maybe = isinstance(e, OutcomeUnknown) or not isinstance(e, Exception)
            unwanted = (added or maybe) and not isinstance(e, GeneratorExit)
            raise
        finally:
            if unwanted:
                with suppress(KVError):  # the lease ends by itself
                    yield lambda: self._leases.compare_and_set(self.name, held, None)
        return None

    def _acquiring(self, timeout: float | None) -> Steps[Any]:
        timeout = check_timeout(timeout)
        for pause in pauses(timeout):
            yield pause
            lease = yield from self._trying()
            if lease is not None:
                return lease
            if not pause:
                yield from self._looking()  # what is no lease would be waited for in vain
        raise Conflict(
            f"the lock {shown(self.name)} was held by others for {timeout:g} s; try again, or with a longer timeout"
        )

    def _looking(self) -> Steps[bool]:
        value: bytes | None = yield lambda: self._leases.get(self.name)
        if value is not None and not value.startswith(_HELD):
            raise foreign(self.name, "a lease of a lock")
        return value is not None

    # the context manager

    def _enter(self, who: object, lease: Any) -> Any:
        self._entered.setdefault(who, []).append(lease)
        return lease

    def _leave(self, who: object) -> Any:
        leases = self._entered.get(who)
        if not leases:
            raise RuntimeError(
                f"the lock {shown(self.name)} is left in another thread or task than it was entered in; there use the "
                "lease that acquire() gives as the context manager"
            )
        lease = leases.pop()
        if not leases:
            del self._entered[who]
        return lease


class Lock(_Lock):
    """A lock that threads and processes share through a store, each time for a lease that ends by itself.

        with Lock(store, "report", lease=60) as lease:
            ...                                    # lease.fence, lease.renew()

    At most one holds it as long as the leases last: by the store's clock, so that the clocks of those who take it need not
    agree. Work that may take longer renews in time, and what must not happen twice whatever happens checks the fence. It
    is not re-entrant, and whoever polls first gets it next. One object serves any number of threads.

    Stored are a lease per name in the namespace `lock`, and in `lock`, `fence` a number per name, which stays: without it
    fences would begin anew.

    Args:
        store: an open store. It is not closed here.
        name: any key.
        lease: seconds or a `timedelta`, to the millisecond; it must end.
        clock: seconds that only grow, to measure how long taking the lock took.
    """

    _kind = Lease

    def __init__(
        self, store: Store, name: str, *, lease: TTL = 30.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        check_store(store, self, "close")
        super().__init__(store, name, lease, clock)

    def try_acquire(self) -> Lease | None:
        """Take the lock if nobody holds it. Two calls on the store, one where it is held.

        Also None where taking it took as long as the lease.

        Raises:
            NotAnInteger: what is stored in place of the fence is not ours; the lock has been given back.
        """
        return run(self._trying())  # type: ignore[no-any-return]

    def acquire(self, timeout: float | None = None) -> Lease:
        """Take the lock, asking again after 5 to 250 ms while somebody holds it.

        Args:
            timeout: seconds to wait at most; None: for ever; 0: not at all.

        Raises:
            Conflict: somebody held it all the time.
            CorruptData: what is stored in place of a lease is not ours; it was left as it is.
        """
        return run(self._acquiring(timeout))  # type: ignore[no-any-return]

    def locked(self) -> bool:
        """Give whether somebody holds it: at that instant, so that it tells nothing of the next."""
        return run(self._looking())

    def __enter__(self) -> Lease:
        return self._enter(threading.get_ident(), self.acquire())  # type: ignore[no-any-return]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        run(self._leave(threading.get_ident())._leaving(error))


class AsyncLock(_Lock):
    """See `Lock`. A task that is cancelled while it takes the lock gives it back. With a timeout:

    async with await lock.acquire(timeout=5) as lease:
        ...
    """

    _kind = AsyncLease

    def __init__(
        self, store: AsyncStore, name: str, *, lease: TTL = 30.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        check_store(store, self, "aclose")
        super().__init__(store, name, lease, clock)

    async def try_acquire(self) -> AsyncLease | None:
        """See `Lock.try_acquire`."""
        return await run_async(self._trying())

    async def acquire(self, timeout: float | None = None) -> AsyncLease:  # noqa: ASYNC109  # the same in both colours
        """See `Lock.acquire`."""
        return await run_async(self._acquiring(timeout))

    async def locked(self) -> bool:
        """See `Lock.locked`."""
        return await run_async(self._looking())

    async def __aenter__(self) -> AsyncLease:
        return self._enter(asyncio.current_task(), await self.acquire())  # type: ignore[no-any-return]

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await run_async(self._leave(asyncio.current_task())._leaving(error))
