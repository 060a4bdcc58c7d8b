"""One test for both colours, and work side by side."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

import kv
from kv.testing.suite import Lifted, bounded, lifted

if TYPE_CHECKING:
    from collections.abc import Callable

both = pytest.mark.parametrize("opens", [kv.open, kv.open_async], ids=["sync", "async"])
"""Gives a test what opens a store of either colour."""


def run(store: Any, body: Callable[[kv.AsyncStore], Any]) -> None:
    """Do it with a store of either colour, and close that."""

    async def main() -> None:
        async with lifted(store) as opened:
            await body(opened)

    bounded(main, 60)


def around(store: Any, sync: Callable[..., Any], colour: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Make an adapter on what `run` gives, in the store's colour; its methods are to be awaited in both."""
    if isinstance(store, Lifted):
        return Lifted(sync(store._store, *args, **kwargs))
    return colour(store, *args, **kwargs)


def in_threads(*calls: Callable[[], object]) -> list[object]:
    """Do each in a thread of its own; give what they gave or raised."""
    results: list[object] = [None] * len(calls)

    def work(i: int, call: Callable[[], object]) -> None:
        try:
            results[i] = call()
        except BaseException as e:  # the caller looks at it
            results[i] = e

    threads = [threading.Thread(target=work, args=(i, call)) for i, call in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return results
