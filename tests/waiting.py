"""Waiting for what another process or server tells only who asks."""

import asyncio
import time
from collections.abc import Callable


def wait_for(true: Callable[[], object], seconds: float = 30) -> None:
    """Ask until it is true; fail where it does not become so."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not so after {seconds:g} s"
        time.sleep(0.005)


async def until(true: Callable[[], object]) -> None:
    """The same, while the event loop goes on; what asks must be quick."""
    await asyncio.to_thread(wait_for, true)
