"""Times things beside each other: round by round in turn, so that a slow moment of the machine hits all of them."""

from __future__ import annotations

import gc
import statistics
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable

console = Console(width=120)


@dataclass
class Case:
    """One row: does `number` operations a call."""

    name: str
    run: Callable[[], object]
    number: int
    most: float | None = None
    """The target: at most this many times the floor."""
    least: float | None = None
    """The target: at least this many times as fast as the floor."""
    micros: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Microseconds for one operation."""
        return statistics.median(self.micros)


def compare(title: str, floor: Case, *cases: Case, rounds: int) -> bool:
    """Run every case in every round, print a table, and give whether every target was met.

    The ratio is the median of the rounds' own ratios to the floor, each taken from two neighbours in time.
    """
    every = [floor, *cases]
    for case in every:  # a warm-up, not counted
        case.run()
    gc.collect()
    gc.disable()
    for number in range(rounds):
        for case in every if number % 2 else reversed(every):
            start = perf_counter()
            case.run()
            case.micros.append((perf_counter() - start) / case.number * 1e6)
    gc.enable()
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in ("", "µs/op", "min-max", "operations/s", "x floor", "target"):
        table.add_column(column, justify="left" if column == "" else "right", no_wrap=True)
    met = True
    for case in every:
        ratio = statistics.median(a / b for a, b in zip(case.micros, floor.micros, strict=True))
        target = ""
        if case.most is not None:
            good = ratio <= case.most
            target = f"{'met' if good else 'MISSED'}: at most {case.most:g}"
            met = met and good
        elif case.least is not None:
            good = 1 / ratio >= case.least
            target = f"{'met' if good else 'MISSED'}: {1 / ratio:.1f} times as fast, at least {case.least:g}"
            met = met and good
        table.add_row(
            case.name,
            f"{case.median:,.2f}",
            f"{min(case.micros):,.2f}-{max(case.micros):,.2f}",
            f"{1e6 / case.median:,.0f}",
            "1" if case is floor else f"{ratio:.2f}",
            target,
        )
    console.print(table)
    return met
