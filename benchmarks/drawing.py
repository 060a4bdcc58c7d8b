"""The plots of `report`, as SVG: text is text, and the same results give the same bytes."""

from __future__ import annotations

import re
import statistics
from importlib import import_module
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from .figures import FLOOR, OURS, PEER, YCSB, Results, Run, ratio, unique

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

INK, MUTED, FAINT = "#1f2328", "#656d76", "#d8dee4"
BLUE, LIGHT_BLUE, GREY = "#0969da", "#79b8ff", "#8c959f"
ALSO_OURS = "#0a9fb5"
PEERS = ("#d4700f", "#8250df", "#1a7f37", "#bf3989", "#7d4e00", "#cf222e")
BACKENDS = ("#0969da", "#1a7f37", "#8250df", "#cf222e", "#d4700f", "#0a7d8c")
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "kv",
    "font.family": "sans-serif",
    "font.sans-serif": [
        "DejaVu Sans",
        "Verdana",
    ],  # the first comes with matplotlib, and takes as much room as the second
    "font.size": 8,
    "text.color": INK,
    "axes.edgecolor": GREY,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "white",  # readable on a dark page too
}
FONT = "font-family: 'DejaVu Sans', 'Verdana', sans-serif; "
WIDTH = 8.4


def draw(results: Results, folder: Path) -> list[str]:
    """Draw what there are results for, and give the names of the plots."""
    folder.mkdir(exist_ok=True)
    matplotlib: Any = import_module("matplotlib")
    plots = {
        "throughput": (throughput, results.runs),
        "ycsb": (ycsb, [run for run in results.runs if run.workload in YCSB]),
        "latency": (latency, results.runs),
        "growth": (growth, results.growth),
        "footprint": (footprint, results.footprint),
    }
    drawn = [name for name, (_, needed) in plots.items() if needed]
    with matplotlib.rc_context(STYLE):
        for name in drawn:
            figure = plots[name][0](results)
            path = folder / f"{name}.svg"
            figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
            path.write_text(smaller(path.read_text()))
    return drawn


def smaller(svg: str) -> str:
    """Leave out of a plot what nobody sees: half of its bytes."""
    svg = svg.replace(FONT, "").replace("*{", f"text{{{FONT}}} *{{")
    svg = re.sub(r' transform="rotate\(-0 [^)]*\)"| id="(text|patch|line2d|[xy]tick|matplotlib|axes)[^"]*"', "", svg)
    svg = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", svg)
    svg = re.sub(r"<g ?/>|\n(?=[LCz])|^ +", " ", svg, flags=re.MULTILINE)
    return re.sub(r" *\n\s*", "\n", svg)


def colours(results: Results, group: str) -> dict[str, str]:
    """Give each subject of a group its colour."""
    subjects = {run.subject: run.kind for run in results.of(group)}
    peers = iter(PEERS * len(subjects))
    shades = {subject: GREY if kind == FLOOR else next(peers) for subject, kind in subjects.items() if kind != OURS}
    ours = [subject for subject, kind in subjects.items() if kind == OURS]
    return {**dict.fromkeys(ours, ALSO_OURS), **dict.fromkeys(ours[:1], BLUE), **shades}


def sheet(rows: int, columns: int, height: float, top: float, bottom: float, **grid: Any) -> tuple[Any, Any]:
    """A figure with margins above and below of so many inches, and its panels as a list of rows."""
    figure = import_module("matplotlib.figure").Figure(figsize=(WIDTH, height))
    margins = {"top": 1 - top / height, "bottom": bottom / height, **grid}
    return figure, figure.subplots(rows, columns, squeeze=False, gridspec_kw=margins)


def fold(times: float) -> str:
    """How many times: 0.97x, 15x, 1,500x."""
    return f"{float(f'{times:.2g}'):,g}x"


def brief(number: float) -> str:
    """A number in few characters: 850, 12k, 1.5M."""
    number = float(f"{number:.3g}")
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def duration(micros: float) -> str:
    """A time in few characters."""
    micros = float(f"{micros:.3g}")
    for size, unit in ((1e6, "s"), (1e3, "ms")):
        if micros >= size:
            return f"{micros / size:.3g} {unit}"
    return f"{micros:.3g} µs"


def axis(side: Any, places: Sequence[float], labels: Iterable[str]) -> None:
    """These ticks, and no others."""
    ticker: Any = import_module("matplotlib.ticker")
    side.set_major_locator(ticker.FixedLocator([*places]))
    side.set_major_formatter(ticker.FixedFormatter([*labels]))
    side.set_minor_locator(ticker.NullLocator())


def apart(places: Sequence[float], least: float) -> list[float]:
    """Move labels so far from each other that none lies on another, in their order."""
    order = sorted(range(len(places)), key=places.__getitem__)
    moved = [*places]
    for _ in range(200):
        for low, high in pairwise(order):
            if (lacking := least - (moved[high] - moved[low])) > 1e-9:
                moved[low] -= lacking / 2
                moved[high] += lacking / 2
    return moved


def lines(several: Sequence[tuple[str, str, str]], width: int = 34) -> list[list[tuple[str, str, str]]]:
    """Words, each with a colour and a weight, in lines of about so many characters."""
    made: list[list[tuple[str, str, str]]] = []
    left = 0
    for word in several:
        if len(word[0]) > left:
            made.append([])
            left = width
        made[-1].append(word)
        left -= len(word[0]) + 2
    return made


def words(place: Any, at: tuple[float, float], several: Sequence[Sequence[tuple[str, str, str]]]) -> None:
    """Write lines of words; the last one begins at `at`, in fractions of the place."""
    box: Any = import_module("matplotlib.offsetbox")
    rows = [
        box.HPacker(
            children=[box.TextArea(word, textprops={"color": c, "weight": w, "size": 7.5}) for word, c, w in row],
            align="baseline",
            pad=0,
            sep=7,
        )
        for row in several
    ]
    where = getattr(place, "transAxes", None) or place.transSubfigure
    text = box.VPacker(children=rows, pad=0, sep=2)
    place.add_artist(
        box.AnchoredOffsetbox(
            "lower left", child=text, frameon=False, pad=0, borderpad=0, bbox_to_anchor=at, bbox_transform=where
        )
    )


def beside(panel: Any, at: float, x: float, word: str, **style: Any) -> None:
    """Write at this height of the panel's data, and `x` of the figure's width."""
    height = panel.transData.transform((1, at))[1] / panel.figure.bbox.height
    panel.figure.text(x, height, word, va="center", **style)


def titled(workload: str) -> str:
    """The workload as readers know it."""
    return f"YCSB {workload}" if workload in YCSB else workload


def throughput(results: Results) -> Any:
    """Operations a second by clients: a row for each group, a column for each workload."""
    groups = results.groups
    tall = [max(1.0, 0.17 * (len(colours(results, group)) + 1)) for group in groups]
    columns = len(results.shown)
    figure, panels = sheet(
        *(len(groups), columns, 0.75 + sum(tall) + 0.3 * len(groups), 0.45, 0.4),
        left=0.215,
        right=0.97,
        hspace=0.3 / statistics.mean(tall),
        wspace=0.24,
        height_ratios=tall,
    )
    for group, row in zip(groups, panels, strict=True):
        clients = sorted({run.clients for run in results.of(group)})
        legend(figure, row[0], group, colours(results, group))
        for workload, panel in zip(results.shown, row, strict=True):
            curves(results, panel, group, workload, clients)
            if group == groups[0]:
                panel.set_title(titled(workload), weight="bold", pad=10)
            if group == groups[-1]:
                panel.set_xlabel("clients", labelpad=1)
    panels[0][0].annotate("operations/s", (0, 1), (0, 1), "axes fraction", "offset points", color=MUTED, size=7)
    return figure


def legend(figure: Any, panel: Any, group: str, shades: dict[str, str]) -> None:
    """The name of the group, and its subjects in their colours, left of its row."""
    box = panel.get_position()
    inch = 1 / figure.get_figheight()
    figure.text(0.015, box.y1 - 0.1 * inch, group, weight="bold", size=9, va="center")
    for number, (subject, shade) in enumerate(shades.items(), 1):
        weight = "bold" if shade == BLUE else "normal"
        figure.text(0.015, box.y1 - (0.1 + 0.17 * number) * inch, subject, color=shade, weight=weight, va="center")


def curves(results: Results, panel: Any, group: str, workload: str, clients: list[int]) -> None:
    """One panel: a line for each subject, and how many times the floor ours is in the end."""
    shades = colours(results, group)
    top = 0.0
    for run_subject, shade in reversed(shades.items()):  # ours on top
        points = [run for run in results.of(group, workload) if run.subject == run_subject]
        xs = [clients.index(run.clients) for run in points]
        ys = [statistics.median(run.ops_per_s) for run in points]
        top = max([top, *ys])
        panel.plot(xs, ys, color=shade, linewidth=2.2 if shade == BLUE else 1.2, marker="o", markersize=3.5)
    if found := results.pair(group, workload, clients[-1]):
        ours, floor = found
        times = ratio(ours.ops_per_s, floor.ops_per_s)
        end = statistics.median(ours.ops_per_s)
        panel.annotate(
            fold(times), (len(clients) - 1, end), (5, 0), textcoords="offset points", color=BLUE, weight="bold",
            va="center", annotation_clip=False,
        )  # fmt: skip
    panel.set_xlim(-0.15, len(clients) - 1 + 0.42)
    panel.set_ylim(0, top * 1.15 or 1)
    panel.grid(visible=False, axis="x")
    axis(panel.xaxis, range(len(clients)), map(str, clients))
    ticks = import_module("matplotlib.ticker").MaxNLocator(3).tick_values(0, top * 1.1 or 1)
    axis(panel.yaxis, [tick for tick in ticks if tick <= top * 1.15], [brief(t) for t in ticks if t <= top * 1.15])


def ycsb(results: Results) -> Any:
    """How many times as fast as the floor, on a log axis from 1: up is faster."""
    groups = [group for group in results.groups if any(results.of(group, workload) for workload in YCSB)]
    columns = 4
    rows = -(-len(groups) // columns)
    more = 0.15 * (max(len(lines(others(results, group))) for group in groups) - 1)
    height = 0.95 + (1.9 + more) * rows
    figure, panels = sheet(
        *(rows, columns, height, 0.8 + more, 0.28),
        left=0.06,
        right=0.99,
        wspace=0.14,
        hspace=0.42 + more / 1.3,
    )
    drawn = [bars(results, panel, group) for group, panel in zip(groups, panels.flat, strict=False)]
    every = [value for values in drawn for value in values] or [1]
    low, high = max(1 / 40, min([0.5, *every]) / 1.12), max([2, *every]) * 1.12
    ticks = [2.0**n for n in range(-5, 8) if low <= 2.0**n <= high]
    names = [fold(tick) if tick >= 1 else f"1/{1 / tick:g}" for tick in ticks]
    for number, panel in enumerate(panels.flat):
        panel.set_visible(number < len(groups))
        panel.set_ylim(low, high)
        axis(panel.yaxis, ticks, [""] * len(ticks) if number % columns else names)
    told = f"1x is the bare driver with as many clients; strokes are the others with {results.crowd}"
    ours = [("kv, 1 client", LIGHT_BLUE, "bold"), (f"kv, {results.crowd} clients", BLUE, "bold")]
    words(figure, (0.06, 1 - 0.28 / height), [[*ours, (told, MUTED, "normal")]])
    return figure


def others(results: Results, group: str) -> list[tuple[str, str, str]]:
    """The subjects of a group besides the first of ours, with their colours."""
    return [(name, shade, "normal") for name, shade in colours(results, group).items() if shade != BLUE]


def bars(results: Results, panel: Any, group: str) -> list[float]:
    """One panel: two bars for each workload of YCSB, and a mark for each peer. Gives what is drawn."""
    clients = sorted({run.clients for run in results.of(group)})
    counts = sorted({clients[0], clients[-1]})
    drawn = []
    for place, workload in enumerate(YCSB):
        for number, count in enumerate(counts):
            if not (found := results.pair(group, workload, count)):
                continue
            times = ratio(found[0].ops_per_s, found[1].ops_per_s)
            drawn.append(times)
            shade = BLUE if count == clients[-1] and count > 1 else LIGHT_BLUE
            at = place + (number - (len(counts) - 1) / 2) * 0.38
            panel.bar(at, times - 1, bottom=1, width=0.36, color=shade)
            if count != clients[-1]:
                continue
            shades = colours(results, group)
            for other in results.of(group, workload, count):
                if other not in found:
                    drawn.append(ratio(other.ops_per_s, found[1].ops_per_s))
                    panel.plot([at - 0.24, at + 0.24], drawn[-1:] * 2, color=shades[other.subject], linewidth=2)
    panel.set_yscale("log", base=2)
    panel.axhline(1, color=INK, linewidth=0.9)
    panel.grid(visible=False, axis="x")
    panel.spines["bottom"].set_visible(False)
    several = lines(others(results, group))
    panel.set_title(group, weight="bold", pad=5 + 11 * len(several))
    words(panel, (0, 1.03), several)
    axis(panel.xaxis, range(len(YCSB)), YCSB)
    return drawn


def latency(results: Results) -> Any:
    """The median call and the slowest of a hundred, with many clients."""
    entries: list[tuple[str, str, str]] = []
    for group in results.groups:
        if subjects := unique(
            run.subject for run in results.of(group, clients=results.crowd) if run.workload in results.shown
        ):
            entries += [("group", group, group), *(("subject", group, subject) for subject in subjects)]
    height = 0.75 + 0.19 * len(entries)
    figure, panels = sheet(1, len(results.shown), height, 0.42, 0.33, left=0.215, right=0.975, wspace=0.09)
    for workload, panel in zip(results.shown, panels[0], strict=True):
        for at, (what, group, subject) in enumerate(entries):
            runs = {run.subject: run for run in results.of(group, workload, results.crowd)}
            if what == "subject" and subject in runs:
                dumbbell(panel, at, runs[subject], colours(results, group)[subject])
        panel.set_xscale("log")
        panel.set_ylim(len(entries) - 0.4, -0.6)
        panel.set_title(titled(workload), weight="bold", pad=4)
        panel.grid(visible=False, axis="y")
        panel.spines["left"].set_visible(False)
        axis(panel.yaxis, [], [])
    every = [
        t
        for run in results.runs
        if run.clients == results.crowd and run.workload in results.shown
        for t in (*run.p50_us, *run.p99_us)
    ]
    ticks = [10.0**n for n in range(-1, 8) if min(every) / 2 <= 10.0**n <= max(every) * 2]
    for panel in panels[0]:
        panel.set_xlim(min(every) / 1.4, max(every) * 1.4)
        axis(panel.xaxis, ticks, ("" if n % 2 and len(ticks) > 5 else duration(t) for n, t in enumerate(ticks)))
    for at, (what, group, subject) in enumerate(entries):
        if what == "group":
            beside(panels[0][0], at, 0.015, subject, weight="bold", size=9)
        else:
            beside(panels[0][0], at, 0.03, subject, color=colours(results, group)[subject])
    beside(panels[0][0], len(entries) + 0.35, 0.015, "○ median   ● p99", color=MUTED)
    return figure


def dumbbell(panel: Any, at: float, run: Run, shade: str) -> None:
    """A line from the median to the 99th percentile."""
    p50, p99 = statistics.median(run.p50_us), statistics.median(run.p99_us)
    panel.plot([p50, p99], [at, at], color=shade, linewidth=2 if shade == BLUE else 1.1, clip_on=False)
    for time, inside in ((p50, "white"), (p99, shade)):
        panel.plot([time], [at], "o", markersize=4.2, color=shade, markerfacecolor=inside, clip_on=False)


def growth(results: Results) -> Any:
    """A panel for each operation, a line for each store; both axes are logarithmic, and the same everywhere."""
    operations = unique(grown.operation for grown in results.growth)
    subjects = unique(grown.subject for grown in results.growth)
    sizes = sorted({grown.entries for grown in results.growth})
    every = [statistics.median(grown.micros) for grown in results.growth]
    columns = 3
    rows = -(-len(operations) // columns)
    height = 0.6 + 1.9 * rows
    figure, panels = sheet(rows, columns, height, 0.28, 0.36, left=0.07, right=0.88, wspace=0.52, hspace=0.3)
    ticks = [10.0**n for n in range(-2, 9, 2) if min(every) / 9 <= 10.0**n <= max(every) * 9]
    for number, (operation, panel) in enumerate(zip(operations, panels.flat, strict=False)):
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_xlim(sizes[0] / 1.3, sizes[-1] * 1.3)
        panel.set_ylim(min(every) / 2, max(every) * 2)
        panel.set_title(operation, weight="bold", pad=4)
        axis(panel.xaxis, sizes, map(brief, sizes))
        axis(panel.yaxis, ticks, ["" if number % columns else duration(tick) for tick in ticks])
        ends = {}
        for subject, shade in zip(subjects, BACKENDS * len(subjects), strict=False):
            if by_size := results.grown(subject, operation):
                middles = [statistics.median(micros) for micros in by_size.values()]
                panel.plot([*by_size], middles, color=shade, linewidth=1.6, marker="o", markersize=2.8)
                ends[f"{subject} {fold(results.growing(subject, operation))}"] = middles[-1], shade
        name_ends(panel, sizes[-1], ends)
    for panel in panels.flat[len(operations) :]:
        panel.set_visible(False)
    figure.text(
        0.07,
        0.08 / height,
        "entries; how many times as long it takes with the most as with the fewest",
        color=MUTED,
        size=7,
    )
    return figure


def name_ends(panel: Any, x: float, ends: dict[str, tuple[float, str]]) -> None:
    """The names of the lines, right of where they end."""
    points = panel.get_window_extent().height * 72 / panel.figure.dpi
    to_points = panel.transData.transform
    heights = [to_points((x, y))[1] * 72 / panel.figure.dpi for y, _ in ends.values()]
    for (subject, (y, shade)), old, new in zip(ends.items(), heights, apart(heights, min(8.5, points)), strict=True):
        panel.annotate(
            subject, (x, y), (5, new - old), textcoords="offset points", color=shade, va="center", annotation_clip=False
        )


def footprint(results: Results) -> Any:
    """Bars of bytes an entry."""
    lines: list[Any] = []
    for group in unique(found.group for found in results.footprint):
        several = [found for found in results.footprint if found.group == group]
        what = several[0].what
        lines += [group if group == what else f"{group}, {'on' if what == 'disk' else 'in'} {what}", *several]
    height = 0.55 + 0.21 * len(lines)
    figure, panels = sheet(1, 1, height, 0.3, 0.08, left=0.26, right=0.95)
    panel = panels[0][0]
    headings = {}
    for at, found in enumerate(lines):
        if isinstance(found, str):
            headings[at] = found
            continue
        shade = {OURS: BLUE, FLOOR: GREY, PEER: PEERS[0]}[found.kind]
        weight = "bold" if found.kind == OURS else "normal"
        panel.barh(at, found.bytes_per_entry, height=0.72, color=shade)
        panel.annotate(found.subject, (0, at), (-4, 0), textcoords="offset points", color=shade, weight=weight, va="center", ha="right")  # fmt: skip
        panel.annotate(f"{found.bytes_per_entry:,.0f}", (found.bytes_per_entry, at), (3, 0), textcoords="offset points", color=shade, weight=weight, va="center")  # fmt: skip
    panel.axvline(148, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    panel.annotate(
        "148 bytes of key and value", (148, 1), (3, 3), ("data", "axes fraction"), "offset points", color=MUTED, size=7
    )
    panel.set_ylim(len(lines) - 0.4, -0.6)
    for at, heading in headings.items():
        beside(panel, at, 0.015, heading, weight="bold", size=9)
    panel.grid(visible=False)
    panel.spines["bottom"].set_visible(False)
    axis(panel.xaxis, [], [])
    axis(panel.yaxis, [], [])
    return figure
