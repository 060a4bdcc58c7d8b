"""The verbs that move whole stores: export, import, copy."""

from __future__ import annotations

import os
import sys
import time
from contextlib import contextmanager, nullcontext
from itertools import islice
from typing import TYPE_CHECKING

import click

from kv import transfer
from kv.base import TRAVEL_BYTES
from kv.errors import ConfigError

from .output import counted, found, progress_bar, say, write_line
from .where import Place, at_place, on_store, overlap, plain_place

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kv.store import Store

SHOWN = 20
"""How many differences `copy --verify` names."""


@click.command("export")
@click.option("-o", "--output", metavar="FILE", help="Write to this file; it is always whole.")
@click.option("--resume", is_flag=True, help="Go on with the FILE.part of an export that was interrupted.")
@at_place
def export(place: Place, output: str | None, resume: bool) -> None:
    """Write all entries as JSON lines, to a file or a pipe.

    With their deadlines, and those of the namespaces below. The last line has a count and a checksum. With -o they
    go to FILE.part, which is renamed at the end.

    \b
      kv export -o app.jsonl --url sqlite:///app.db
      kv export | gzip > app.jsonl.gz
    """
    to_file = output is not None and output != "-"
    if resume and not to_file:
        raise click.UsageError("--resume needs -o FILE")
    if output is not None and place.file == os.path.realpath(output):
        raise ConfigError(f"{output} is the store itself; nothing was exported")
    began = time.monotonic()
    with (
        place.opened(existing=True) as store,
        _hint("the same command with --resume goes on from here") if to_file else nullcontext(),
        progress_bar(wanted=to_file or not sys.stdout.isatty()) as progress,
    ):
        if to_file:
            assert output
            done = transfer.export_file(store, output, resume=resume, progress=progress)
        else:
            done = transfer.export(store, sys.stdout.buffer, progress=progress)
            sys.stdout.flush()
    earlier = f", {done.resumed:,} of them by the run before" if done.resumed else ""
    say(f"exported {_rate(done.entries - done.resumed, began, done.entries)}{earlier}")


@click.command("import")
@click.argument("file", required=False)
@click.option("--replace", is_flag=True, help="Delete what the file does not have, here and in the namespaces below.")
@click.option("--resume", is_flag=True, help="Skip what is there already, with the same value and deadline.")
@on_store
def import_(store: Store, file: str | None, replace: bool, resume: bool) -> None:
    """Store the entries of an export.

    It is a file, or the standard input. It is checked as a whole first; a damaged one changes nothing. An import
    that was interrupted is completed by running it again.

    \b
      kv import app.jsonl --url sqlite:///new.db
      gzip -dc app.jsonl.gz | kv import -
    """
    if file is None and sys.stdin.isatty():
        raise click.UsageError("no file; give its name, or pipe it in")
    began = time.monotonic()
    with (
        _hint("run the same command again to complete it, with --resume to skip what is there"),
        progress_bar() as progress,
    ):
        if file is None or file == "-":
            done = transfer.import_file(
                store, sys.stdin.buffer, name="standard input", replace=replace, resume=resume, progress=progress
            )
        else:
            with open(file, "rb", buffering=TRAVEL_BYTES) as opened:
                done = transfer.import_file(store, opened, name=file, replace=replace, resume=resume, progress=progress)
    _tell("imported", done, began)


@click.command()
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@click.option("--replace", is_flag=True, help="Delete what SRC does not have from DST.")
@click.option("--resume", is_flag=True, help="Skip what is there already, with the same value and deadline.")
@click.option("--verify", is_flag=True, help="Compare afterwards; exit with 1 if something differs.")
def copy(source: str, target: str, replace: bool, resume: bool, verify: bool) -> None:
    """Copy all entries from one store to another.

    With their deadlines, and those of the namespaces below. A namespace goes into the URL: ?namespace=NAME.

    \b
      kv copy sqlite:///app.db 'sqlite:///all.db?namespace=app' --verify

    A store in use is moved with --resume --replace: once while it is written to, and again when that has stopped,
    which carries only what has changed since, deletions too. Then --verify, and give the application the new URL.
    """
    source_place, target_place = plain_place(source), plain_place(target)
    if reason := overlap(source_place, target_place):
        raise ConfigError(f"{reason}; nothing was copied")
    began = time.monotonic()
    with source_place.opened(existing=True) as old, target_place.opened() as new:
        again = "run the same command again to complete it, with --resume to skip what is there"
        with _hint(again), progress_bar() as progress:
            done = transfer.copy(old, new, replace=replace, resume=resume, progress=progress)
        _tell("copied", done, began)
        if verify:
            with _hint("everything is copied, and not yet compared"), progress_bar() as progress:
                differences = transfer.differences(old, new, extra=replace, progress=progress)
                shown = list(islice(differences, SHOWN))
                more = sum(1 for _ in differences)
            for difference in shown:
                write_line(difference)
            if shown:
                say(
                    f"kv: different: {counted(len(shown) + more, 'entry')}"
                    + (f", the first {SHOWN} named" if more else "")
                )
            else:
                say("compared: no difference")
            found(not shown)


@contextmanager
def _hint(what: str) -> Iterator[None]:
    """Say after Ctrl-C how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        say(f"kv: interrupted; {what}")
        raise


def _tell(what: str, done: transfer.Moved, began: float) -> None:
    parts = [f"{what} {_rate(done.entries, began)}", f"{done.stored:,} stored"]
    if done.same:
        parts.append(f"{done.same:,} there already")
    parts.append(f"{done.expired:,} skipped as expired")
    parts.append(f"{done.deleted:,} deleted")
    say(", ".join(parts))


def _rate(entries: int, began: float, shown: int | None = None) -> str:
    seconds = max(time.monotonic() - began, 0.001)
    return f"{counted(entries if shown is None else shown, 'entry')} in {seconds:.2f} s ({entries / seconds:,.0f}/s)"


VERBS: list[click.Command] = [export, import_, copy]
