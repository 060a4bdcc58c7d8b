"""A queue of jobs that many processes share: at least once each, in order, with attempts and dead letters."""

from __future__ import annotations

import os
import random
import threading
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, NamedTuple, TypeVar, overload

from kv.codecs import codec_for, decoded, encoded
from kv.errors import CorruptData, KVError
from kv.keys import check_key, shown
from kv.store import AsyncStore, Store
from kv.values import Unchanged

from . import jobs
from .claims import AsyncJob, DeadJob, Job
from .steps import check_store, check_timeout, lasting, micros, pauses, run, run_async, seconds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator
    from datetime import timedelta

    from kv.codecs import AnyCodec, Codec
    from kv.expiry import TTL

    from .steps import Steps

__all__ = ["AsyncJob", "AsyncQueue", "Counts", "DeadJob", "Job", "Queue", "backoff"]

S = TypeVar("S")
T = TypeVar("T")

PAGE: Final = 64
"""How many jobs are listed at once, and then claimed one after the other without listing again."""
SPREAD: Final = 8
"""Of how many one is tried at random where somebody else was faster."""
FRESH: Final = 1.0
"""Seconds for which a listing is good: by then others have claimed much of it."""
IDLE_PAUSE: Final = 1.0
"""The longest pause of who waits for a job, in seconds: each try is a listing."""
LEAP: Final = 1_000_000
"""Microseconds: where the clock was set back by more, order begins anew, as else jobs would wait for the old time."""


def backoff(attempts: int) -> float:
    """Give the seconds until a job that failed is tried again: 1, 2, 4, ... up to 300, less up to half of it by chance."""
    return min(300.0, 2.0 ** min(attempts - 1, 10)) * random.uniform(0.5, 1)


class Counts(NamedTuple):
    """How many jobs there are, at one instant."""

    ready: int
    """Due, and claimed by nobody; also those whose claim has run out."""
    delayed: int
    """Due later."""
    claimed: int
    """With a worker."""
    dead: int
    """Dead letters."""


class _Listed:
    """Names of jobs that were due when they were listed. Threads may take from it at once: a pop is atomic."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._until = 0.0

    def put(self, names: list[str]) -> None:
        self._names, self._until = names, time.monotonic() + FRESH

    def take(self, *, spread: bool) -> str | None:
        """Give the first name or, to keep out of others' way, one of the first few; None: list again."""
        names = self._names
        if names and time.monotonic() < self._until:
            with suppress(IndexError, ValueError):  # another thread took the last
                return names.pop(random.randrange(min(len(names), SPREAD)) if spread else 0)
        return None


class _Queue(Generic[S, T]):
    """What both colours share: what is stored, and every step."""

    _kind: ClassVar[type[Any]]
    _end: ClassVar[str]

    @overload
    def __init__(
        self,
        store: S,
        name: str,
        kind: type[T],
        *,
        codec: AnyCodec = None,
        visibility: TTL = 30.0,
        max_attempts: int = 5,
        backoff: Callable[[int], float] = backoff,
        clock: Callable[[], float] = time.time,
    ) -> None: ...
    @overload
    def __init__(
        self,
        store: S,
        name: str,
        kind: Any = object,
        *,
        codec: AnyCodec = None,
        visibility: TTL = 30.0,
        max_attempts: int = 5,
        backoff: Callable[[int], float] = backoff,
        clock: Callable[[], float] = time.time,
    ) -> None: ...
    def __init__(
        self,
        store: Any,
        name: str,
        kind: Any = object,
        *,
        codec: AnyCodec = None,
        visibility: TTL = 30.0,
        max_attempts: int = 5,
        backoff: Callable[[int], float] = backoff,
        clock: Callable[[], float] = time.time,
    ) -> None:
        check_store(store, self, self._end)
        self.name = check_key(name, "the name of a queue")
        if not isinstance(max_attempts, int) or isinstance(max_attempts, bool):
            raise TypeError(f"max_attempts must be an int, not {type(max_attempts).__name__}")
        if max_attempts < 1:
            raise ValueError(f"max_attempts must be 1 or more, and is {max_attempts}")
        if not callable(backoff):
            raise TypeError(
                f"backoff must be a function of the attempts that gives seconds, not {type(backoff).__name__}"
            )
        self._at = store
        self._store = store.namespace(f"{{queue.{name}}}")  # a hash tag: all of it is in one slot of a cluster
        self._codec: Codec[T] = codec_for(codec, kind)
        self._visibility = micros(lasting(visibility, "the visibility"))
        self._max_attempts = max_attempts
        self._backoff = backoff
        self._clock = clock
        self._listed = _Listed()
        self._last = 0
        self._ticking: dict[int, threading.RLock] = {}  # by process: a fork may come while it is held

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {shown(self.name)} on {self._at!r}>"

    def _now(self) -> int:
        """The time in microseconds since 1970."""
        return micros(self._clock())

    def _tick(self, jobs: int = 1) -> int:
        """Give the time, at least one microsecond later than before, for the first of so many jobs, a microsecond each."""
        with self._ticking.setdefault(os.getpid(), threading.RLock()):
            now = self._now()
            first = max(now, self._last + 1) if self._last < now + LEAP else now
            self._last = first + jobs - 1
            return first

    def _moving(self, old: str, new: str, change: Callable[[bytes], bytes]) -> Steps[bytes | None]:
        """Move an entry to another name. Gives what is stored there now, or None where there is none under the old one."""
        try:
            found = yield lambda: self._store.update_many([old, new], jobs.moved(old, new, change))
        except Unchanged:
            return None
        return found[new]  # type: ignore[no-any-return]

    def _pushing(self, values: Iterable[T], delay: float | timedelta) -> Steps[list[str]]:
        later = micros(seconds(delay, "delay"))
        payloads = [encoded(self._codec, value, self.name) for value in values]
        if not payloads:
            return []
        first = self._tick(len(payloads))
        ids, entries = [], {}
        for pushed, payload in enumerate(payloads, first):
            ids.append(jobs.new_id(pushed))
            entries[jobs.named(pushed + later, "r", ids[-1])] = jobs.Record(0, pushed, None, payload).pack()
        yield lambda: self._store.set_many(entries)
        return ids

    def _claiming(self, timeout: float | None, visibility: TTL) -> Steps[Any]:
        us = self._visibility if visibility is None else micros(lasting(visibility, "the visibility"))
        for pause in pauses(check_timeout(timeout), longest=IDLE_PAUSE):
            yield pause
            missed = False
            while True:
                key = self._listed.take(spread=missed)
                if key is None:
                    due = yield from self._listing()
                    if not due:
                        break
                    self._listed.put(due)
                    continue
                job = yield from self._taking(key, us)
                if job is not None:
                    return job
                missed = True  # so that somebody got on, and this ends
        return None

    def _listing(self) -> Steps[list[str]]:
        """Give the names of the first jobs that are due."""
        after = None
        while True:
            page: list[str] = yield partial(self._store.keys, jobs.LIVE, after=after, limit=PAGE)
            now = self._now()
            found = [(key, name) for key in page if (name := jobs.parsed(key))]
            if found or len(page) < PAGE:
                return [key for key, name in found if name.due <= now]
            after = page[-1]  # names that somebody else has put here are passed by

    def _taking(self, key: str, visibility: int) -> Steps[Any]:
        """Claim a job. Gives None where somebody else was faster, or it was put among the dead letters."""
        name = jobs.parsed(key)
        assert name is not None
        new = jobs.named(self._now() + visibility, "c", name.id)
        try:
            value = yield from self._moving(key, new, jobs.claim(key, self._max_attempts))
        except jobs.Refused as e:
            if e.spent:
                lost = jobs.fail(
                    key, f"the visibility of its last claim, of {self._max_attempts}, was over before an ack"
                )
                yield from self._moving(key, jobs.DEAD + name.id, lost if name.claimed else jobs.leave)
                return None
            id = jobs.new_id(self._now())
            if (yield from self._moving(key, jobs.DEAD + id, jobs.leave)) is None:
                return None
            raise CorruptData(
                f"{shown(key)} in the queue {shown(self.name)} is not a job; it is now the dead letter {id}, as it was"
            ) from None
        except BaseException as e:
            if not isinstance(e, Exception | GeneratorExit):  # cancelled: it may have been claimed all the same
                with suppress(KVError):
                    yield from self._moving(new, key, jobs.unclaim(key))
            raise
        if value is None:
            return None
        record = jobs.read(value, new)
        try:
            return self._kind(self, new, name.id, decoded(self._codec, record.payload, name.id), record)
        except CorruptData as e:
            yield from self._moving(new, jobs.DEAD + name.id, jobs.fail(new, str(e)))
            raise CorruptData(f"{e}; in the queue {shown(self.name)} it is now a dead letter") from e

    def _counting(self) -> Steps[Counts]:
        keys: list[str] = yield self._store.keys
        now = self._now()
        names = [name for key in keys if (name := jobs.parsed(key))]
        ready = sum(name.due <= now for name in names)
        claimed = sum(name.claimed and name.due > now for name in names)
        dead = sum(jobs.letter(key.removeprefix(jobs.DEAD)) == key for key in keys)
        return Counts(ready, len(names) - ready - claimed, claimed, dead)

    def _dead(self, key: str, value: bytes) -> DeadJob[T] | None:
        id = key.removeprefix(jobs.DEAD)
        if jobs.letter(id) is None:
            return None
        try:
            record = jobs.read(value, key)
        except CorruptData as e:
            return DeadJob(id, 0, None, str(e), value, self._codec)
        return DeadJob(id, record.attempts, record.pushed / 1e6, record.error, record.payload, self._codec)

    def _retrying(self, job_id: str) -> Steps[bool]:
        key = jobs.letter(check_key(job_id, "the id of a job"))
        if key is None:
            return False
        new = jobs.named(self._tick(), "r", job_id)
        return (yield from self._moving(key, new, jobs.revive(key))) is not None

    def _dropping(self, job_id: str) -> Steps[bool]:
        key = jobs.letter(check_key(job_id, "the id of a job"))
        return key is not None and (yield lambda: self._store.delete(key))

    def _clearing(self) -> Steps[int]:
        live: int = yield lambda: self._store.clear(jobs.LIVE)
        dead: int = yield lambda: self._store.clear(jobs.DEAD)
        return live + dead


class Queue(_Queue[Store, T]):
    """A queue of jobs, shared by any number of threads and processes. Each is done at least once.

        while job := queue.claim(timeout=10):
            with job:
                send(job.value)

    A worker claims a job for `visibility` seconds and acks it when it is done. Where it did not by then, as it was killed,
    the job is ready again: so whatever a job does must bear being done twice. A job that fails, or is lost, so often as
    `max_attempts` says becomes a dead letter, to be looked at.

    Jobs come in the order in which they are due, those of one `Queue` in the order of its pushes. When a job is due, and
    when a claim is over, is told by the clock of whoever asks: clocks should differ by much less than the visibility, and
    pushes of several processes are in order as far as their clocks agree.

    What is no job, or does not decode as `T`, is moved to the dead letters, and `claim` raises `CorruptData` once. All is
    stored in one namespace, `{queue.NAME}`, on a cluster in one slot.

    Args:
        store: an open store. It is not closed here.
        name: any key of up to 247 bytes.
        kind: the type of the values.
        codec: as for `kv.typed`.
        visibility: seconds or a `timedelta`, to the millisecond.
        max_attempts: how often a job is claimed at most.
        backoff: gives the seconds until the next attempt, from the number of those that failed.
        clock: seconds since 1970.
    """

    _kind = Job
    _end = "close"

    def push(self, value: T, *, delay: float | timedelta = 0) -> str:
        """Add a job, due in so many seconds. Gives its id. One call."""
        return run(self._pushing((value,), delay))[0]

    def push_many(self, values: Iterable[T], *, delay: float | timedelta = 0) -> list[str]:
        """Add jobs in their order, all or none. Gives their ids. One call."""
        return run(self._pushing(values, delay))

    def claim(self, timeout: float | None = 0, *, visibility: TTL = None) -> Job[T] | None:
        """Claim the first job that is due; None where there is none. One atomic call, and one listing for up to 64 jobs.

        A listing costs what it returns, and on Redis all keys of the database.

        Args:
            timeout: seconds to wait at most, asking again after 5 ms to 1 s; None: for ever; 0: not at all.
            visibility: seconds for which it is claimed; None: as the queue says.

        Raises:
            CorruptData: what came next is no job, or none of this type, and is now a dead letter. Go on.
        """
        return run(self._claiming(timeout, visibility))  # type: ignore[no-any-return]

    def counts(self) -> Counts:
        """Count the jobs, at one instant. Lists the names of all."""
        return run(self._counting())

    def dead(self) -> Iterator[DeadJob[T]]:
        """Iterate over the dead letters, the first pushed first, a page at a time."""
        for key, value in self._store.scan(jobs.DEAD):
            if letter := self._dead(key, value):
                yield letter

    def retry_dead(self, job_id: str) -> bool:
        """Make a dead letter a job again, ready now, with no attempts. Gives whether there was one. One atomic call.

        Raises:
            CorruptData: it is no job; it was left as it is.
        """
        return run(self._retrying(job_id))

    def drop_dead(self, job_id: str) -> bool:
        """Delete a dead letter. Gives whether there was one. One call."""
        return run(self._dropping(job_id))

    def clear(self) -> int:
        """Delete all jobs, the claimed and the dead ones too. Gives how many."""
        return run(self._clearing())


class AsyncQueue(_Queue[AsyncStore, T]):
    """See `Queue`. A task that is cancelled while it claims a job gives it back."""

    _kind = AsyncJob
    _end = "aclose"

    async def push(self, value: T, *, delay: float | timedelta = 0) -> str:
        """See `Queue.push`."""
        return (await run_async(self._pushing((value,), delay)))[0]

    async def push_many(self, values: Iterable[T], *, delay: float | timedelta = 0) -> list[str]:
        """See `Queue.push_many`."""
        return await run_async(self._pushing(values, delay))

    async def claim(self, timeout: float | None = 0, *, visibility: TTL = None) -> AsyncJob[T] | None:  # noqa: ASYNC109
        """See `Queue.claim`."""
        return await run_async(self._claiming(timeout, visibility))

    async def counts(self) -> Counts:
        """See `Queue.counts`."""
        return await run_async(self._counting())

    async def dead(self) -> AsyncIterator[DeadJob[T]]:
        """See `Queue.dead`."""
        async for key, value in self._store.scan(jobs.DEAD):
            if letter := self._dead(key, value):
                yield letter

    async def retry_dead(self, job_id: str) -> bool:
        """See `Queue.retry_dead`."""
        return await run_async(self._retrying(job_id))

    async def drop_dead(self, job_id: str) -> bool:
        """See `Queue.drop_dead`."""
        return await run_async(self._dropping(job_id))

    async def clear(self) -> int:
        """See `Queue.clear`."""
        return await run_async(self._clearing())
