"""`python -m benchmarks [--quick] [memory] [sqlite] [postgres] [import]`: everything, or what is named."""

from __future__ import annotations

import platform
import sqlite3
import sys
from importlib.metadata import PackageNotFoundError, version

from . import importing, memory, postgres, sqlite
from .harness import console

PARTS = {"import": importing.run, "memory": memory.run, "sqlite": sqlite.run, "postgres": postgres.run}


def main() -> None:
    """Run the parts; exit 1 where a target is missed."""
    names = [name for name in sys.argv[1:] if name in PARTS] or list(PARTS)
    versions = [f"Python {platform.python_version()}", f"SQLite {sqlite3.sqlite_version}"]
    for package in ("anykv", "aiosqlite", "asyncpg", "psycopg", "cachetools", "diskcache"):
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"{package} not installed")
    console.print(", ".join(versions), "\n")
    missed = [name for name in names if not PARTS[name](quick="--quick" in sys.argv)]
    if missed:
        sys.exit(f"missed a target: {', '.join(missed)}")


if __name__ == "__main__":
    main()
