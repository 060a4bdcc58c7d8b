"""One URL, one store: `open`, `open_async`, and the registry of schemes.

A backend is a `Backend`: a sync and an async store class, each of which says which options it knows (`url_options`)
and how to open (`from_url`). Ours are listed here by name and loaded when used; other packages add theirs through the
entry-point group `kv.backends`, the scheme as the name and a `Backend` as the object.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, Protocol, cast

from . import options as _options
from .errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .store import AsyncStore, Store

__all__ = ["Backend", "open", "open_async"]

_BUILT_IN: Final = {
    "lmdb": "kv.backends.lmdb:BACKEND",
    "memory": "kv.backends.memory:BACKEND",
    "postgres": "kv.backends.postgres:BACKEND",
    "postgresql": "kv.backends.postgres:BACKEND",
    "redis": "kv.backends.redis:BACKEND",
    "redis+cluster": "kv.backends.redis:BACKEND",
    "rediss": "kv.backends.redis:BACKEND",
    "rediss+cluster": "kv.backends.redis:BACKEND",
    "sqlite": "kv.backends.sqlite:BACKEND",
    "unix": "kv.backends.redis:BACKEND",
}
_EXAMPLES: Final = "memory://, sqlite:///app.db (relative), sqlite:////var/lib/app.db (absolute), postgresql://user:password@host/database, redis://host:6379/0"
_HIDDEN: Final = "(?:pass(?!file)|secret|token|key)"
"""What the name of a parameter holds whose value is not shown."""
_HOSTS: Final = (
    r"(?:(?:\[[0-9A-Fa-f:.]*(?:%[\w.-]*)?\]|[^:/?#@,\[]*)(?::[0-9]+)?(?:,|(?=[/?#]|\Z)))+"
    r"(?:/[^?#@]*)?(?:\Z|\?(?![^=&]*@)|#(?![^@]*@))"
)
"""What stands behind the `://` where there is neither user nor password."""


class URLStore(Protocol):
    """What a store class needs so that a URL can open it."""

    url_options: ClassVar[Mapping[str, _options.Check]]
    """Each option it knows, and the function that checks its value (see `kv.options`)."""

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Any:
        """Open a store by its URL, with the options taken off the URL, checked, and given as keywords."""


class Backend(NamedTuple):
    """A backend as the registry knows it: its store class in each colour, None where it has not that colour."""

    store: type[URLStore] | None
    async_store: type[URLStore] | None


def open(url: str | None = None, **options: object) -> Store:
    """Open a store.

    Args:
        url: `memory://`, `sqlite:///app.db`, ... None reads the environment variable `KV_URL`.
        options: what may also stand in the URL's query; a keyword wins over the query.

    Raises:
        ConfigError: the URL or an option is wrong, or the driver is missing.
        Unavailable: there is no reaching it.
        CorruptData: what is there is not a store, or one of a newer version.
    """
    text, backend = _find(url)
    return cast("Store", _opened(text, backend.store, "sync", options))


def open_async(url: str | None = None, **options: object) -> AsyncStore:
    """See `open`. Not awaited: the store connects at its first operation, or at `async with`."""
    text, backend = _find(url)
    return cast("AsyncStore", _opened(text, backend.async_store, "async", options))


def hide(url: str) -> str:
    """Give the URL with its passwords hidden, for messages; also where it is none, or not written as it should be."""
    scheme, found, rest = url.partition("://")
    if not found:  # libpq's other form, `host=... password=...`
        form = rf"({_HIDDEN}\w*\s*=\s*)('(?:[^'\\]|\\.)*'?\S*|\S+)"
        scheme, rest = "", re.sub(form, r"\1***", url, flags=re.IGNORECASE | re.DOTALL)
    rest = re.sub(rf"([?&][^=&]*{_HIDDEN}[^=&]*=)[^&]*", r"\1***", rest, flags=re.IGNORECASE)
    begin, end = _password(rest, found)
    return scheme + found + rest[:begin] + "***" * (begin < end) + rest[end:]


def _password(rest: str, found: str) -> tuple[int, int]:
    """Where the password is, behind the `://` if that was found. Nowhere is (0, 0)."""
    user = re.match(r"[^:/?#@]*:" if found else r"(?:[^:/?#]*:/)?[^:/?#@]*:", rest)
    if not user or (found and re.match(_HOSTS, rest)):
        return 0, 0
    end = rest[: _end(r"[?#]", rest)].rfind("@")
    if end < 0:  # a ? or a # in a password should not stand there as it is, and does
        end = rest.rfind("@")
    if end < 0 and found:  # so does a password without a host
        end = _end(r"[/?#]", rest)
    return (user.end(), end) if end > user.end() else (0, 0)


def _end(sign: str, text: str) -> int:
    """Where the first such sign stands; the length where there is none."""
    found = re.search(sign, text)
    return found.start() if found else len(text)


def unquoted_path(text: str) -> str:
    """Give a path as it stands in a URL without its percent signs; it may be of any bytes."""
    from urllib.parse import unquote_to_bytes

    return os.fsdecode(unquote_to_bytes(os.fsencode(text)))


def schemes() -> list[str]:
    """Give every scheme that `open` knows, those of other packages too, sorted."""
    return sorted({*_BUILT_IN, *(point.name for point in _entry_points())})


def _entry_points() -> Any:
    from importlib.metadata import entry_points  # slow to import, and rarely needed

    return entry_points(group="kv.backends")


def _find(url: str | None) -> tuple[str, Backend]:
    text = os.environ.get("KV_URL") if url is None else url
    if text in (None, ""):
        missing = "no URL given, and KV_URL is not set" if url is None else "the URL is empty"
        raise ConfigError(f"{missing}; for example {_EXAMPLES}")
    if not isinstance(text, str):
        raise ConfigError(f"a store's URL is a str, not {type(text).__name__}; for example {_EXAMPLES}")
    scheme, colon, _ = text.partition("://")
    if not colon:
        what = f"KV_URL is {hide(text)!r}, which" if url is None else repr(hide(text))
        raise ConfigError(f"{what} is not a URL of a store; for example {_EXAMPLES}")
    scheme = scheme.lower()
    if scheme in _BUILT_IN:
        module, _, name = _BUILT_IN[scheme].partition(":")
        from importlib import import_module

        return text, cast("Backend", getattr(import_module(module), name))
    for point in _entry_points():
        if point.name == scheme:
            try:
                return text, cast("Backend", point.load())
            except ImportError as e:
                package = getattr(point.dist, "name", point.value)
                raise ConfigError(
                    f"{scheme}:// is opened by {package}, which fails to import: {e}. Its driver may be missing; "
                    f"see how {package} is installed"
                ) from e
    raise _options.unknown("scheme", scheme, schemes())


def ddl(url: str) -> str:
    """Give the SQL that makes the schema of a store, for who makes it by himself. Opens nothing.

    Raises:
        ConfigError: the URL is wrong, or such a store has no schema.
    """
    text, backend = _find(url)
    cls = backend.store or backend.async_store
    make = getattr(cls, "_ddl_of_url", None)
    if cls is None or make is None:
        raise ConfigError(f"{hide(text)} has no schema")
    base, options, _ = _parsed(text, cls, {})
    return cast("str", make(base, **options))


def knows(url: str, option: str) -> bool:
    """Give whether the store behind the URL has such an option, of its own or of a wrapper's."""
    backend = _find(url)[1]
    return option in _of_wrappers() or any(cls is not None and option in cls.url_options for cls in backend)


def _opened(text: str, cls: type[URLStore] | None, colour: str, keywords: Mapping[str, object]) -> object:
    if cls is None:
        raise ConfigError(f"{text.partition('://')[0]}:// has no {colour} store")
    base, options, outer = _parsed(text, cls, keywords)
    if not outer:
        return cls.from_url(base, **options)
    from .wrappers.registry import prepared

    wraps = prepared(outer, colour)
    opened = store = cls.from_url(base, **options)
    try:
        for wrap in wraps:
            store = wrap(store)
    except BaseException:
        if colour == "sync":  # an async one has not connected yet
            opened.close()
        raise
    return store


def _of_wrappers() -> Mapping[str, _options.Check]:
    """Give the options of wrappers, which any store may have."""
    from .wrappers.registry import CHECKS  # only where one is asked for

    return CHECKS


def _parsed(
    text: str, cls: type[URLStore], keywords: Mapping[str, object]
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Give the URL without the options in its query, and them, checked, with those given as keywords.

    They are the store's own, and those of wrappers around it.
    """
    from urllib.parse import quote, urlencode

    base, _, query = text.partition("?")
    passed = getattr(cls, "url_parameters", ())
    given: dict[str, object] = {}
    rest = []
    # libpq, whose parameters may stand there too, takes a plus as it is
    pairs = _pairs(query.replace("+", "%2B") if passed else query)
    if pairs is None:
        raise ConfigError(f"what stands after the ? in {hide(text)} is not UTF-8, percent-encoded")
    behind = text.partition("://")[2]
    if "?" in behind[slice(*_password(behind, "://"))] or any("@" in name for name, _ in pairs):
        raise ConfigError(f"{hide(text)}: a ? in a user's name or a password is %3F in a URL")
    for name, value in pairs:
        if name in passed:
            rest.append((name, value))
        elif name == "namespace" and name in given:  # repeated, it nests
            given[name] = (*cast("tuple[str, ...]", given[name]), value)
        elif name in given:
            raise ConfigError(f"option {name!r} stands twice in {hide(text)}")
        else:
            given[name] = (value,) if name == "namespace" else value
    given.update(keywords)
    own = cls.url_options
    known = own if given.keys() <= own.keys() else {**_of_wrappers(), **own}
    checked = _options.checked(given, known, f"{text.partition('://')[0]}://")
    outer = {name: checked.pop(name) for name in given.keys() - own.keys()}
    return base + ("?" + urlencode(rest, quote_via=quote) if rest else ""), checked, outer


def _pairs(query: str) -> list[tuple[str, str]] | None:
    """Read a query; None where something is no UTF-8: two names that differ in that must not become one.

    What is raised then holds the value, which may be a password, and goes no further.
    """
    from urllib.parse import parse_qsl

    try:
        query.encode()
        return parse_qsl(query, keep_blank_values=True, errors="strict")
    except ValueError:
        return None
