"""`import kv` beside the interpreter's own start."""

from __future__ import annotations

import subprocess
import sys
from statistics import median

from .harness import Case, compare, console


def run(*, quick: bool) -> bool:
    """Compare, and give whether the target was met."""

    def python(code: str) -> None:
        subprocess.run([sys.executable, "-I", "-c", code], check=True)

    start = Case("python -c pass", lambda: python("pass"), 1)
    imported = Case("python -c 'import kv'", lambda: python("import kv"), 1)
    store = Case("... and a SQLite store opened", lambda: python("import kv; kv.open('sqlite://')"), 1)
    compare("import", start, imported, store, rounds=7 if quick else 21)
    extra = median(b - a for a, b in zip(start.micros, imported.micros, strict=True)) / 1_000
    met = extra < 30
    console.print(f"import kv: {extra:.1f} ms beyond the interpreter's start; {'met' if met else 'MISSED'}: under 30\n")
    return met
