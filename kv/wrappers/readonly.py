"""A store that can only be read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

from kv.errors import ConfigError

from .base import AsyncWrapper, Wrapper

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

__all__ = ["AsyncReadOnly", "ReadOnly"]

T = TypeVar("T")
P = ParamSpec("P")


class _Reads:
    """What both colours share."""

    def bind(self, connection: Any) -> NoReturn:  # noqa: ARG002
        """Refused, as every write."""
        raise refused(self, "bind")


def refused(store: object, method: str) -> ConfigError:
    """The error for a call that might write."""
    return ConfigError(f"{method}() may write, and {store!r} is read-only; nothing was done")


class ReadOnly(_Reads, Wrapper):
    """A `Store` of which every method that may write raises `ConfigError`, before anything is done. `cleanup` and `compact`
    are among them.

    Args:
        store: what it stands around. Closing this closes it.
    """

    def _write(self, keys: Iterable[str] | None, method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:  # noqa: ARG002
        raise refused(self, method.__name__)


class AsyncReadOnly(_Reads, AsyncWrapper):
    """See `ReadOnly`."""

    async def _write(
        self,
        keys: Iterable[str] | None,  # noqa: ARG002
        method: Callable[P, Awaitable[T]],
        *args: P.args,  # noqa: ARG002
        **kwargs: P.kwargs,  # noqa: ARG002
    ) -> T:
        raise refused(self, method.__name__)
