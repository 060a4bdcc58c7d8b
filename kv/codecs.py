"""Codecs: values of any type as bytes, exactly, or refused. Pure; `kv.typed` puts them before a store.

A codec is made for a type: `json(User)`. What it decodes is what was encoded, of the same types throughout; what it would
change on the way it does not take. There is no pickle unless `pickle` is named.
"""

from __future__ import annotations

import json as _json
import os
import re
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar, cast, get_args

from .errors import ConfigError, CorruptData, InvalidValue
from .exact import ATOMS, SCALARS, Unfit, alike, check_plain, digits, dumps, loads, slowly
from .keys import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeAlias

__all__ = ["Codec", "Unfit", "alike", "json", "msgpack", "pickle", "raw", "text"]

T = TypeVar("T")


class Codec(Protocol[T]):
    """What makes bytes of values, and values of bytes.

    Where it cannot, it raises; an `Unfit` says why, and any other exception is named by its type alone, since its text
    may hold the value.
    """

    decimal: bool
    """Whether an integer is stored as `increment` wants it, like `b"42"`."""

    def encode(self, value: T) -> bytes:
        """Give the value as bytes."""
        ...

    def decode(self, data: bytes) -> T:
        """Give the value that the bytes are of."""
        ...


AnyCodec: TypeAlias = "Codec[Any] | Callable[[Any], Codec[Any]] | str | None"
"""What may be named as a codec: one, what makes one for a type, or its name; None is JSON."""


def codec_for(codec: AnyCodec, kind: Any) -> Codec[Any]:
    """Give the codec for a type."""
    if codec is None:
        return json(kind)
    if isinstance(codec, str):
        if codec not in _BY_NAME:
            raise ConfigError(f"unknown codec {codec!r}. Known: {', '.join(sorted(_BY_NAME))}")
        return _BY_NAME[codec](kind)
    made = codec(kind) if isinstance(codec, type) or (not hasattr(codec, "encode") and callable(codec)) else codec
    if not (hasattr(made, "encode") and hasattr(made, "decode")):
        raise ConfigError(f"codec must be a kv.codecs.Codec, what makes one, or its name, not {_codec_name(codec)}")
    return cast("Codec[Any]", made)


def encoded(codec: Codec[T], value: T, key: str) -> bytes:
    """Give a value for a key as bytes, or raise `InvalidValue`."""
    try:
        data = codec.encode(value)
    except Unfit as e:
        raise InvalidValue(f"the value for {shown(key)} cannot be stored: {e}") from None
    except Exception as e:  # its text may hold the value, and so may a traceback that shows it
        raise InvalidValue(f"the value for {shown(key)} cannot be stored: {_raised(codec, e)}") from None
    if type(data) is not bytes:
        raise InvalidValue(f"{_codec_name(codec)} made {type(data).__name__} of the value for {shown(key)}, not bytes")
    return data


def decoded(codec: Codec[T], data: bytes, key: str) -> T:
    """Give the value that is stored for a key, or raise `CorruptData`."""
    try:
        return codec.decode(data)
    except Unfit as e:
        raise CorruptData(f"what is stored for {shown(key)} is not what this codec wrote: {e}") from None
    except Exception as e:
        raise CorruptData(
            f"what is stored for {shown(key)} is not what this codec wrote: {_raised(codec, e)}"
        ) from None


def _raised(codec: object, error: Exception) -> str:
    """Name an exception and the line that raised it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = "" if trace is None else f" ({os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno})"
    return f"{_codec_name(codec)} raised {type(error).__name__}{where}"


def _codec_name(codec: object) -> str:
    return (codec if isinstance(codec, type) else type(codec)).__name__.lstrip("_")


def json(kind: type[T] | Any = object) -> Codec[T]:
    """JSON for values of a type.

    `object`: `str int float bool None list dict`, each exactly, and `bytes` by themselves. Other types are read and written
    by `msgspec`, and by pydantic where they are models of it.

    Raises:
        ConfigError: the type is none that can be read back, or the library that does is not installed.
    """
    if kind is object or kind is Any:
        return cast("Codec[T]", _JSON())
    if isinstance(kind, type) and kind in _PLAIN:
        return cast("Codec[T]", _OfOneType(_JSON(), kind))
    codec = _Of(_Pydantic(kind) if _is_pydantic(kind) else _Msgspec(kind, "json"))
    return cast("Codec[T]", _OrBytes(codec) if bytes in get_args(kind) else codec)


def msgpack(kind: type[T] | Any = object) -> Codec[T]:
    """MessagePack for values of a type, as `json`; bytes may stand in lists and dicts too. Integers are of 64 bits."""
    if _is_pydantic(kind):
        raise ConfigError(f"pydantic writes no MessagePack; {_name(kind)} goes with codec='json'")
    if kind is object or kind is Any:
        return cast("Codec[T]", _MsgPack(_Msgspec(object, "msgpack")))
    return cast("Codec[T]", _Of(_Msgspec(kind, "msgpack")))


def text(kind: Any = str) -> Codec[str]:
    """A `str` as UTF-8."""
    return _for(_Text(), str, kind)


def raw(kind: Any = bytes) -> Codec[bytes]:
    """Bytes as they are."""
    return _for(_Raw(), bytes, kind)


def pickle(kind: type[T] | Any = object) -> Codec[T]:
    """Whatever `pickle` takes. Who can write to the store can run any code in whoever reads it: for your own files only."""
    return cast("Codec[T]", _Pickle(kind))


_BY_NAME: Final[dict[str, Callable[[Any], Codec[Any]]]] = {
    "json": json,
    "msgpack": msgpack,
    "pickle": pickle,
    "raw": raw,
    "text": text,
}


def _for(codec: Codec[T], takes: type[T], kind: Any) -> Codec[T]:
    if kind not in (takes, object, Any):
        raise ConfigError(f"this codec is for {takes.__name__}, not for {_name(kind)}")
    return codec


def _name(kind: Any) -> str:
    return getattr(kind, "__qualname__", None) or str(kind)


# JSON

_PLAIN: Final[frozenset[type]] = frozenset({str, int, float, bool, bytes, list, dict, type(None)})

BYTES: Final = b"\x00"
"""Before bytes that stand by themselves: no JSON begins with it."""


class _JSON:
    """JSON of any plain value."""

    decimal = True

    def encode(self, value: object) -> bytes:
        if type(value) is bytes:
            return BYTES + value
        if type(value) is int:
            return digits(value).encode()
        check_plain(value, SCALARS, "JSON")
        try:
            text = dumps(value)
        except ValueError:  # an integer of more digits than Python makes at once
            text = slowly(value)
        except RecursionError:
            raise Unfit("it is nested too deep") from None
        try:
            return text.encode()
        except UnicodeEncodeError:  # a lone surrogate: escaped, it comes back
            return _json.dumps(value, separators=(",", ":")).encode()

    def decode(self, data: bytes) -> object:
        if data.startswith(BYTES):
            return data[1:]
        try:
            return loads(data.decode())
        except RecursionError:
            raise Unfit("it is nested too deep") from None
        except ValueError:
            raise Unfit("it is no JSON") from None


class _OfOneType:
    """A codec of any plain value, for those of one type."""

    def __init__(self, codec: Codec[Any], kind: type) -> None:
        self.decimal = kind is int
        self._codec = codec
        self._kind = kind

    def encode(self, value: object) -> bytes:
        if type(value) is int and self._kind is float and float(value) == value:
            value = float(value)
        return self._codec.encode(self._checked(value))

    def decode(self, data: bytes) -> object:
        value = self._codec.decode(data)
        if type(value) is int and self._kind is float:
            return float(value)
        return self._checked(value)

    def _checked(self, value: object) -> object:
        if type(value) is not self._kind:
            raise Unfit(f"expected {self._kind.__name__}, got {type(value).__name__}")
        return value


# types of users, through libraries


class _Library(Protocol):
    def encode(self, value: Any) -> bytes: ...
    def decode(self, data: bytes) -> Any: ...


class _Of:
    """Values of a type, checked by reading back what is about to be written."""

    decimal = False  # a type may allow some integers only

    def __init__(self, library: _Library) -> None:
        self._library = library
        self.decode = library.decode

    def encode(self, value: object) -> bytes:
        data = self._library.encode(value)
        try:
            back = alike(self.decode(data), value)
        except RecursionError:
            raise Unfit("it is nested too deep") from None
        if not back:
            raise Unfit("something in it would not come back as it is; see the types of its fields")
        return data


class _OrBytes:
    """A codec, with bytes by themselves beside it."""

    decimal = False

    def __init__(self, codec: _Of) -> None:
        self._codec = codec

    def encode(self, value: object) -> bytes:
        return BYTES + value if type(value) is bytes else self._codec.encode(value)

    def decode(self, data: bytes) -> object:
        return data[1:] if data.startswith(BYTES) else self._codec.decode(data)


class _MsgPack:
    """MessagePack of any plain value."""

    decimal = False

    def __init__(self, library: _Library) -> None:
        self._library = library

    def encode(self, value: object) -> bytes:
        check_plain(value, ATOMS, "MessagePack")
        return self._library.encode(value)

    def decode(self, data: bytes) -> object:
        value: object = self._library.decode(data)
        check_plain(value, ATOMS, "MessagePack")  # others write dates, and keys that are no str
        return value


class _Msgspec:
    def __init__(self, kind: Any, form: str) -> None:
        try:
            import msgspec
        except ImportError as e:
            raise ConfigError(
                f"values of type {_name(kind)} as {form} need msgspec, which is not installed: "
                f'pip install "anykv[typed]"'
            ) from e
        self._errors = (msgspec.MsgspecError, UnicodeError, TypeError, ValueError, OverflowError, RecursionError)
        module = getattr(msgspec, form)
        try:
            self._encode = module.Encoder().encode
            self._decode = module.Decoder(kind).decode
            if kind is not object and isinstance(msgspec.inspect.type_info(kind), msgspec.inspect.CustomType):
                raise TypeError("msgspec would write it, and knows no way back")
        except (TypeError, NameError) as e:
            raise ConfigError(f"values of type {_name(kind)} cannot be stored: {e}") from e

    def encode(self, value: Any) -> bytes:
        try:
            return cast("bytes", self._encode(value))
        except self._errors as e:
            raise Unfit(_reason(e)) from None

    def decode(self, data: bytes) -> Any:
        try:
            return self._decode(data)
        except self._errors as e:
            raise Unfit(_reason(e)) from None


_safe = re.compile(
    r"(?:Expected `[^`]*`|Object (?:missing required|contains unknown) field `[^`]*`|(?:JSON|MessagePack data) is malformed"
    r"|Can't encode |Encoding objects of type |Input data was truncated)"
)
"""What msgspec says of types and fields, and never of a value."""


def _reason(error: Exception) -> str:
    """Give what a library says is wrong, and where, without the value."""
    message = str(error)
    if isinstance(error, RecursionError):
        return "it is nested too deep, or holds itself"
    if error.__cause__ is None and _safe.match(message):  # with a cause it is what a user's own check says
        return message[0].lower() + message[1:] if message.startswith(("Expected", "Object")) else message
    field = re.search(r" - at `[^`]*`\Z", message)
    return f"{type(error).__name__}{field[0] if field else ''}"


class _Pydantic:
    def __init__(self, kind: Any) -> None:
        from pydantic import PydanticUserError, TypeAdapter, ValidationError

        try:
            self._adapter: Any = TypeAdapter(kind)
        except PydanticUserError as e:
            raise ConfigError(f"values of type {_name(kind)} cannot be stored: {e}") from e
        self._invalid = ValidationError
        self._names: set[str] | None = None

    def encode(self, value: Any) -> bytes:
        try:
            return cast("bytes", self._adapter.dump_json(value, by_alias=True, warnings="error"))
        except Exception as e:  # pydantic's own, and whatever a user's serializer raises
            raise Unfit(f"pydantic does not serialize it ({type(e).__name__})") from None

    def decode(self, data: bytes) -> Any:
        try:
            return self._adapter.validate_json(data)
        except self._invalid as e:
            wrong = e.errors(include_url=False, include_input=False, include_context=False)
            raise Unfit("; ".join(map(self._said, wrong[:3]))) from None

    def _said(self, wrong: Any) -> str:
        """Give the kind of an error, and where. Not its text, in which the value may stand, and no dict's key."""
        if self._names is None:
            try:
                self._names = set(_properties(self._adapter.json_schema()))
            except Exception:  # there are types of which it can make no schema
                self._names = set()
        unknown = wrong["type"] == "extra_forbidden"
        path = [
            str(step) if isinstance(step, int) or step in self._names or (unknown and i == len(wrong["loc"])) else "..."
            for i, step in enumerate(wrong["loc"], 1)
        ]
        return f"{wrong['type'].replace('_', ' ')} - at `{'.'.join(['$', *path])}`"


def _properties(schema: object) -> Iterator[str]:
    """The names of all fields in a JSON schema."""
    if isinstance(schema, dict):
        for key, below in cast("dict[str, object]", schema).items():
            if key == "properties" and isinstance(below, dict):
                yield from cast("dict[str, object]", below)
            yield from _properties(below)
    elif isinstance(schema, list):
        for below in cast("list[object]", schema):
            yield from _properties(below)


def _is_pydantic(kind: Any) -> bool:
    """Whether a model of pydantic is the type, or stands in it."""
    return hasattr(kind, "__pydantic_validator__") or any(map(_is_pydantic, get_args(kind)))


# without structure


class _Text:
    decimal = True

    def encode(self, value: str) -> bytes:
        if type(value) is not str:
            raise Unfit(f"expected str, got {type(value).__name__}")
        try:
            return value.encode()
        except UnicodeEncodeError:
            raise Unfit("it holds a lone surrogate, which UTF-8 has not") from None

    def decode(self, data: bytes) -> str:
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise Unfit("it is not UTF-8") from None


class _Raw:
    decimal = True

    def encode(self, value: bytes | bytearray | memoryview) -> bytes:
        if not isinstance(value, bytes | bytearray | memoryview):
            raise Unfit(f"it must be bytes, not {type(value).__name__}; kv.typed without this codec takes other types")
        return value if type(value) is bytes else bytes(value)

    def decode(self, data: bytes) -> bytes:
        return data


class _Pickle(Generic[T]):
    decimal = False

    def __init__(self, kind: Any) -> None:
        self._kind = kind if isinstance(kind, type) else object

    def encode(self, value: T) -> bytes:
        from pickle import dumps

        return dumps(self._checked(value), protocol=5)

    def decode(self, data: bytes) -> T:
        from pickle import loads

        return self._checked(loads(data))  # noqa: S301  # named by the caller

    def _checked(self, value: Any) -> T:
        if not isinstance(value, self._kind):
            raise Unfit(f"expected {self._kind.__name__}, got {type(value).__name__}")
        return cast("T", value)
