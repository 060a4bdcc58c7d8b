"""YCSB's workloads A to F, and the operations one by one, at 1 to 64 clients: every store beside its floor and its peers.

`--quick` takes a minute or two, without it some ten minutes; `--only=postgres` runs the groups whose name begins so.
All of a group take turns in every round, in the other order each second one, so that a slow moment hits all of them.
What a call takes includes the loop that makes it and reads the clock, about 0.1 µs, which dilutes the ratios of memory.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.progress import Progress

from . import results
from .harness import console
from .measuring import Tasks, Threads, measure
from .results import Record
from .subjects import GROUPS, Group, Place, Subject
from .ycsb import SINGLE, YCSB, ZIPFIAN, Client, Data, Workload

sys.path.append(str(Path(__file__).parents[1] / "tests"))

if TYPE_CHECKING:
    from .measuring import Calls, Clients, Sample

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
FULL = Plan(10_000, (1, 8, 64), 3, 0.04, ((128, (*SINGLE, *YCSB)), (1_024, tuple(w for w in YCSB if w.name in "ACE"))))
MOST_CALLS = 60_000
"""Of one run: the steps are in memory before it begins."""


class Entrant(NamedTuple):
    """A subject that is open."""

    subject: Subject
    calls: Calls


def run(*, quick: bool) -> bool:
    """Measure, print, and write the file. There are no targets."""
    plan = QUICK if quick else FULL
    only = tuple(arg.removeprefix("--only=") for arg in sys.argv if arg.startswith("--only="))
    groups = [group for group in GROUPS if not only or group.name.startswith(only)]
    for module in sorted({s.needs for group in groups for s in group.subjects if not s.installed}):
        console.print(f"{module} is not installed, and is left out; see the extra peers in pyproject.toml")
    settings = {
        **{"entries": plan.entries, "rounds": plan.rounds, "seconds": plan.seconds, "pool": 10, "zipfian": ZIPFIAN},
        **{"postgres": POSTGRES, "redis": "no persistence", "quick": quick},
    }
    about = results.about(**settings)
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
    colour: type[Clients] = Threads if group.colour == "sync" else Tasks
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url, pid = _server(group.backend, stack)
        clients = stack.enter_context(colour())
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
                for workload in works:
                    for number in plan.clients:
                        about = (group, workload, data, value_bytes, number)
                        records += cell(clients, entrants, about, plan, pid)
                        progress.advance(task)
    return records


def _server(backend: str, stack: ExitStack) -> tuple[str, int | None]:
    """Start the server of a backend, if it has one."""
    import servers

    if backend not in ("postgres", "redis"):
        return "", None
    server: Any = servers.own_postgres(max_connections="300", **POSTGRES) if backend == "postgres" else servers.own_redis()
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


def cell(
    clients: Clients, entrants: list[Entrant], about: tuple[Group, Workload, Data, int, int], plan: Plan, pid: int | None
) -> list[Record]:
    """Measure one work at one number of clients."""
    group, workload, data, value_bytes, number = about
    records: dict[str, Record] = {}
    each: dict[str, int] = {}  # steps of a client

    def once(entrant: Entrant, turn: int, steps: int) -> Sample:
        work = [workload.steps(Client(data, client, turn), steps) for client in range(number)]
        return measure(clients, entrant.calls, work, pid)

    able = [entrant for entrant in entrants if all(name in entrant.calls for name in workload.needs)]
    least, most = max(1, 10 // number), max(1, MOST_CALLS // workload.entries // number)
    for entrant in able:
        subject = entrant.subject
        note = "; ".join(filter(None, (subject.notes.get(""), subject.notes.get(workload.name))))
        about_it = (group.name, subject.name, subject.kind, group.colour, workload.name, value_bytes, number)
        records[subject.name] = Record(*about_it, note=note)
        steps = least
        while (warm := once(entrant, 0, steps)).seconds < plan.seconds / 3 and steps < most:
            steps = min(most, steps * 3)
        each[subject.name] = max(least, min(most, int(steps * plan.seconds / warm.seconds)))
    longest = max(each.values(), default=0)
    for turn in range(1, plan.rounds + 1):
        work = [workload.steps(Client(data, client, turn), longest) for client in range(number)]
        for entrant in able if turn % 2 else reversed(able):
            some = [steps[: each[entrant.subject.name]] for steps in work]
            records[entrant.subject.name].add(measure(clients, entrant.calls, some, pid))
    return list(records.values())
