"""Settings with types and defaults, in categories, common ones and those of each user."""

from __future__ import annotations

import copy
import difflib
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, TypeVar, cast

from kv import codecs
from kv.codecs import codec_for, decoded, encoded
from kv.errors import ConfigError, InvalidKey, KeyNotFound
from kv.keys import check_key, shown
from kv.store import AsyncStore, Store
from kv.values import Unchanged, call, check_fn

from .records import foreign
from .steps import check_store, run, run_async

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Self

    from kv.codecs import Codec

    from .steps import Steps

    Values = dict[str, object]
    Change = Callable[[Values], Values]

__all__ = ["AsyncSettings", "Setting", "Settings"]

S = TypeVar("S", bound=Store | AsyncStore)
T = TypeVar("T")

KEY: Final = "values"
"""Under which all values of a scope are stored, in a namespace of its own."""
_json: Final[Codec[object]] = codecs.json()


class Setting(Generic[T]):
    """One setting: its name, its default, and so its type.

        DIGEST = Setting("mail.digest", True)
        THEME = Setting("ui.theme", "light", kind=Literal["light", "dark"])

    Args:
        name: any key, with a category before the last dot, if it has one.
        default: what it is where nobody has set it.
        kind: the type, where it is not that of the default: whatever `kv.typed` takes as JSON.

    Raises:
        InvalidKey: the name is no key, or has an empty part.
        InvalidValue: the default is not of the type, or can be no part of JSON.
        ConfigError: the type is none that can be stored, or the default is None and no type is said.
    """

    def __init__(self, name: str, default: T, *, kind: type[T] | Any = None) -> None:
        self.name: Final = check_key(name, "the name of a setting")
        if "" in self.name.split("."):
            raise InvalidKey(f"the name of a setting has no empty part between dots, as {shown(name)} has")
        if kind is None and default is None:
            raise ConfigError(f"say of which type {shown(name)} is: kind=str | None, or so")
        self._codec = codec_for(None, type(default) if kind is None else kind)
        self._default = self._plain(default)

    @property
    def default(self) -> T:
        """What it is where nobody has set it; a new object each time."""
        return self._value(self._default)

    @property
    def category(self) -> str:
        """What stands before the last dot of the name; empty where there is none."""
        return self.name.rpartition(".")[0]

    def __repr__(self) -> str:
        return f"<Setting {shown(self.name)}>"

    def _plain(self, value: T) -> object:
        """Give a value as it stands in JSON, or raise `InvalidValue`."""
        data = encoded(self._codec, value, self.name)
        plain = _json.decode(data)
        encoded(_json, [plain], self.name)  # bytes stand by themselves only
        return plain

    def _value(self, plain: object) -> T:
        """Give the value back, or raise `CorruptData`."""
        return cast("T", decoded(self._codec, _json.encode(plain), self.name))


class _Settings(Generic[S]):
    """What both colours share: what is stored, and every step."""

    _end: ClassVar[str]

    def __init__(self, store: S, settings: Iterable[Setting[Any]]) -> None:
        check_store(store, self, self._end)
        self._store = store
        self._scope: tuple[str, ...] = ()
        self._levels: list[Any] = [store.namespace("settings")]
        """The namespaces of this scope and of those above it, this one first."""
        self._settings: dict[str, Setting[Any]] = {}
        for setting in settings:
            if not isinstance(setting, Setting):
                raise TypeError(f"settings are of the type Setting, not {type(setting).__name__}")
            if setting.name in self._settings:
                raise ConfigError(f"two settings have the name {shown(setting.name)}")
            self._settings[setting.name] = setting

    def of(self, user: str) -> Self:
        """Give the settings of a user, or of a tenant: their own values, and where they have none, those of this scope.

        `of` again goes on below that. One more call on the store for each read.

        Args:
            user: any name of a namespace: up to 255 bytes.
        """
        below = copy.copy(self)
        below._levels = [self._levels[0].namespace(user), *self._levels]
        below._scope = (*self._scope, user)
        return below

    def __getitem__(self, name: str) -> Setting[Any]:
        """Give the setting of a name, as of a form, or raise `KeyNotFound`."""
        if (found := self._settings.get(name)) is None:
            raise _unknown("setting", name, self._settings)
        return found

    def __iter__(self) -> Iterator[Setting[Any]]:
        return iter(self._settings.values())

    def __repr__(self) -> str:
        of = "".join(f" of {shown(user)}" for user in self._scope)
        return f"<{type(self).__name__}{of}, {len(self._settings)} settings, on {self._store!r}>"

    def _mine(self, setting: Setting[Any]) -> Setting[Any]:
        if not isinstance(setting, Setting):
            raise TypeError(f"expected a Setting, not {type(setting).__name__}; settings[name] gives that of a name")
        if self[setting.name] is not setting:
            raise KeyNotFound(f"{shown(setting.name)} here is another Setting than this one")
        return setting

    # steps

    def _finding(self, settings: list[Setting[Any]], begin: int = 0) -> Steps[Values]:
        """Give the value of each, by name, as it stands in JSON. One call for each level, as far down as it needs."""
        found: Values = {}
        for level in self._levels[begin:]:
            value: bytes | None = yield partial(level.get, KEY)
            found = {**_stored(value), **found}
            if all(setting.name in found for setting in settings):
                break
        return {setting.name: found.get(setting.name, setting._default) for setting in settings}

    def _getting(self, setting: Setting[T]) -> Steps[T]:
        found = yield from self._finding([self._mine(setting)])
        return setting._value(found[setting.name])

    def _changing(self, change: Change) -> Steps[None]:
        """Change the values of this scope together, in one step."""

        def fn(value: bytes | None) -> bytes | None:
            old = _stored(value)
            new = change(old)
            return _json.encode(new) if new else None

        with suppress(Unchanged):
            yield lambda: self._levels[0].update(KEY, fn)

    def _setting(self, values: Mapping[Setting[Any], Any]) -> Steps[None]:
        new = {self._mine(setting).name: setting._plain(value) for setting, value in values.items()}
        if new:
            yield from self._changing(lambda old: {**old, **new})

    def _updating(self, setting: Setting[T], fn: Callable[[T], T]) -> Steps[T]:
        name = self._mine(setting).name
        check_fn(fn)
        above = yield from self._finding([setting], 1)
        done: list[T] = []

        def change(old: Values) -> Values:
            value: T = call(fn, setting._value(old.get(name, above[name])))
            done.append(value)
            return {**old, name: setting._plain(value)}

        yield from self._changing(change)
        return done[-1]

    def _resetting(self, settings: tuple[Setting[Any], ...]) -> Steps[None]:
        names = {self._mine(setting).name for setting in settings}

        def change(old: Values) -> Values:
            if names.isdisjoint(old):
                raise Unchanged
            return {name: value for name, value in old.items() if name not in names}

        if names:
            yield from self._changing(change)

    def _listing(self, category: str | None) -> Steps[Values]:
        settings = [*self]
        if category is not None:
            settings = [s for s in self if f"{s.category}.".startswith(f"{category}.")]
            if not settings:
                raise _unknown("category", category, {s.category for s in self if s.category})
        found = yield from self._finding(settings)
        return {setting.name: setting._value(found[setting.name]) for setting in settings}


def _stored(value: bytes | None) -> Values:
    """Give the values of a scope, also of settings that are not known here, or raise `CorruptData`."""
    if value is None:
        return {}
    try:
        found = _json.decode(value)
    except ValueError:
        found = None
    if isinstance(found, dict):
        return cast("Values", found)
    raise foreign(KEY, "the values of settings")


def _unknown(what: str, name: object, known: Iterable[str]) -> KeyNotFound:
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, 3) or names[:10]
    return KeyNotFound(f"there is no {what} {shown(str(name))}; there is {', '.join(map(shown, near)) or 'none'}")


class Settings(_Settings[Store]):
    """Settings that are declared in code, and whose values are in a store.

        settings = Settings(store, [DIGEST, THEME])
        settings.get(DIGEST)                       # a bool: for everybody
        settings.of("ada").set(THEME, "dark")      # for one user

    All values of a scope, of everybody's or of one user's, are one entry of JSON in a namespace of its own below `settings`:
    read by one call, changed by one atomic call, so that a batch is never seen half, on a cluster neither. Values of settings
    that are not declared, as by a newer version of the program, stay as they are.

    Methods raise `KeyNotFound` for a setting that is not among those given, `InvalidValue` for a value that is not of its
    type, and `CorruptData` where what is stored is of another type than is declared now.

    Args:
        store: an open store. It is not closed here.
        settings: all that there are.
    """

    _end = "close"

    def get(self, setting: Setting[T]) -> T:
        """Give the value: of this scope, else of those above it, else the default. One read, in `of(user)` at most two."""
        return run(self._getting(setting))

    def set(self, setting: Setting[T], value: T) -> None:
        """Set a value in this scope. One atomic call."""
        run(self._setting({setting: value}))

    def set_many(self, values: Mapping[Setting[Any], Any]) -> None:
        """Set several values in this scope, all or none. One atomic call."""
        run(self._setting(values))

    def update(self, setting: Setting[T], fn: Callable[[T], T]) -> T:
        """Read, modify and write a value of this scope as one atomic step. Gives the new value.

        `fn` is pure and may be called again, as for `Store.update`. Where this scope has no value it gets that of those
        above, read just before; one call more for each.
        """
        return run(self._updating(setting, fn))

    def reset(self, *settings: Setting[Any]) -> None:
        """Take values away from this scope, so that they are those above, or the defaults. One atomic call.

        `settings.reset(*settings)` resets all.
        """
        run(self._resetting(settings))

    def all(self) -> dict[str, object]:
        """Give all values by name. Reads as `get`."""
        return run(self._listing(None))

    def category(self, name: str) -> dict[str, object]:
        """Give the values of a category and of those below it, by their whole names. Reads as `get`.

        Raises:
            KeyNotFound: no setting is in it.
        """
        return run(self._listing(name))


class AsyncSettings(_Settings[AsyncStore]):
    """See `Settings`."""

    _end = "aclose"

    async def get(self, setting: Setting[T]) -> T:
        """See `Settings.get`."""
        return await run_async(self._getting(setting))

    async def set(self, setting: Setting[T], value: T) -> None:
        """See `Settings.set`."""
        await run_async(self._setting({setting: value}))

    async def set_many(self, values: Mapping[Setting[Any], Any]) -> None:
        """See `Settings.set_many`."""
        await run_async(self._setting(values))

    async def update(self, setting: Setting[T], fn: Callable[[T], T]) -> T:
        """See `Settings.update`."""
        return await run_async(self._updating(setting, fn))

    async def reset(self, *settings: Setting[Any]) -> None:
        """See `Settings.reset`."""
        await run_async(self._resetting(settings))

    async def all(self) -> dict[str, object]:
        """See `Settings.all`."""
        return await run_async(self._listing(None))

    async def category(self, name: str) -> dict[str, object]:
        """See `Settings.category`."""
        return await run_async(self._listing(name))
