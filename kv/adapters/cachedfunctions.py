"""Functions whose values are cached, in both colours."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeAlias, TypeVar, cast, overload

from . import callkeys
from .caching import checked_tags

if TYPE_CHECKING:
    from kv.expiry import TTL

    from .cache import AsyncCache, Cache
    from .caching import Own

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

Key: TypeAlias = Callable[..., str] | None
Tags: TypeAlias = Iterable[str] | Callable[..., Iterable[str]]


class CachedFunction(Protocol[P, R_co]):
    """What `Cache.cached` makes of a function."""

    __wrapped__: Callable[..., Any]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Give the value from the cache or from the function."""
        ...

    def __get__(self, instance: object, owner: type | None = None, /) -> Callable[..., R_co]: ...

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Give the cache's key for a call."""
        ...

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Remove the value for a call. See `Cache.delete`."""
        ...


class AsyncCachedFunction(Protocol[P, R_co]):
    """What `AsyncCache.cached` makes of a function."""

    __wrapped__: Callable[..., Any]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R_co]:
        """See `CachedFunction`."""
        ...

    def __get__(self, instance: object, owner: type | None = None, /) -> Callable[..., Coroutine[Any, Any, R_co]]: ...

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """See `CachedFunction.key`."""
        ...

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, bool]:
        """See `CachedFunction.invalidate`."""
        ...


class AsyncDecorator(Protocol):
    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncCachedFunction[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> AsyncCachedFunction[P, R]: ...


def keyed(fn: Callable[..., object], key: Callable[..., str] | None) -> Callable[..., str]:
    """Give what gives the key of a call."""
    if key is not None:
        if not callable(key):
            raise TypeError(f"key must be a function of the same arguments, not {type(key).__name__}")
        return key
    name, signature = callkeys.named(fn), inspect.signature(fn)
    return lambda *args, **kwargs: callkeys.made(name, signature, args, kwargs)


def tagged(tags: Iterable[str] | Callable[..., Iterable[str]]) -> Callable[..., Iterable[str]]:
    """Give what gives the tags of a call."""
    if callable(tags):
        return tags
    checked = checked_tags(tags)
    return lambda *_args, **_kwargs: checked


def decorator(
    cache: Cache[Any], ttl: TTL | Own, key: Key, tags: Tags
) -> Callable[[Callable[P, R]], CachedFunction[P, R]]:
    """See `Cache.cached`."""
    cache._checked_ttl(ttl)
    tags_of = tagged(tags)

    def decorate(fn: Callable[P, R]) -> CachedFunction[P, R]:
        if inspect.iscoroutinefunction(fn):
            raise TypeError("this is a coroutine function; use AsyncCache")
        key_of = keyed(fn, key)

        @functools.wraps(fn)
        def call(*args: P.args, **kwargs: P.kwargs) -> object:
            make = functools.partial(fn, *args, **kwargs)
            return cache.get_or_set(key_of(*args, **kwargs), make, ttl, tags=tags_of(*args, **kwargs))

        def invalidate(*args: P.args, **kwargs: P.kwargs) -> bool:
            return cache.delete(key_of(*args, **kwargs))

        return cast("CachedFunction[P, R]", _with(call, key_of, invalidate))

    return decorate


def async_decorator(cache: AsyncCache[Any], ttl: TTL | Own, key: Key, tags: Tags) -> AsyncDecorator:
    """See `AsyncCache.cached`."""
    cache._checked_ttl(ttl)
    tags_of = tagged(tags)

    def decorate(fn: Callable[..., Any]) -> Any:
        key_of = keyed(fn, key)

        @functools.wraps(fn)
        async def call(*args: Any, **kwargs: Any) -> object:
            make = functools.partial(fn, *args, **kwargs)
            return await cache.get_or_set(key_of(*args, **kwargs), make, ttl, tags=tags_of(*args, **kwargs))

        async def invalidate(*args: Any, **kwargs: Any) -> bool:
            return await cache.delete(key_of(*args, **kwargs))

        return _with(call, key_of, invalidate)

    return cast("AsyncDecorator", decorate)


def _with(call: Any, key: Callable[..., str], invalidate: Callable[..., object]) -> Any:
    call.key, call.invalidate = key, invalidate
    return call
