"""Fuzzing led by what code is reached, with atheris: `python tests/fuzz.py [TARGET [OPTION OF libFuzzer]...]`.

Without a target each runs for `FUZZ_SECONDS` seconds, 60 by default. What it finds is a file `crash-...`, which
`python tests/fuzz.py TARGET crash-...` shows again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import atheris

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # these are the sources that are fuzzed

with atheris.instrument_imports(include=["kv"], enable_loader_override=False):
    from fuzzing import TARGETS


def one(name: str, options: list[str]) -> None:
    """Fuzz one target; does not come back."""
    function, seeds = TARGETS[name]
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(seeds):
            Path(corpus, str(number)).write_bytes(seed)
        atheris.Setup([name, *([] if any(Path(o).is_file() for o in options) else [corpus]), *options], function)
        atheris.Fuzz()


def every(seconds: str) -> int:
    """Fuzz each target, one after the other. Gives how many failed."""
    failed = []
    for name in TARGETS:
        print(f"== {name}", flush=True)
        options = [
            f"-max_total_time={seconds}",
            "-timeout=60",
            "-rss_limit_mb=4096",
            "-verbosity=0",
            "-print_final_stats=1",
        ]
        if subprocess.run([sys.executable, __file__, name, *options], check=False).returncode:
            failed.append(name)
    print(f"failed: {', '.join(failed) or 'none'}")
    return len(failed)


if len(sys.argv) > 1:
    one(sys.argv[1], sys.argv[2:])
else:
    sys.exit(every(os.environ.get("FUZZ_SECONDS", "60")))
