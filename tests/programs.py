"""Runs a piece of Python in a process of its own, as a user's program is run."""

import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[1]


def python(code: str, *args: object, wrapper: tuple[str, ...] = ()) -> str:
    """Run it with every warning an error; give what it printed, and fail on any word on stderr."""
    command = [
        *wrapper,
        sys.executable,
        "-X",
        "faulthandler",
        "-W",
        "error",
        "-c",
        textwrap.dedent(code),
        *map(str, args),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout
