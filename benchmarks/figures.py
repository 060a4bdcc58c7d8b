"""What `report` reads: the results of the other benchmarks, as they wrote them, and how they compare. Pure, but for `load`."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

FOLDER = Path(__file__).parent / "results"
YCSB = ("A", "B", "C", "D", "E", "F")
SHOWN = ("get", "set", "A")
OURS, FLOOR, PEER = "ours", "floor", "peer"


@dataclass(frozen=True)
class Run:
    """One subject at one workload, with so many clients: a figure for each round."""

    group: str
    """The stores that are compared with each other, like "postgres async"."""
    subject: str
    kind: str
    """"ours", "floor" (the bare driver) or "peer"."""
    colour: str
    workload: str
    value_bytes: int
    clients: int
    ops_per_s: list[float]
    p50_us: list[float]
    p99_us: list[float]
    cpu_us: list[float]
    """Of the client, for one operation."""
    server_cpu_us: list[float] | None = None
    note: str = ""


@dataclass(frozen=True)
class Grown:
    """One operation on a store of so many entries: microseconds for each round."""

    subject: str
    entries: int
    operation: str
    micros: list[float]


@dataclass(frozen=True)
class Footprint:
    """What an entry takes in one place."""

    group: str
    kind: str
    subject: str
    what: str
    """"memory" or "disk"."""
    entries: int
    bytes_per_entry: float


@dataclass(frozen=True)
class Results:
    """All there is."""

    about: dict[str, dict[str, Any]]
    """By "workloads" and "growth": date, versions and settings."""
    runs: list[Run]
    growth: list[Grown]
    footprint: list[Footprint]

    @property
    def groups(self) -> list[str]:
        """Every group, in the order in which they ran."""
        return unique(run.group for run in self.runs)

    @property
    def crowd(self) -> int:
        """The greatest number of clients."""
        return max((run.clients for run in self.runs), default=1)

    def of(
        self, group: str, workload: str | None = None, clients: int | None = None, value_bytes: int | None = None
    ) -> list[Run]:
        """Give the runs of a group, ours first, then the floor, then peers; with the smallest values, if no size is given."""
        found = [
            run
            for run in self.runs
            if run.group == group and workload in (None, run.workload) and clients in (None, run.clients)
        ]
        size = value_bytes or min((run.value_bytes for run in found), default=0)
        return sorted((run for run in found if run.value_bytes == size), key=rank)

    def pair(self, group: str, workload: str, clients: int) -> tuple[Run, Run] | None:
        """Give ours and the floor, where there are both; of several of ours the first."""
        first: dict[str, Run] = {}
        for run in self.of(group, workload, clients):
            first.setdefault(run.kind, run)
        return (first[OURS], first[FLOOR]) if OURS in first and FLOOR in first else None

    @property
    def shown(self) -> list[str]:
        """The workloads that stand for all."""
        ran = unique(run.workload for run in self.runs)
        return [workload for workload in SHOWN if workload in ran] or ran[:1]

    def grown(self, subject: str, operation: str) -> dict[int, list[float]]:
        """Give microseconds by the number of entries."""
        return {it.entries: it.micros for it in self.growth if (it.subject, it.operation) == (subject, operation)}

    def growing(self, subject: str, operation: str) -> float:
        """Give how many times as long it takes with the most entries as with the fewest."""
        by_size = self.grown(subject, operation)
        return ratio(by_size[max(by_size)], by_size[min(by_size)])


def rank(run: Run) -> int:
    """Ours, the floor, peers."""
    return (OURS, FLOOR, PEER).index(run.kind)


def unique(names: Iterable[str]) -> list[str]:
    """Each once, in the order of their first appearance."""
    return [*dict.fromkeys(names)]


def ratio(ours: Sequence[float], others: Sequence[float]) -> float:
    """How many times the others ours is: by rounds, where they ran in the same ones, as a slow moment hits both."""
    if len(ours) == len(others):
        return statistics.median(a / b for a, b in zip(ours, others, strict=True))
    return statistics.median(ours) / statistics.median(others)


def load() -> Results:
    """Read what is there."""
    workloads, growth = _read("workloads"), _read("growth")
    return Results(
        {name: read["about"] for name, read in (("workloads", workloads), ("growth", growth)) if read},
        [_made(Run, record) for record in workloads.get("records", ()) if record["ops_per_s"]],
        [_made(Grown, record) for record in growth.get("records", ())],
        [_made(Footprint, record) for record in growth.get("footprint", ())],
    )


def anatomy() -> dict[str, dict[str, float]]:
    """Read what `anatomy` has measured: of each store, the microseconds of each piece of a get."""
    return _read("anatomy")


def _read(name: str) -> dict[str, Any]:
    path = FOLDER / f"{name}.json"
    read: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return read


def _made(kind: Any, record: dict[str, Any]) -> Any:
    known = {field.name for field in fields(kind)}
    return kind(**{name: value for name, value in record.items() if name in known})
