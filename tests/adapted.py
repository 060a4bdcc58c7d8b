"""Adapters of either colour, in one test, and stores that are cut off or slow at one call."""

from __future__ import annotations

import contextlib
import inspect
from typing import TYPE_CHECKING, Any

from kv.testing.suite import Lifted
from kv.wrappers.base import AsyncWrapper, Wrapper

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


def on(store: Any, sync: Callable[..., Any], colour: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Make an adapter on what `run` gives, in the store's colour; see `now` and `entered`."""
    return sync(store._store, *args, **kwargs) if isinstance(store, Lifted) else colour(store, *args, **kwargs)


async def now(answer: Any) -> Any:
    """What a call of either colour answers; of an iterator, all."""
    if inspect.isasyncgen(answer):
        return [one async for one in answer]
    if inspect.isgenerator(answer):
        return list(answer)
    return await answer if inspect.isawaitable(answer) else answer


@contextlib.asynccontextmanager
async def entered(manager: Any) -> AsyncIterator[Any]:
    """Enter and leave a context manager of either colour."""
    if hasattr(manager, "__aenter__"):
        async with manager as inside:
            yield inside
    else:
        with manager as inside:
            yield inside


class CutOff(Wrapper):
    """A store whose `method` is done, and then raises `error`, once; it counts its calls too."""

    def __init__(self, store: Any, method: str = "", error: BaseException | None = None) -> None:
        super().__init__(store)
        self.plan = {method: error}
        self.calls: list[str] = []

    def _read(self, method: Any, *args: Any, **kwargs: Any) -> Any:
        self.calls.append(method.__name__)
        answer = method(*args, **kwargs)
        if error := self.plan.pop(method.__name__, None):
            raise error
        return answer

    def _write(self, keys: Any, method: Any, *args: Any, **kwargs: Any) -> Any:
        return self._read(method, *args, **kwargs)


class AsyncCutOff(AsyncWrapper):
    """See `CutOff`."""

    def __init__(self, store: Any, method: str = "", error: BaseException | None = None) -> None:
        super().__init__(store)
        self.plan = {method: error}
        self.calls: list[str] = []

    async def _read(self, method: Any, *args: Any, **kwargs: Any) -> Any:
        self.calls.append(method.__name__)
        answer = await method(*args, **kwargs)
        if error := self.plan.pop(method.__name__, None):
            raise error
        return answer

    async def _write(self, keys: Any, method: Any, *args: Any, **kwargs: Any) -> Any:
        return await self._read(method, *args, **kwargs)
