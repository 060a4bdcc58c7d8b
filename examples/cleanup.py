"""Remove expired entries from several stores, by cron; it says something only when something is wrong.

    MAILTO=ops@example.org
    */10 * * * * /srv/app/.venv/bin/python /srv/app/cleanup.py sqlite:////var/lib/app.db postgresql://kv@db/app

Expired entries are invisible anyway; this gives their space back. For a single store, `kv cleanup URL` is enough.
Each store gets so many seconds, and the time for the batch at hand, whatever has piled up; and the others get their
turn, whatever is wrong with one. It may run beside itself and beside the application. One line on the standard error for each store that has
something wrong, which cron mails; then the exit code is 1. A password does not belong in a command line, which all
users of a machine can read: leave it to ~/.pgpass, or give the URL as KV_URL and none as argument.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

import kv
from kv import url as urls

if TYPE_CHECKING:
    from collections.abc import Callable

BATCH = 5_000
"""How many go between two looks at the clock."""


class Done(NamedTuple):
    """What became of a store."""

    removed: int
    finished: bool
    """Whether it met an end of what had expired."""


def clean(
    store: kv.Store, *, seconds: float, limit: int | None = None, clock: Callable[[], float] = time.monotonic
) -> Done:
    """Remove expired entries, for so many seconds and up to a limit. Each batch is done or not, so it may be killed."""
    removed, end = 0, clock() + seconds
    while limit is None or removed < limit:
        batch = BATCH if limit is None else min(BATCH, limit - removed)
        count = store.cleanup(limit=batch)
        removed += count
        if count < batch:
            return Done(removed, finished=True)
        if clock() >= end:
            break
    return Done(removed, finished=False)


def opened(url: str) -> kv.Store:
    """Open a store that is there: of a mistyped path no new one is made, and cleaned in vain for ever."""
    if not url:
        return kv.open()  # which says what is missing
    scheme, _, path = url.partition("?")[0].partition(":///")
    if scheme.lower() == "sqlite" and path and not os.path.exists(urls.unquoted_path(path)):
        raise kv.ConfigError("there is no such file")
    return kv.open(url, **({"create": False} if urls.knows(url, "create") else {}))


def positive(text: str) -> int:
    """Read a number of the command line."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


def main() -> int:
    """Run the command line. Gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("urls", nargs="*", metavar="URL", help="a store; without any, KV_URL")
    parser.add_argument("--seconds", type=positive, default=60, help="how long for each store (default: 60)")
    parser.add_argument("--limit", type=positive, help="at most so many entries of each store")
    parser.add_argument("--verbose", action="store_true", help="say how many, also when all is well")
    args = parser.parse_args()
    wrong = 0
    for url in args.urls or [os.environ.get("KV_URL", "")]:
        shown = urls.hide(url) if args.urls else "KV_URL"
        try:
            with opened(url) as store:
                done = clean(store, seconds=args.seconds, limit=args.limit)
        except kv.KVError as e:
            wrong += 1
            print(f"{shown}: {e}", file=sys.stderr)
            continue
        if not done.finished:
            wrong += 1
            print(f"{shown}: removed {done.removed:,}, and more may have expired; run it more often", file=sys.stderr)
        elif args.verbose:
            print(f"{shown}: removed {done.removed:,}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
