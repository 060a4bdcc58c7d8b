"""The verbs that list, count and clear."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from kv import url as urls

from .output import counted, json_option, one_line, readable, say, write, write_json, write_line
from .where import Place, Verb, at_place, on_existing_store, on_store, url_argument

if TYPE_CHECKING:
    from kv.store import Store

PAGE = 10_000
"""How many keys to ask for at a time: so memory is bounded, and an engine that must sort all first does so rarely."""


def _prefix(_: click.Context, __: click.Parameter, prefix: str) -> str:
    scheme, colon, _rest = prefix.partition("://")
    if colon and scheme.lower() in urls.schemes():
        raise click.UsageError(f"{urls.hide(prefix)} is the URL of a store, and stands for a prefix here; use --url")
    return prefix


prefix_argument = click.argument("prefix", default="", callback=_prefix)
match_option = click.option("--match", metavar="GLOB", help="Only keys that match: * ? [a-z] [!a], quoted.")


def selection(verb: Verb) -> Verb:
    """Add what says which entries to list, and how."""
    for option in (
        json_option,
        click.option("--limit", type=click.IntRange(min=0), metavar="N", help="At most so many."),
        click.option("--after", metavar="KEY", help="Only keys after this one."),
        match_option,
        prefix_argument,
    ):
        verb = option(verb)
    return verb


@click.command()
@selection
@on_store
def keys(store: Store, prefix: str, match: str | None, after: str | None, limit: int | None, as_json: bool) -> None:
    """List keys in order, one in a line.

    All keys, or those with a prefix.

    \b
      kv keys user:
      kv keys --match 'user:*:name' --limit 10
    """
    while limit is None or limit > 0:
        page = store.keys(prefix, match=match, after=after, limit=PAGE if limit is None else min(PAGE, limit))
        for key in page:
            write_json(key=key) if as_json else write_line(key)
        if not page:
            break
        after = page[-1]
        limit = None if limit is None else limit - len(page)


@click.command()
@selection
@on_store
def scan(store: Store, prefix: str, match: str | None, after: str | None, limit: int | None, as_json: bool) -> None:
    """List entries in order: key, tab, value.

    All entries, or those whose key has a prefix. Each is one line: newline, tab, backslash and what is not text are
    escaped in the value. With --json programs read it.

    \b
      kv scan user: --json
    """
    for key, value in store.scan(prefix, match=match, after=after, limit=limit):
        if as_json:
            write_json(key=key, value=value)
        else:
            shown = readable(key.encode()) if sys.stdout.isatty() else key
            write(f"{shown}\t{one_line(value)}\n")


@click.command()
@prefix_argument
@match_option
@json_option
@on_store
def count(store: Store, prefix: str, match: str | None, as_json: bool) -> None:
    """Count keys.

    All keys, or those with a prefix.

    \b
      kv count user:
    """
    number = store.count(prefix, match=match)
    write_json(count=number) if as_json else write(f"{number}\n")


@click.command()
@url_argument
@json_option
@on_existing_store
def namespaces(store: Store, as_json: bool) -> None:
    """List namespaces that hold entries, one in a line.

    Those directly below; with --namespace those inside that one.

    \b
      kv namespaces sqlite:///app.db
    """
    for name in store.namespaces():
        write_json(namespace=name) if as_json else write_line(name)


@click.command()
@prefix_argument
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@at_place
def clear(place: Place, prefix: str, yes: bool) -> None:
    """Delete all entries, or those with a prefix; asks first.

    All of this namespace; others, also those inside it, are left alone. Writes how many there were.

    \b
      kv clear session: --yes
    """
    with place.opened() as store:
        if not yes:
            what = f" that begin with {prefix!r}" if prefix else ""
            where = f"{place.shown}, namespace {' / '.join(place.names)}" if place.names else place.shown
            say(f"delete {counted(store.count(prefix), 'key')}{what} in {where}? [y/N] ")
            answer = sys.stdin.readline().strip().lower()
            if not answer:
                raise click.UsageError("not cleared; answer yes, or give --yes")
            if answer not in ("y", "yes"):
                raise click.exceptions.Exit(1)
        write(f"{store.clear(prefix)}\n")


VERBS: list[click.Command] = [keys, scan, count, namespaces, clear]
