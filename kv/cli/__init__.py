"""The command line `kv`: every verb on any URL."""

from __future__ import annotations

import sys
from importlib.util import find_spec

__all__ = ["main"]


def main() -> None:
    """Run `kv`, and exit: 0 done or found, 1 missing, 2 an error, 130 interrupted."""
    missing = [name for name in ("click", "platformdirs", "rich") if find_spec(name) is None]
    if missing:
        sys.stderr.write(f'kv: the command line needs {", ".join(missing)}: pip install "anykv[cli]"\n')
        sys.exit(2)
    from .app import run

    sys.exit(run(sys.argv[1:]))
