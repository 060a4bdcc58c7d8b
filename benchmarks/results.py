"""What was measured, as a file that reports are made from, and as tables on a terminal."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from rich.box import SIMPLE
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .measuring import Sample

WHERE = Path(__file__).with_name("results") / "workloads.json"
PACKAGES = (
    *("anykv", "asyncpg", "psycopg", "psycopg-pool", "redis", "aiosqlite", "py-key-value-aio", "litestar", "aiocache"),
    *("cashews", "diskcache", "django", "langgraph-checkpoint-postgres", "sqlitedict", "cachetools", "lmdb"),
)


@dataclass
class Record:
    """One subject at one work by so many clients; each list has a number for each round."""

    group: str
    subject: str
    kind: str
    colour: str
    workload: str
    value_bytes: int
    clients: int
    ops_per_s: list[float] = field(default_factory=list)
    p50_us: list[float] = field(default_factory=list)
    p99_us: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    server_cpu_us: list[float] | None = None
    note: str = ""

    def add(self, sample: Sample) -> None:
        """Note a round."""
        self.ops_per_s.append(sample.calls / sample.seconds)
        self.p50_us.append(sample.p50 * 1e6)
        self.p99_us.append(sample.p99 * 1e6)
        self.cpu_us.append(sample.cpu / sample.calls * 1e6)
        if sample.server_cpu is not None:
            self.server_cpu_us = [*(self.server_cpu_us or ()), sample.server_cpu / sample.calls * 1e6]

    def clear(self) -> None:
        """Forget the rounds."""
        self.ops_per_s, self.p50_us, self.p99_us, self.cpu_us, self.server_cpu_us = [], [], [], [], None


def about(settings: dict[str, object]) -> dict[str, object]:
    """Give what one has to know to read the numbers."""
    versions = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions,
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "settings": settings,
    }


def save(about: dict[str, object], records: Iterable[Record]) -> None:
    """Write the file, whole or not at all."""
    WHERE.parent.mkdir(exist_ok=True)
    unfinished = WHERE.with_suffix(".tmp")
    rounded = [
        {
            name: [round(number, 3) for number in value] if isinstance(value, list) else value
            for name, value in asdict(record).items()
        }
        for record in records
    ]
    unfinished.write_text(json.dumps({"about": about, "records": rounded}, indent=1))
    unfinished.replace(WHERE)


def ratio(ours: Record, floor: Record) -> float:
    """Give how many times as long as the floor ours takes: the median of the rounds' own ratios."""
    return median(b / a for a, b in zip(ours.ops_per_s, floor.ops_per_s, strict=False))


def table(group: str, value_bytes: int, clients: tuple[int, ...], records: list[Record]) -> Table:
    """Give a group's numbers: a row for each subject at each work, a column for each number of clients."""
    made = Table(title=f"{group}, values of {value_bytes} bytes", title_justify="left", title_style="bold", box=SIMPLE)
    made.add_column("", no_wrap=True)
    made.add_column("clients:", no_wrap=True)
    for number in clients:
        made.add_column(f"{number}: ops/s", justify="right", no_wrap=True)
        made.add_column("p50/p99 µs", justify="right", no_wrap=True)
        made.add_column("x floor", justify="right", no_wrap=True)
    mine = [record for record in records if (record.group, record.value_bytes) == (group, value_bytes)]
    for workload in dict.fromkeys(record.workload for record in mine):
        done = {(record.subject, record.clients): record for record in mine if record.workload == workload}
        floors = {record.clients: record for record in done.values() if record.kind == "floor" and record.ops_per_s}
        shown = workload
        for subject in dict.fromkeys(subject for subject, _ in done):
            row = [shown, subject]
            shown = ""
            for number in clients:
                row += _cells(done.get((subject, number)), floors.get(number))
            made.add_row(*row)
        made.add_section()
    return made


def _cells(record: Record | None, floor: Record | None) -> tuple[str, str, str]:
    if record is None or not record.ops_per_s:
        return ("—", "", "")
    times = "" if floor is None else f"{ratio(record, floor):.2f}"
    return (
        f"{median(record.ops_per_s):,.0f}{'*' if record.note else ''}",
        f"{_short(median(record.p50_us))}/{_short(median(record.p99_us))}",
        times,
    )


def _short(micros: float) -> str:
    return f"{micros:,.1f}" if micros < 10 else f"{micros:,.0f}"
