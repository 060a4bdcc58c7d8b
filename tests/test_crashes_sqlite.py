"""Processes that write to a SQLite file and are killed: what they were told is written is there, and nothing by half."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from crashes import Crew, rounds, seeded

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("durability", ["full", "normal"])
def test_writers_that_are_killed_leave_what_they_were_told_is_written(path: Path, durability: str) -> None:
    url = f"sqlite:///{path}?durability={durability}&lock_timeout="
    with seeded() as (seed, chance), Crew(url + "20", seed, [("sync", 1), ("async", 4), ("sync", 2)]) as crew:
        crew.start()
        for _ in rounds(5):
            crew.go_on(2)
            some = chance.sample(["w0", "w1", "w2"], chance.randint(1, 3))
            time.sleep(chance.uniform(0, 0.02))  # no event: at any moment
            crew.kill(*some)
            crew.figures["killed"] += len(some)
            if len(some) < 3:
                crew.check(url + "20", *some)  # while the others go on
            else:
                crew.check(url + "0.001")  # nobody has left a lock
            crew.start(*some)
        crew.go_on(1)
        crew.kill()
        crew.check(url + "0.001")
        crew.report()
