"""Jobs as who works on them sees them: claimed, and dead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from kv.codecs import decoded
from kv.keys import shown

from . import jobs
from .lock import LeaseLost
from .steps import lasting, micros, run, run_async, seconds

if TYPE_CHECKING:
    from datetime import timedelta
    from types import TracebackType
    from typing import Self

    from kv.codecs import Codec
    from kv.expiry import TTL

    from .queue import _Queue
    from .steps import Steps

T = TypeVar("T")


@dataclass(frozen=True, repr=False)
class DeadJob(Generic[T]):
    """A dead letter."""

    id: str
    attempts: int
    """0 where it is no job."""
    pushed_at: float | None
    """Seconds since 1970; None where it is no job."""
    error: str | None
    """What went wrong last."""
    data: bytes
    """The payload as it is stored; where it is no job, all that is."""
    _codec: Codec[T]

    @property
    def value(self) -> T:
        """The value, or `CorruptData` where it is none of the queue's type."""
        return decoded(self._codec, self.data, self.id)

    def __repr__(self) -> str:
        return f"<DeadJob {self.id}, {self.attempts} attempts>"


class _Job(Generic[T]):
    """What both colours share."""

    id: str
    value: T
    attempts: int
    """How often it has been claimed, this time counted in."""
    pushed_at: float
    """Seconds since 1970."""

    def __init__(self, queue: _Queue[Any, T], key: str, job_id: str, value: T, record: jobs.Record) -> None:
        self.id = job_id
        self.value = value
        self.attempts = record.attempts
        self.pushed_at = record.pushed / 1e6
        self._queue = queue
        self._key = key
        self._over = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} of {shown(self._queue.name)}, attempt {self.attempts}>"

    def _acking(self) -> Steps[None]:
        if not (yield lambda: self._queue._store.delete(self._key)):
            raise self._lost()
        self._over = True

    def _nacking(self, error: str | BaseException | None, delay: float | timedelta | None) -> Steps[bool]:
        queue, why = self._queue, jobs.described(error)
        pause = seconds(queue._backoff(self.attempts) if delay is None else delay, "delay")
        again = self.attempts < queue._max_attempts
        new = jobs.named(queue._now() + micros(pause), "r", self.id) if again else jobs.DEAD + self.id
        if (yield from queue._moving(self._key, new, jobs.fail(self._key, why))) is None:
            raise self._lost() from None
        self._over = True
        return again

    def _extending(self, visibility: TTL) -> Steps[None]:
        queue = self._queue
        us = queue._visibility if visibility is None else micros(lasting(visibility, "the visibility"))
        new = jobs.named(queue._now() + us, "c", self.id)
        if (yield from queue._moving(self._key, new, jobs.leave)) is None:
            raise self._lost() from None
        self._key = new

    def _leaving(self, error: BaseException | None) -> Steps[None]:
        if self._over:
            return
        if error is None:
            yield from self._acking()
            return
        # what was interrupted did not fail, and need not wait
        delay = None if isinstance(error, Exception) else 0
        try:
            yield from self._nacking(error, delay)
        except Exception as e:
            error.add_note(f"and then: {e}")  # what goes on is not hidden

    def _lost(self) -> LeaseLost:
        self._over = True
        return LeaseLost(
            f"the claim of job {self.id} of the queue {shown(self._queue.name)} no longer stands: it has been acked or given "
            "back, or its visibility is over, and another worker may have it. Give a longer visibility, or extend it in time"
        )


class Job(_Job[T]):
    """A job that is claimed. For one thread at a time. As a context manager it is acked at the end, and nacked where an
    exception comes out, which goes on; one that is no `Exception`, as of Ctrl-C, does not make it wait."""

    def ack(self) -> None:
        """Remove the job: it is done. One atomic call.

        Raises:
            LeaseLost: the claim no longer stands. Somebody else does the job again, or has done it.
        """
        run(self._acking())

    def nack(self, error: str | BaseException | None = None, delay: float | timedelta | None = None) -> bool:
        """Give the job back, to be tried again later or, after `max_attempts`, to the dead letters. One atomic call.

        Args:
            error: what went wrong; the first 1,000 characters are stored with the job.
            delay: seconds until it is ready again; None: what the queue's `backoff` says.

        Returns:
            Whether it will be tried again.

        Raises:
            LeaseLost: the claim no longer stands.
        """
        return run(self._nacking(error, delay))

    def extend(self, visibility: TTL = None) -> None:
        """Keep the job for so many seconds from now, or for the queue's `visibility`. One atomic call.

        Raises:
            LeaseLost: the claim no longer stands.
        """
        run(self._extending(visibility))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        run(self._leaving(error))


class AsyncJob(_Job[T]):
    """See `Job`."""

    async def ack(self) -> None:
        """See `Job.ack`."""
        await run_async(self._acking())

    async def nack(self, error: str | BaseException | None = None, delay: float | timedelta | None = None) -> bool:
        """See `Job.nack`."""
        return await run_async(self._nacking(error, delay))

    async def extend(self, visibility: TTL = None) -> None:
        """See `Job.extend`."""
        await run_async(self._extending(visibility))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await run_async(self._leaving(error))
