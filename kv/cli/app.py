"""The program: its verbs by theme, and what comes of an error."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper

import click

from kv import __version__
from kv.errors import KVError

from . import entries, listing, moving, upkeep
from .output import say
from .where import url_options

SECTIONS = {
    "Entries": entries.VERBS,
    "Counters and deadlines": entries.VERBS_OF_TIME,
    "Listing": listing.VERBS,
    "Moving": moving.VERBS,
    "Upkeep": upkeep.VERBS,
}


class Program(click.Group):
    """A group that lists its verbs by theme."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        width = max(map(len, self.commands))
        for title, verbs in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([((verb.name or "").ljust(width), verb.get_short_help_str(60)) for verb in verbs])


def run(args: list[str]) -> int:
    """Run a command line. Gives the exit code."""
    sys.stdin, sys.stdout, sys.stderr = (
        sys.stdin or _nothing("r"),
        sys.stdout or _nothing("w"),
        sys.stderr or _nothing("w"),
    )
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a character that the terminal has not is no error
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # an answer that is no text is not yes
    if instruction := os.environ.get("_KV_COMPLETE"):
        from click.shell_completion import shell_complete

        return shell_complete(kv, {}, "kv", "_KV_COMPLETE", instruction)
    code = 0
    try:
        try:
            with kv.make_context("kv", args) as ctx:
                kv.invoke(ctx)
        except click.exceptions.Exit as e:
            code = e.exit_code
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        code = 141  # as of a program that SIGPIPE has ended
    except (KVError, OSError, click.ClickException) as e:
        say(f"kv: {_message(e)}")
        code = 2
    try:
        sys.stdout.flush()
    except OSError:  # or the end of the interpreter would try again, and complain
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 1)
    return code


def _nothing(mode: str) -> TextIOWrapper:
    """Give a stream for one that was closed before this process began."""
    stream = open(os.open(os.devnull, os.O_RDWR), mode, closefd=False)  # noqa: SIM115 - it stays open
    assert isinstance(stream, TextIOWrapper)
    return stream


def _message(error: KVError | OSError | click.ClickException) -> str:
    """Say it in one line."""
    if isinstance(error, click.UsageError):
        path = error.ctx.command_path if error.ctx else "kv"
        text = f"{error.format_message().rstrip('.')}; see {path} --help"
    elif isinstance(error, click.ClickException):
        text = error.format_message()
    elif isinstance(error, OSError) and error.strerror:
        text = error.strerror + (f": {os.fsdecode(error.filename)}" if isinstance(error.filename, str | bytes) else "")
    else:
        text = str(error) or type(error).__name__
    return " ".join(text.splitlines())


@click.group(
    "kv",
    cls=Program,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Exit codes: 0 found or done, 1 missing, 2 an error. A key that begins with a dash goes after --",
)
@url_options
@click.version_option(__version__, message="anykv %(version)s")
@click.pass_context
def kv(ctx: click.Context, url: str | None, namespace: tuple[str, ...]) -> None:
    """Keep bytes under keys: in a file, in a server, in memory.

    \b
    The store is named by --url, else by the environment variable KV_URL, else it
    is a SQLite file in your data folder:
      kv set greeting hello
      kv get greeting
      kv --url sqlite:///app.db --namespace users scan
    """
    ctx.obj = (url, namespace)
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


for _verbs in SECTIONS.values():
    for _verb in _verbs:
        kv.add_command(_verb)
