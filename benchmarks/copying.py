"""A million entries from each backend to the next by `kv copy --verify`: seconds, and the most memory that it took."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.table import Table

import kv

from .harness import console

sys.path.append(str(Path(__file__).parents[1] / "tests"))

ENTRIES = 1_000_000
PROGRAM = """
import atexit, kv.cli, sys
def peak():     # not getrusage, which begins with what the parent had
    lines = open("/proc/self/status").read().splitlines()
    print(next(line.split()[1] for line in lines if line.startswith("VmHWM")), file=sys.stderr)
atexit.register(peak)
kv.cli.main()
"""
"""`kv`, which says in the end how many kilobytes it took at most."""


def run(*, quick: bool) -> bool:
    """Copy, and give whether nothing differed."""
    import servers

    entries = ENTRIES // 10 if quick else ENTRIES
    table = Table(title=f"kv copy --verify of {entries:,} entries of 128 bytes, a quarter of them with a deadline")
    for column in ("from", "to", "copied", "a second", "compared", "most memory"):
        table.add_column(column, justify="left" if column in ("from", "to") else "right")
    postgres, redis, cluster = servers.own_postgres(max_wal_size="4GB"), servers.own_redis(), servers.redis_cluster()
    met = True
    try:
        with tempfile.TemporaryDirectory() as folder:
            first = f"sqlite:///{folder}/first.db?durability=normal"
            fill(first, entries)
            stores = {
                "sqlite": first,
                "redis": redis.url,
                "redis cluster": cluster.url,
                "postgres": postgres.url,
                "sqlite again": f"sqlite:///{folder}/last.db?durability=normal",
            }
            for (source, here), (target, there) in zip([*stores.items()][:-1], [*stores.items()][1:], strict=True):
                copied, compared, memory, good = copy(here, there)
                met &= good
                table.add_row(
                    source,
                    target,
                    f"{copied:.1f} s",
                    f"{entries / copied:,.0f}",
                    f"{compared:.1f} s" if good else "DIFFERENT",
                    f"{memory:,.0f} MB",
                )
    finally:
        for server in (postgres, redis, cluster):
            server.close()
    console.print(table)
    return met


def fill(url: str, entries: int) -> None:
    """Store the entries."""
    with kv.open(url) as store:
        for begin in range(0, entries, 10_000):
            names = [f"user:{n:07}:profile" for n in range(begin, begin + 10_000)]
            store.set_many((name, os.urandom(128)) for name in names)
            store.set_many(((name, os.urandom(128)) for name in names[::4]), ttl=86_400)


def copy(source: str, target: str) -> tuple[float, float, float, bool]:
    """Give the seconds of copying and of comparing, the most megabytes, and whether nothing differed."""
    command = [sys.executable, "-c", PROGRAM, "copy", source, target, "--verify"]
    began = time.monotonic()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    said = []
    at: list[float] = []
    for line in process.stderr:
        said.append(line)
        at.append(time.monotonic() - began)
    good = process.wait() == 0
    console.print(*said[:-1], sep="", end="", highlight=False)
    return at[0], at[-1] - at[0], int(said[-1]) / 1024, good
