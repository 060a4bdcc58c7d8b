"""A process that is killed between any two steps of a call leaves the state before it or after it, and no lock."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import stepping
from crashes import SOAK, rounds, seeded
from programs import ROOT, python

if TYPE_CHECKING:
    from pathlib import Path


def killed(function: str, *args: object) -> int:
    """How often the calls of `stepping` were killed."""
    paths = [str(ROOT), str(ROOT / "tests")]
    code = f"import sys; sys.path[:0] = {paths}; import stepping; stepping.{function}(*{args!r})"
    return int(python(code))


UPKEEP = [[name] for name in stepping.UPKEEP]
NAMES = [[name] for name in stepping.CALLS] if SOAK else [["update", "set_many with a ttl", "update_many"]]
"""Of calls, together as long as one process takes."""


def again_and_again(function: str, where: object, points: str, some: int, several: list[list[str]] = NAMES) -> None:
    """At each of the points, or, where that would be too many, at some by chance."""
    with seeded() as (seed, _):
        times = sum(
            killed(function, str(where), points, some, f"{seed} {n}", names) for n in rounds(1) for names in several
        )
        assert times
        print(times, "killed")


@pytest.mark.parametrize(("points", "some"), [("statement", 0), ("instruction", 8), ("byte", 6)])
def test_a_call_to_sqlite(quick_path: Path, points: str, some: int) -> None:
    again_and_again("sqlite_calls", quick_path, points, some * (5 if SOAK else 1))


@pytest.mark.parametrize(("points", "some"), [("statement", 0), ("instruction", 3), ("byte", 12)])
def test_the_upkeep_of_sqlite(quick_path: Path, points: str, some: int) -> None:
    again_and_again("sqlite_calls", quick_path, points, some * (5 if SOAK else 1), UPKEEP)


@pytest.mark.parametrize(("points", "some"), [("message", 0), ("byte", 3)])
def test_a_call_to_postgres(postgres_url: str, points: str, some: int) -> None:
    again_and_again("server_calls", f"{postgres_url}&sslmode=disable", points, some)


@pytest.mark.parametrize(("points", "some"), [("message", 0), ("byte", 3)])
def test_a_call_to_redis(redis_url: str, points: str, some: int) -> None:
    again_and_again("server_calls", redis_url, points, some)
