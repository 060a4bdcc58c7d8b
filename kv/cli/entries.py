"""The verbs that work on one entry, or on a few."""

from __future__ import annotations

import math
import os
import re
import sys
from typing import TYPE_CHECKING, TypeAlias

import click

from kv.expiry import KEEP_TTL, TTL, Keep

from .output import found, json_option, write, write_json, write_value
from .where import on_store

if TYPE_CHECKING:
    from kv.store import Store

_UNITS = {"ms": 0.001, "": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_ttl = re.compile(r"(\d+\.?\d*|\.\d+)(ms|s|m|h|d|w)?").fullmatch

Age: TypeAlias = float
"""Seconds; `math.inf` for never."""


def age(text: str) -> Age:
    """Read seconds, a number with a unit, or never."""
    if text == "never":
        return math.inf
    match = _ttl(text)
    if match is None:
        raise click.BadParameter(f"{text!r} is not seconds, nor a time like 500ms 90s 15m 2h 7d 1w, nor never")
    return float(match[1]) * _UNITS[match[2] or ""]


key_argument = click.argument("key")
value_argument = click.argument("value", required=False)
file_option = click.option("--file", metavar="PATH", help="Read the value from this file.")
ttl_option = click.option("--ttl", type=age, metavar="TTL", help="Expire after so long: 90 (seconds), 500ms 15m 2h 7d.")
keep_ttl_option = click.option(
    "--ttl", type=age, metavar="TTL", help="A new deadline: 90 (seconds), 500ms 15m 2h 7d, never; else it is kept."
)


def _value(argument: str | None, path: str | None) -> bytes:
    """Read the value from where the user has put it."""
    if path is not None:
        if argument is not None:
            raise click.UsageError("a value as argument and --file: which one?")
        with open(path, "rb") as file:
            return file.read()
    if argument is not None and argument != "-":
        return os.fsencode(argument)  # the very bytes that the shell has given
    if argument is None and sys.stdin.isatty():
        raise click.UsageError("no value; give it as argument, by --file PATH, or through a pipe")
    return _input()


def _input() -> bytes:
    # a number for a name: it is ours, in place of one that was closed before this process began
    if isinstance(getattr(sys.stdin, "name", None), int):
        raise click.UsageError("no value; the standard input is closed")
    return sys.stdin.buffer.read()


def _show(key: str, value: bytes | None, as_json: bool) -> None:
    if value is not None:
        write_json(key=key, value=value) if as_json else write_value(value)
    found(value is not None)


def _kept(ttl: Age | None) -> TTL | Keep:
    return KEEP_TTL if ttl is None else ttl


@click.command()
@key_argument
@json_option
@on_store
def get(store: Store, key: str, as_json: bool) -> None:
    """Write the value of a key.

    Into a pipe or file it goes byte by byte, with no newline added. Exits with 1 where the key is missing. A key that
    begins with a dash goes after --.

    \b
      kv get logo > logo.png
    """
    _show(key, store.get(key), as_json)


@click.command("set")
@key_argument
@value_argument
@file_option
@ttl_option
@on_store
def set_(store: Store, key: str, value: str | None, file: str | None, ttl: Age | None) -> None:
    """Store a value: argument, file or standard input.

    A value that is - means the standard input too. Without a ttl it never expires, whatever it did before.

    \b
      kv set greeting hello
      kv set session:7 --ttl 15m < session.json
    """
    store.set(key, _value(value, file), ttl=ttl)


@click.command()
@key_argument
@value_argument
@file_option
@ttl_option
@on_store
def add(store: Store, key: str, value: str | None, file: str | None, ttl: Age | None) -> None:
    """Store a value only where the key is missing.

    Of many callers one succeeds. Exits with 1 where the key was there already.

    \b
      kv add lock:backup "$HOSTNAME" --ttl 1h && backup
    """
    found(store.add(key, _value(value, file), ttl=ttl))


@click.command()
@click.argument("keys", nargs=-1, required=True)
@on_store
def delete(store: Store, keys: tuple[str, ...]) -> None:
    """Delete keys.

    Exits with 1 where one of them was missing.

    \b
      kv delete session:7 session:8
    """
    found(store.delete_many(keys) == len(set(keys)))


@click.command()
@key_argument
@json_option
@on_store
def pop(store: Store, key: str, as_json: bool) -> None:
    """Write the value of a key and delete it, in one step.

    Of many callers one gets it. Exits with 1 where the key is missing.

    \b
      kv pop job:12
    """
    _show(key, store.pop(key), as_json)


@click.command("update-from-stdin")
@key_argument
@click.option("--append", is_flag=True, help="Put the input after the value that is there.")
@click.option("--prepend", is_flag=True, help="Put the input before the value that is there.")
@keep_ttl_option
@on_store
def update_from_stdin(store: Store, key: str, append: bool, prepend: bool, ttl: Age | None) -> None:
    """Store the standard input; the deadline is kept.

    With --append or --prepend it is joined to the value that is there, in one atomic step.

    \b
      date | kv update-from-stdin log:starts --append
    """
    if append and prepend:
        raise click.UsageError("--append and --prepend: which one?")
    new = _input()
    if append:
        store.update(key, lambda old: (old or b"") + new, ttl=_kept(ttl))
    elif prepend:
        store.update(key, lambda old: new + (old or b""), ttl=_kept(ttl))
    else:
        store.update(key, lambda _: new, ttl=_kept(ttl))


@click.command()
@key_argument
@json_option
@on_store
def exists(store: Store, key: str, as_json: bool) -> None:
    """Tell by the exit code whether a key is there.

    0 where it is, 1 where it is missing.

    \b
      kv exists greeting && echo there
    """
    there = store.exists(key)
    if as_json:
        write_json(key=key, exists=there)
    found(there)


@click.command()
@key_argument
@json_option
@on_store
def size(store: Store, key: str, as_json: bool) -> None:
    """Write how many bytes a value has.

    Exits with 1 where the key is missing.

    \b
      kv size logo
    """
    count = store.size(key)
    if count is not None:
        write_json(key=key, size=count) if as_json else write(f"{count}\n")
    found(count is not None)


@click.command(context_settings={"ignore_unknown_options": True})  # or -5 were an option
@key_argument
@click.argument("amount", type=int, default=1)
@keep_ttl_option
@click.option("--ttl-if-new", type=age, metavar="TTL", help="A deadline, where this makes the entry.")
@on_store
def increment(store: Store, key: str, amount: int, ttl: Age | None, ttl_if_new: Age | None) -> None:
    """Add to a number, and write the sum.

    A missing key counts as 0; the amount is 1 if there is none, and may be negative.

    \b
      kv increment visits
      kv increment stock:apples -5
      kv increment tries:10.0.0.1 --ttl-if-new 1m
    """
    write(f"{store.increment(key, amount, ttl=_kept(ttl), ttl_if_new=ttl_if_new)}\n")


@click.command()
@key_argument
@json_option
@on_store
def ttl(store: Store, key: str, as_json: bool) -> None:
    """Write how many seconds a key has left, or never.

    In JSON, null is never. Exits with 1 where the key is missing.

    \b
      kv ttl session:7
    """
    left = store.ttl(key)
    if left is not None:
        if as_json:
            write_json(key=key, ttl=None if left == math.inf else round(left, 3))
        else:
            write("never\n" if left == math.inf else f"{left:.3f}\n")
    found(left is not None)


@click.command()
@key_argument
@click.argument("ttl", type=age)
@on_store
def expire(store: Store, key: str, ttl: Age) -> None:
    """Give a key a new deadline.

    TTL is in seconds, or like 500ms 90s 15m 2h 7d. Exits with 1 where the key is missing.

    \b
      kv expire session:7 30m
    """
    found(store.expire(key, ttl))


@click.command()
@key_argument
@on_store
def persist(store: Store, key: str) -> None:
    """Take the deadline from a key, so that it never expires.

    Exits with 1 where the key is missing, or had no deadline.

    \b
      kv persist session:7
    """
    found(store.persist(key))


VERBS: list[click.Command] = [get, set_, add, delete, pop, update_from_stdin, exists, size]
VERBS_OF_TIME: list[click.Command] = [increment, ttl, expire, persist]
