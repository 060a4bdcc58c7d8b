"""What tests of queues start from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adapted import now, on

from kv.adapters import AsyncQueue, Queue

if TYPE_CHECKING:
    import kv


class Clock:
    """Stands still, until it is told."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def queue_on(store: Any, kind: Any = object, name: str = "q", **options: Any) -> Any:
    return on(store, Queue, AsyncQueue, name, kind, **options)


async def drain(queue: Any) -> list[Any]:
    """Claim and ack all that is due; give the values."""
    values = []
    while job := await now(queue.claim()):
        values.append(job.value)
        await now(job.ack())
    return values


def place(store: kv.AsyncStore, name: str = "q") -> kv.AsyncStore:
    """Where the queue is stored."""
    return store.namespace(f"{{queue.{name}}}")
