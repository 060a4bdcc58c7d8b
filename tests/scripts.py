"""Runs what is in `examples/`, as a user does, and loads it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

EXAMPLES = Path(__file__).parents[1] / "examples"


class Said(NamedTuple):
    code: int
    out: str
    err: str


def command(name: str, *args: object) -> list[str]:
    return [sys.executable, "-W", "error", str(EXAMPLES / name), *map(str, args)]


def example(name: str, *args: object, **env: str) -> Said:
    """Run it as a program of its own, with every warning an error."""
    given = {**{k: v for k, v in os.environ.items() if k != "KV_URL"}, **env}
    done = subprocess.run(command(name, *args), capture_output=True, text=True, timeout=120, check=False, env=given)
    assert "Traceback" not in done.stderr, done.stderr
    return Said(done.returncode, done.stdout, done.stderr)


def loaded(name: str) -> Any:
    """Import it."""
    spec = importlib.util.spec_from_file_location(name.removesuffix(".py"), EXAMPLES / name)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
