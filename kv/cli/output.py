"""What the verbs write: bytes as they are into a pipe, readable text on a terminal, JSON lines where asked."""

from __future__ import annotations

import json
import re
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from kv.lines import encode_value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from kv.transfer import Progress

json_option = click.option("--json", "as_json", is_flag=True, help="Write JSON lines, for programs.")

# control characters, and those that change how the rest of the line is drawn
_unreadable = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_not_in_a_line = re.compile(f"{_unreadable.pattern[:-1]}\t\n\\\\]")
_SHORT = {"\t": "\\t", "\n": "\\n", "\r": "\\r", "\\": "\\\\"}


def _escape(match: re.Match[str]) -> str:
    char = match[0]
    return _SHORT.get(char) or (f"\\x{ord(char):02x}" if char < "\x80" else f"\\u{ord(char):04x}")


def readable(value: bytes) -> str:
    """Give text for a terminal: what is not UTF-8, and control characters but tab and newline, escaped."""
    return _unreadable.sub(_escape, value.decode(errors="backslashreplace"))


def one_line(value: bytes) -> str:
    """Give text in one line, from which the bytes can be had again: tab, newline and backslash are escaped too."""
    try:
        return _not_in_a_line.sub(_escape, value.decode())
    except UnicodeDecodeError:
        text = value.decode(errors="surrogateescape")
        return re.sub("[\udc80-\udcff]", lambda m: f"\\x{ord(m[0]) - 0xDC00:02x}", _not_in_a_line.sub(_escape, text))


def write(data: bytes | str) -> None:
    """Write to the standard output; text as UTF-8, whatever the locale."""
    # an argument that is not UTF-8, like a path, comes out as the bytes that it was
    sys.stdout.buffer.write(data.encode(errors="surrogateescape") if isinstance(data, str) else data)


def write_value(value: bytes) -> None:
    """Write a value: as it is, or readably on a terminal."""
    if sys.stdout.isatty():
        text = readable(value)
        write(text if text.endswith("\n") else text + "\n")
    else:
        write(value)


def write_line(text: str) -> None:
    """Write a key or another line; on a terminal, one that cannot play tricks on it."""
    write((readable(text.encode()) if sys.stdout.isatty() else text) + "\n")


def write_json(**fields: object) -> None:
    """Write one JSON line; bytes under `value` become `value` or `base64`."""
    value = fields.get("value")
    if isinstance(value, bytes):
        name, text = encode_value(value)
        fields = {name if k == "value" else k: text if k == "value" else v for k, v in fields.items()}
    write(json.dumps(fields, ensure_ascii=False) + "\n")


def say(text: str) -> None:
    """Write a line for the user to the standard error."""
    sys.stderr.write(text + "\n")


def counted(number: int, noun: str) -> str:
    """Give a number of things: 1 key, 2 keys, 0 entries."""
    many = f"{noun[:-1]}ies" if noun.endswith("y") and noun != "key" else f"{noun}s"
    return f"{number:,} {noun if number == 1 else many}"


def found(is_found: object) -> None:
    """Exit with 1, as grep does, where nothing was found."""
    if not is_found:
        raise click.exceptions.Exit(1)


@contextmanager
def progress_bar(*, wanted: bool = True) -> Iterator[Progress | None]:
    """Show how far long work is, on the standard error, if that is a terminal."""
    if not wanted or not sys.stderr.isatty():
        yield None
        return
    from rich import progress

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.TimeElapsedColumn(),
    )
    with progress.Progress(*columns, console=_console(), transient=True) as bars:
        tasks: dict[str, progress.TaskID] = {}

        def advance(step: str, done: int, total: int | None) -> None:
            if step not in tasks:
                for task in tasks.values():
                    bars.update(task, visible=False)
                tasks[step] = bars.add_task(step, total=total)
            bars.advance(tasks[step], done)

        yield advance


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show that something goes on whose length is not known, if the standard error is a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    with _console().status(what):
        yield


def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True)
