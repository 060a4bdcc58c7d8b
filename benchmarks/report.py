"""`REPORT.md`, with tables and plots, from what `workloads` and `growth` have left in `results/`. The same results give the same bytes."""

from __future__ import annotations

import re
import statistics
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from . import drawing, figures
from .drawing import brief, duration, titled
from .figures import FLOOR, ratio, unique
from .harness import console

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from .figures import Results, Run

HERE = Path(__file__).parent
CAPTIONS = {
    "throughput": "Operations a second by the number of clients, the figure in the end is times the bare driver",
    "ycsb": "YCSB A to F beside the bare driver, up is faster",
    "latency": "Median and 99th percentile of the time a call takes, many clients at once",
    "growth": "Microseconds by the number of entries, both axes logarithmic",
    "footprint": "Bytes that an entry of 148 bytes takes",
}
MIXES = (
    "A: half gets, half sets. B: 95% gets. C: gets only. D: 95% gets of what was set last. E: 95% scans of up to a hundred "
    "entries, 5% new ones. F: half gets, half atomic read-modify-writes."
)


def run(*, quick: bool) -> bool:  # noqa: ARG001 - as every part
    """Write the report."""
    if find_spec("matplotlib") is None:
        sys.exit("matplotlib draws the plots, and is not installed: pip install -e '.[bench]'")
    results = figures.load()
    if not results.about:
        sys.exit(f"there are no results in {figures.FOLDER}; run python -m benchmarks growth first")
    plots = drawing.draw(results, HERE / "plots")
    text = "\n".join(report(results, plots))
    (HERE / "REPORT.md").write_text(re.sub(r" *\n", "\n", text).rstrip() + "\n")
    console.print(f"written to {HERE / 'REPORT.md'}, with {len(plots)} plots")
    return True


def anatomy(pieces: dict[str, dict[str, float]]) -> Iterator[str]:
    """Give a table of what `anatomy` has measured."""
    yield "|  |  | µs |"
    yield "|---|---|---:|"
    for title, lines in pieces.items():
        for name, micros in lines.items():
            yield f"| {title.removesuffix(': get')} | {'**get**' if name == 'get' else name} | {micros:.2f} |"
    yield ""


def report(results: Results, plots: Sequence[str]) -> Iterator[str]:
    """Give its lines."""
    yield from head(results)
    shown = {name: f"![{CAPTIONS[name]}](plots/{name}.svg)\n" for name in plots}
    if results.runs:
        yield "## At one look\n"
        yield from summary(results)
        yield "## Throughput\n"
        yield "Operations a second with 1 to many clients at once: threads in the sync colour, tasks in the async one. "
        yield "The figure where a blue line ends is how many times the bare driver's that is.\n"
        yield from (shown[name] for name in ("throughput", "ycsb") if name in shown)
        yield MIXES + " Bars begin at the bare driver's speed: up is faster.\n"
        yield "## Latency\n"
        yield shown["latency"]
    if results.growth:
        yield "## Growth\n"
        yield "What one call takes, by how many entries there are. A page is 100 keys, `cleanup of 10,000` is for each "
        yield "entry that had expired, `open` is a new store and its first get. Redis keeps no order of keys: a page there "
        yield "reads all of them, by design of the server.\n"
        yield shown["growth"]
        yield from growth(results)
    if results.footprint:
        yield "## What an entry takes\n"
        yield f"{results.footprint[0].entries:,} entries with keys of 20 bytes and values of 128, stored in no order, nothing compacted.\n"
        yield shown["footprint"]
        yield from footprint(results)
    if pieces := figures.anatomy():
        yield "## Where the time of a get goes\n"
        yield "Each piece by itself, in turn with the whole; the server's is what its process ran for.\n"
        yield from anatomy(pieces)
    yield "[What was tried for speed, kept and dropped](TRIED.md).\n"
    if results.runs:
        yield "## Every group\n"
        for group in results.groups:
            yield from tables(results, group)


def head(results: Results) -> Iterator[str]:
    """What was run, and how to read it."""
    yield "# How fast it is\n"
    yield "Every store beside the bare driver that it stands on (the *floor*) and other packages for the same job (*peers*), in "
    yield "one run. To run it again, which takes half an hour:\n"
    yield "```console\n$ pip install -e '.[dev,peers,bench]'\n$ python -m benchmarks workloads growth report\n```\n"
    yield "How to read it:\n"
    yield "* **Ratios, not figures.** Servers and clients share one machine, a small and noisy one here. All subjects take turns in"
    yield "  every round, and a ratio is the median of the rounds' own ratios: a slow moment hits both."
    yield "* Above 1 is faster than the floor. Differences of a tenth are noise where the spread is wider than that."
    yield "* A figure is the median of all rounds, and in brackets the least and the most."
    yield "* CPU is what one operation costs in processor time: of the clients' process, and of the server's.\n"
    for name, about in results.about.items():
        yield f"| {name} | |\n|---|---|"
        yield f"| run | {about.get('date', '')} |"
        for what in ("versions", "settings"):
            yield f"| {what} | {listed(about.get(what, {}))} |"
        for what in sorted({*about} - {"date", "versions", "settings"}):
            yield f"| {what} | {listed(about[what])} |"
        yield ""


def listed(of: object) -> str:
    """A dict or a list in a line."""
    if isinstance(of, dict):
        return "; ".join(f"{name} {listed(value)}" for name, value in of.items())
    return ", ".join(map(str, of)) if isinstance(of, list) else str(of).replace("|", "\\|")


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> Iterator[str]:
    """A table in Markdown, of which so many columns are text."""
    yield f"| {' | '.join(columns)} |"
    yield f"|{'---|' * left}{'---:|' * (len(columns) - left)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def spread(figures: Sequence[float]) -> str:
    """The median, the least and the most."""
    return f"{brief(statistics.median(figures))} ({brief(min(figures))}-{brief(max(figures))})"


def middle(micros: Sequence[float] | None) -> str:
    """The median of times."""
    return duration(statistics.median(micros)) if micros else ""


def times(ours: Run | None, other: Run | None) -> str:
    """How many times as fast ours is."""
    return f"{ratio(ours.ops_per_s, other.ops_per_s):.2f}" if ours and other else ""


def summary(results: Results) -> Iterator[str]:
    """For each group how many times the floor ours is, with the fewest clients and with the most."""
    rows = []
    for group in results.groups:
        runs = results.of(group)
        clients = sorted({run.clients for run in runs})
        few_and_many = unique(map(str, (clients[0], clients[-1])))
        cells = []
        for workload in results.shown:
            pairs = [results.pair(group, workload, int(count)) for count in few_and_many]
            cells.append(" / ".join(times(*pair) for pair in pairs if pair))
        floor = next((run.subject for run in runs if run.kind == FLOOR), "")
        rows.append((group, floor, " / ".join(few_and_many), *cells))
    yield "How many times as fast as the bare driver, by the number of clients.\n"
    yield from table(("", "the driver", "clients", *map(titled, results.shown)), rows, left=3)


def growth(results: Results) -> Iterator[str]:
    """A table of medians by size for each store."""
    sizes = sorted({grown.entries for grown in results.growth})
    rows = []
    for subject in unique(grown.subject for grown in results.growth):
        for operation in unique(grown.operation for grown in results.growth):
            if by_size := results.grown(subject, operation):
                grown = f"{results.growing(subject, operation):.1f}"
                rows.append((subject, operation, *(middle(by_size.get(size)) for size in sizes), grown))
    yield from table(("", "", *map(brief, sizes), "last / first"), rows, left=2)


def footprint(results: Results) -> Iterator[str]:
    """A table of bytes, beside the plainest thing that holds the same."""
    floors = {found.group: found for found in results.footprint if found.kind == FLOOR}
    rows = []
    for found in results.footprint:
        floor = floors.get(found.group)
        beside = f"{found.bytes_per_entry / floor.bytes_per_entry:.2f}" if floor and floor is not found else ""
        rows.append((found.subject, found.what, f"{found.bytes_per_entry:,.0f}", beside))
    yield from table(("", "of", "bytes an entry", "x floor"), rows, left=2)


def tables(results: Results, group: str) -> Iterator[str]:
    """Ours beside every other in a group, and then all of them by themselves."""
    runs = sorted((run for run in results.runs if run.group == group), key=order(results))
    subjects = unique(run.subject for run in sorted(runs, key=figures.rank))
    floor = next((run.subject for run in runs if run.kind == FLOOR), "")
    clients = sorted({run.clients for run in runs})
    server = ["server's CPU"] * any(run.server_cpu_us for run in runs)
    small = min(run.value_bytes for run in runs)
    yield f"### {group}\n"
    yield f"Times as fast as the others at {' / '.join(map(str, clients))} clients; the rest is of {subjects[0]} at {clients[-1]}."
    yield f"The floor is {floor}.\n"

    def name(run: Run) -> str:
        return titled(run.workload) + f", {run.value_bytes:,} bytes" * (run.value_bytes > small)

    def costs(run: Run) -> list[str]:
        times = (run.p50_us, run.p99_us, run.cpu_us, *[run.server_cpu_us] * len(server))
        return [spread(run.ops_per_s), *map(middle, times)]

    every: dict[tuple[str, int, str], dict[int, Run]] = {}
    for run in runs:
        every.setdefault((run.workload, run.value_bytes, run.subject), {})[run.clients] = run
    ours, rest = [], []
    for (workload, size, subject), by_clients in every.items():
        last = by_clients[max(by_clients)]
        ops = (brief(statistics.median(by_clients[n].ops_per_s)) if n in by_clients else "-" for n in clients)
        rest.append([name(last), subject, " / ".join(ops), *costs(last)[1:]])
        if subject == subjects[0]:
            beside = [every.get((workload, size, other), {}) for other in subjects[1:]]
            ratios = [
                " / ".join(times(by_clients.get(n), it.get(n)) or "-" for n in clients) if it else "" for it in beside
            ]
            ours.append([name(last), *ratios, *costs(last)])
    measured = ["p50", "p99", "CPU", *server]
    yield from table(["", *(f"x {other}" for other in subjects[1:]), "ops/s", *measured], ours)
    yield "<details><summary>All subjects</summary>\n"
    yield from table(["", "", "ops/s", *measured], rest, left=2)
    yield "".join(f"* {note}\n" for note in unique(f"{run.subject}: {run.note}" for run in runs if run.note))
    yield "</details>\n"


def order(results: Results) -> Callable[[Run], tuple[int, int, int, int]]:
    """Sort by size of values, workload as they ran, clients, and then ours first."""
    workloads = unique(run.workload for run in results.runs)
    return lambda run: (run.value_bytes, workloads.index(run.workload), run.clients, figures.rank(run))
