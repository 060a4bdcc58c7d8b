"""`python -m benchmarks [--quick] [memory] [layers] [sqlite] [postgres] [redis] [import] [anatomy] [crowds] [million] [copy]
[workloads] [growth] [report]`: what is named, or all but the last seven."""

from __future__ import annotations

import platform
import sqlite3
import sys
from importlib.metadata import PackageNotFoundError, version

from . import (
    anatomy,
    copying,
    crowds,
    growth,
    importing,
    layers,
    memory,
    million,
    postgres,
    redis,
    report,
    sqlite,
    workloads,
)
from .harness import console

PARTS = {
    "import": importing.run,
    "memory": memory.run,
    "layers": layers.run,
    "sqlite": sqlite.run,
    "postgres": postgres.run,
    "redis": redis.run,
}
MORE = {
    "anatomy": anatomy.run,
    "crowds": crowds.run,
    "million": million.run,
    "copy": copying.run,
    "workloads": workloads.run,
    "growth": growth.run,
    "report": report.run,
}


def main() -> None:
    """Run the parts; exit 1 where a target is missed."""
    every = {**PARTS, **MORE}
    names = [name for name in sys.argv[1:] if name in every] or list(PARTS)
    versions = [f"Python {platform.python_version()}", f"SQLite {sqlite3.sqlite_version}"]
    for package in ("anykv", "aiosqlite", "asyncpg", "psycopg", "redis", "cachetools", "diskcache"):
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"{package} not installed")
    console.print(", ".join(versions), "\n")
    missed = [name for name in names if not every[name](quick="--quick" in sys.argv)]
    if missed:
        sys.exit(f"missed a target: {', '.join(missed)}")


if __name__ == "__main__":
    main()
