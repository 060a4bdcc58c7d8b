"""Which store a verb works on: `--url` and `--namespace`, `KV_URL`, or the user's own file."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias
from urllib.parse import parse_qsl, quote

import click

from kv import url as urls
from kv.errors import ConfigError
from kv.wrappers.registry import CHECKS

from .output import say

if TYPE_CHECKING:
    from kv.store import Store

Verb: TypeAlias = Callable[..., None]


class Place(NamedTuple):
    """A store that has not been opened."""

    url: str
    names: tuple[str, ...]
    """Namespaces to go into, one inside the other, after the URL's own."""
    origin: Literal["given", "KV_URL", "default"] = "given"

    @contextmanager
    def opened(self, *, existing: bool = False) -> Iterator[Store]:
        """Open it, and close it in the end.

        Args:
            existing: where there is no such file or table, raise `ConfigError`, and make none. The user's own file is
                always made.
        """
        path = self.file
        made = self.origin == "default" and path is not None and not os.path.exists(path)
        if made and path:
            os.makedirs(os.path.dirname(path), exist_ok=True)
        elif existing and path and not os.path.exists(path):
            raise ConfigError(f"there is no store at {self.shown}; is the path right?")
        options = {"create": False} if existing and urls.knows(self.url, "create") else {}
        with urls.open(self.url, **options) as store:
            if made:
                say(f"kv: made {self.url}, where entries go without --url or KV_URL")
            here = store
            for name in self.names:
                here = here.namespace(name)
            yield here

    def inside(self, name: str) -> Place:
        """Give a namespace of it."""
        return self._replace(names=(*self.names, name))

    @property
    def shown(self) -> str:
        """The URL for messages."""
        return urls.hide(self.url)

    @property
    def file(self) -> str | None:
        """The real path of a store in a file; None for everything else."""
        scheme, _, rest = self.url.partition("?")[0].partition("://")
        if scheme.lower() not in ("sqlite", "lmdb") or not rest.startswith("/") or rest in ("/", "/:memory:"):
            return None
        return os.path.realpath(urls.unquoted_path(rest[1:]))

    @property
    def identity(self) -> tuple[str, tuple[str, ...]]:
        """Which store it is, however the URL is spelt, and the whole path in it."""
        base, _, query = self.url.partition("?")
        options = [o for o in parse_qsl(query) if o[0] not in CHECKS]  # they change how it is stored, and not where
        names = tuple(value for name, value in options if name == "namespace") + self.names
        if self.file:
            return self.file, names
        scheme, _, rest = base.partition("://")
        scheme = {"postgres": "postgresql"}.get(scheme.lower(), scheme.lower())
        return f"{scheme}://{rest}?{sorted(o for o in options if o[0] != 'namespace')}", names


def default_path() -> str:
    """Give the path of the user's own file."""
    import platformdirs

    return os.path.join(platformdirs.user_data_dir("anykv", appauthor=False), "kv.db")


def url_options(fn: Verb) -> Verb:
    """Add the options that say which store."""
    for option in (
        click.option(
            "-n", "--namespace", multiple=True, metavar="NAME", help="Work in this namespace; repeated, it nests."
        ),
        click.option("-u", "--url", metavar="URL", help="The store, like sqlite:///app.db.  [env: KV_URL]"),
    ):
        fn = option(fn)
    return fn


def at_place(fn: Verb) -> Verb:
    """Add the options that say which store, and give the verb the place as its first argument."""

    @url_options
    @functools.wraps(fn)
    def verb(url: str | None, namespace: tuple[str, ...], **kwargs: object) -> None:
        argument = kwargs.pop("store_url", None)
        before = click.get_current_context().find_root().obj
        if argument is not None and (url is not None or before[0] is not None):
            raise click.UsageError("two URLs, one as argument and one as --url")
        fn(_place(argument or url or before[0], (*before[1], *namespace)), **kwargs)

    return verb


def on_store(fn: Verb, *, existing: bool = False) -> Verb:
    """Add the options that say which store, and give the verb the open store as its first argument."""

    @at_place
    @functools.wraps(fn)
    def verb(place: Place, **kwargs: object) -> None:
        with place.opened(existing=existing) as store:
            fn(store, **kwargs)

    return verb


on_existing_store = functools.partial(on_store, existing=True)
"""For verbs that look at a store as a whole: of a mistyped path they make no empty one."""


url_argument = click.argument("store_url", metavar="[URL]", required=False)
"""The store as an argument too, for the verbs that take no other."""


def _place(url: object, names: tuple[str, ...]) -> Place:
    if isinstance(url, str):
        return Place(url, names)
    if environ := os.environ.get("KV_URL"):
        return Place(environ, names, "KV_URL")
    return Place("sqlite:///" + quote(default_path()), names, "default")


def plain_place(url: str) -> Place:
    """Give the place of a URL that stands alone, without the options."""
    before = click.get_current_context().find_root().obj
    if before[0] or before[1]:
        raise click.UsageError("copy takes two URLs and no --url or --namespace; write ...?namespace=NAME in the URL")
    return Place(url, ())


def overlap(a: Place, b: Place) -> str | None:
    """Say why entries cannot go from one to the other; None if they can."""
    (store_a, path_a), (store_b, path_b) = a.identity, b.identity
    if store_a != store_b:
        return None
    if path_a == path_b:
        return f"{a.shown} and {b.shown} are the same store"
    shorter = min(len(path_a), len(path_b))
    if path_a[:shorter] == path_b[:shorter]:
        return f"one of {a.shown} and {b.shown} lies inside the other"
    return None


def ability(store: Store, place: Place, name: str, what: str) -> Callable[..., object]:
    """Give a method that not every backend has, or raise `ConfigError`."""
    method: Callable[..., object] | None = getattr(store, name, None)
    if method is None:
        raise ConfigError(f"{place.shown} has no {what}")
    return method
