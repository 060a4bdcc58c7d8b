"""The verbs that look after a store as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kv import url as urls

from .demo import demo
from .output import counted, found, json_option, progress_bar, say, waiting, write, write_json, write_line
from .where import Place, ability, at_place, on_existing_store, url_argument

if TYPE_CHECKING:
    from kv.store import Store


@click.command()
@url_argument
@json_option
@at_place
def stats(place: Place, as_json: bool) -> None:
    """Write how many entries there are, and how large.

    \b
      kv stats sqlite:///app.db
    """
    with place.opened(existing=True) as store, waiting("reading"):
        figures = store.stats()
    if as_json:
        write_json(url=place.shown, namespaces=list(place.names), **figures._asdict())
        return
    write(f"url          {place.shown}\n")
    if place.names:
        write(f"namespace    {' / '.join(place.names)}\n")
    for name, figure in figures._asdict().items():
        shown = "-" if figure is None else f"{figure:,}" if isinstance(figure, int) else figure
        write(f"{name.replace('_', ' '):<12} {shown}\n")


@click.command()
@url_argument
@click.option("--limit", type=click.IntRange(min=0), metavar="N", help="At most so many.")
@on_existing_store
def cleanup(store: Store, limit: int | None) -> None:
    """Remove what has expired from the whole store.

    Expired entries are invisible anyway; this gives their space back. Writes how many. Good for cron.

    \b
      kv cleanup sqlite:////var/lib/app.db
    """
    with waiting("removing expired entries"):
        removed = store.cleanup(limit=limit)
    write(f"{removed}\n")


@click.command()
@url_argument
@on_existing_store
def compact(store: Store) -> None:
    """Give unused space back to the system.

    \b
      kv compact sqlite:///app.db
    """
    with waiting("compacting"):
        store.compact()


@click.command()
@url_argument
@json_option
@on_existing_store
def verify(store: Store, as_json: bool) -> None:
    """Read the whole store and name what is wrong.

    Writes a line for each finding, and exits with 1 if there is one.

    \b
      kv verify sqlite:///app.db
    """
    with waiting("reading every entry"):
        findings = store.verify()
    for finding in findings:
        write_json(finding=finding) if as_json else write_line(finding)
    say(f"kv: {counted(len(findings), 'finding')}" if findings else "kv: read everything, all is well")
    found(not findings)


@click.command()
@url_argument
@at_place
def ddl(place: Place) -> None:
    """Write the SQL that makes the store's tables, for migrations that own it.

    Nothing is opened or made. With create=false in its URL a store then never makes anything itself.

    \b
      kv ddl postgresql://localhost/app
      kv ddl "postgresql://localhost/app?table=cache&unlogged=true&listing=false"
    """
    write(urls.ddl(place.url).rstrip("\n") + "\n")


@click.command()
@click.argument("path")
@at_place
def backup(place: Place, path: str) -> None:
    """Copy a SQLite or LMDB store while it is in use.

    \b
      kv backup app-backup.db --url sqlite:///app.db
    """
    with place.opened(existing=True) as store:
        method = ability(store, place, "backup", "backup of its own; kv export works on every store")
        with waiting("copying"):
            method(path)


@click.command()
@url_argument
@json_option
@at_place
def reencrypt(place: Place, as_json: bool) -> None:
    """Seal with the first key what is sealed with another one.

    Here and in the namespaces below. Each entry in a step of its own, while the store is in use; run again, it goes on.
    Writes how many. What does not open stays as it is, and is an error in the end.

    \b
      kv reencrypt "sqlite:///app.db?encryption_keys=env:NEW_KEY,env:OLD_KEY"
    """
    with place.opened(existing=True) as store, progress_bar() as progress:
        done = ability(store, place, "reencrypt", "encryption; its keys go into the URL")(progress=progress)
    if as_json:
        write_json(reencrypted=done)
    else:
        write(f"{done}\n")


VERBS: list[click.Command] = [stats, verify, cleanup, compact, backup, reencrypt, ddl, demo]
