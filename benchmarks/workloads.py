"""YCSB's workloads A to F, and the operations one by one, at 1 to 64 clients: every store beside its floor and its peers.

`--quick` takes a minute or two, without it some ten minutes; `--only=postgres` runs the groups whose name begins so.
All of a group take turns in every round, in the other order each second one, so that a slow moment hits all of them.
What a call takes includes the loop that makes it and reads the clock, about 0.1 µs, which dilutes the ratios of memory.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
from rich.progress import Progress

from . import floors, results
from .harness import console
from .measuring import Tasks, Threads, measure
from .results import Record
from .subjects import GROUPS, Group, Place, Subject
from .ycsb import SINGLE, YCSB, ZIPFIAN, Client, Data, Workload

sys.path.append(str(Path(__file__).parents[1] / "tests"))

if TYPE_CHECKING:
    from .measuring import Calls, Clients, Sample
    from .ycsb import Step

POSTGRES = {"fsync": "on", "full_page_writes": "on", "shared_buffers": "256MB", "max_wal_size": "4GB"}


class Plan(NamedTuple):
    """How much is measured."""

    entries: int
    clients: tuple[int, ...]
    rounds: int
    seconds: float
    """Of one run, as the warm-up foretells it."""
    works: tuple[tuple[int, tuple[Workload, ...]], ...]
    """The sizes of values, and what is done with each."""


QUICK = Plan(1_000, (1, 64), 2, 0.02, ((128, tuple(w for w in YCSB if w.name in "ACF")),))
FULL = Plan(10_000, (1, 8, 64), 5, 0.03, ((128, (*SINGLE, *YCSB)), (1_024, tuple(w for w in YCSB if w.name in "ACE"))))
MOST_CALLS = 20_000
"""Of one run: the steps are in memory before it begins."""


class Entrant(NamedTuple):
    """A subject that is open."""

    subject: Subject
    calls: Calls


@dataclass
class Running:
    """One that takes part."""

    calls: Calls
    record: Record
    steps: int
    """Of each client in a run."""
    rounds: int = 0

    def run(self, clients: Clients, work: list[list[Step]], pid: int | None) -> Sample | None:
        """Run once; a peer that fails is out, and its record says why."""
        try:
            return measure(clients, self.calls, work, pid)
        except Exception as e:
            if self.record.kind != "peer":
                raise
            self.record.note = f"failed: {type(e).__name__}: {e}"[:200]
            self.record.clear()
            self.rounds = 0
            return None


def run(*, quick: bool) -> bool:
    """Measure, print, and write the file. There are no targets."""
    plan = QUICK if quick else FULL
    only = tuple(arg.removeprefix("--only=") for arg in sys.argv if arg.startswith("--only="))
    groups = [group for group in GROUPS if not only or group.name.startswith(only)]
    for module in sorted({s.needs for group in groups for s in group.subjects if not s.installed}):
        console.print(f"{module} is not installed, and is left out; see the extra peers in pyproject.toml")
    settings: dict[str, object] = {
        "entries": plan.entries,
        "rounds": plan.rounds,
        "seconds of a run": plan.seconds,
        "pool": floors.POOL,
        "zipfian": ZIPFIAN,
        "postgres": POSTGRES,
        "redis": "as it comes, nothing saved",
        "quick": quick,
    }
    about = results.about(settings)
    records: list[Record] = []
    for group in groups:
        mine = measured(group, plan)
        records += mine
        results.save(about, records)  # after each group, as it is long until the last one
        for value_bytes, _ in plan.works:
            console.print(results.table(group.name, value_bytes, plan.clients, mine))
        for subject, note in sorted({(record.subject, record.note) for record in mine if record.note}):
            console.print(f"  * {subject}: {note}")
    console.print(f"written: {results.WHERE}")
    return True


def measured(group: Group, plan: Plan) -> list[Record]:
    """Open all of a group, and let them work in turn."""
    records: list[Record] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url, pid = _server(group.backend, stack)
        clients = stack.enter_context(_clients(group.colour))
        entrants = []
        for number, subject in enumerate(s for s in group.subjects if s.installed):
            # SCAN goes through a whole database of Redis, so each has its own
            own = f"{url.rsplit('/', 1)[0]}/{number}" if group.backend == "redis" else url
            opened = subject.open(Place(folder, own, pid, group.durability))
            entrants.append(Entrant(subject, clients.enter(opened)))
            stack.callback(clients.leave, opened)
        total = sum(len(works) for _, works in plan.works) * len(plan.clients)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task(group.name, total=total)
            for value_bytes, works in plan.works:
                data = Data(plan.entries, value_bytes)
                for _, calls in entrants:
                    load(clients, calls, data)
                if group.backend == "postgres":
                    with psycopg.connect(url, autocommit=True) as connection:
                        connection.execute("VACUUM ANALYZE")  # which the server does by itself within a minute or so
                for workload in works:
                    for number in plan.clients:
                        about = (group, workload, data, value_bytes, number)
                        records += cell(clients, entrants, about, plan, pid)
                        progress.advance(task)
    return records


def _clients(colour: str) -> Clients:
    return Threads() if colour == "sync" else Tasks()


def _server(backend: str, stack: ExitStack) -> tuple[str, int | None]:
    """Start the server of a backend, if it has one."""
    import servers

    if backend not in ("postgres", "redis"):
        return "", None
    server: Any = (
        servers.own_postgres(max_connections="300", **POSTGRES) if backend == "postgres" else servers.own_redis()
    )
    stack.callback(server.close)
    return server.url, server.process.pid


def load(clients: Clients, calls: Calls, data: Data) -> None:
    """Store the entries."""
    for begin in range(0, data.entries, 1_000):
        keys = data.keys[begin : begin + 1_000]
        items = {key: data.values[number % len(data.values)] for number, key in enumerate(keys, begin)}
        if "set_many" in calls:
            clients.call(calls["set_many"], items)
        else:
            clients.run([[(calls["set"], item) for item in items.items()]])


SLOW = 0.5
"""Seconds: one whose shortest run takes longer takes part in the first round only."""


def cell(
    clients: Clients,
    entrants: list[Entrant],
    about: tuple[Group, Workload, Data, int, int],
    plan: Plan,
    pid: int | None,
) -> list[Record]:
    """Measure one work at one number of clients."""
    group, workload, data, value_bytes, number = about
    least, most = max(1, 10 // number), max(1, MOST_CALLS // workload.entries // number)
    running: list[Running] = []
    for subject, calls in entrants:
        if not all(name in calls for name in workload.needs):
            continue
        note = "; ".join(filter(None, (subject.notes.get(""), subject.notes.get(workload.name))))
        named = (group.name, subject.name, subject.kind, group.colour, workload.name, value_bytes, number)
        one = Running(calls, Record(*named, note=note), least)
        cold = True  # the first run opens connections and fills caches, and says nothing
        while True:  # until it is long enough to say how many steps fill the time
            warm = one.run(clients, [workload.steps(Client(data, i, 0), one.steps) for i in range(number)], pid)
            if warm is None or warm.seconds > (SLOW if cold else plan.seconds / 3) or one.steps >= most:
                break
            one.steps = one.steps if cold else min(most, one.steps * 3)
            cold = False
        if warm is not None:
            fits = int(one.steps * plan.seconds / warm.seconds)
            one.steps, one.rounds = max(least, min(most, fits)), 1 if warm.seconds > SLOW else plan.rounds
        running.append(one)
    for turn in range(1, plan.rounds + 1):
        longest = max((one.steps for one in running), default=0)
        work = [workload.steps(Client(data, client, turn), longest) for client in range(number)]
        for one in running if turn % 2 else reversed(running):
            if turn <= one.rounds and (sample := one.run(clients, [steps[: one.steps] for steps in work], pid)):
                one.record.add(sample)
    return [one.record for one in running]
