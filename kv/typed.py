"""`typed`: values of a type over a store of bytes. What it gives is in `kv.typedstore`, and loaded when it is called."""

# ruff: noqa: N803  # T is the name of the contract

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, overload

if TYPE_CHECKING:
    from collections.abc import Callable

    from .codecs import AnyCodec, Codec
    from .store import AsyncStore, Store
    from .typedstore import AsyncTypedStore, TypedStore

__all__ = ["typed"]

V = TypeVar("V")


@overload
def typed(store: Store, T: type[V], *, codec: AnyCodec = None) -> TypedStore[V]: ...
@overload
def typed(store: AsyncStore, T: type[V], *, codec: AnyCodec = None) -> AsyncTypedStore[V]: ...
@overload
def typed(store: Store, *, codec: Codec[V]) -> TypedStore[V]: ...
@overload
def typed(store: AsyncStore, *, codec: Codec[V]) -> AsyncTypedStore[V]: ...
@overload
def typed(store: Store, *, codec: Callable[[Any], Codec[Any]] | str | None = None) -> TypedStore[object]: ...
@overload
def typed(store: AsyncStore, *, codec: Callable[[Any], Codec[Any]] | str | None = None) -> AsyncTypedStore[object]: ...
@overload
def typed(store: Store, T: Any, *, codec: AnyCodec = None) -> TypedStore[Any]: ...
@overload
def typed(store: AsyncStore, T: Any, *, codec: AnyCodec = None) -> AsyncTypedStore[Any]: ...
def typed(store: Any, T: Any = object, *, codec: AnyCodec = None) -> TypedStore[Any] | AsyncTypedStore[Any]:
    """Give a store of values of a type over a store of bytes, of the same colour.

    Args:
        store: where the bytes go; closing the typed store closes it.
        T: a dataclass, TypedDict, Struct, attrs class or pydantic model, or any type of such. `object`: `str int float
            bool None list dict`, and `bytes` by themselves, each of which comes back as exactly what it was.
        codec: a `kv.codecs.Codec`, what makes one for a type (`kv.codecs.msgpack`), or its name: `"json"`, the default,
            `"msgpack"`, `"text"`, `"raw"`, or `"pickle"`, which runs whatever code was stored.

    Raises:
        ConfigError: the codec cannot store the type, or needs a library that is not installed.
        TypeError: `store` is no store of bytes.
    """
    from .codecs import codec_for
    from .typedstore import AsyncTypedStore, TypedStore
    from .typedvalues import Typed

    if not isinstance(store, Typed):
        if hasattr(store, "aclose"):
            return AsyncTypedStore(store, codec_for(codec, T))
        if hasattr(store, "close"):
            return TypedStore(store, codec_for(codec, T))
    raise TypeError(f"kv.typed takes a kv.Store or a kv.AsyncStore, not {type(store).__name__}")
