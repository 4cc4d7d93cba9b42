"""Our complexity against the authors' method, on one and the same checkpoints, from one run.

    python benchmarks/complexity.py RUN[:STEP,STEP…]... [-e EPSILON]... [--seeds N] [-o results.csv]

Each RUN is the folder of a `kolmogram train` run. Ours answers all ε in one search, and again the ε nearest to 1 alone;
theirs has one search for each ε, and no size where none of its trials keeps the loss. A row per checkpoint, ε and seed
of ours; with -o also a figure beside the CSV.
"""

import csv
import itertools
import math
import os
import platform
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click
import kolmogram
import torch
from kolmogram.engine.checkpoints import Checkpoint, open_run
from kolmogram.engine.coarse import complexity
from kolmogram.engine.files import atomic_path
from kolmogram.engine.report.figure import STYLE
from kolmogram.engine.report.style import MUTED
from kolmogram.engine.tasks import Task, load_task

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = (
    "run",
    "step",
    "epsilon",
    "seed",
    "bytes",
    "paper_bytes",
    "bytes_ratio",
    "seconds",  # of the search for all ε, divided by their number
    "alone_seconds",  # of the search for this ε alone, where that was measured
    "paper_seconds",
    "seconds_ratio",
    "machine",
    "threads",
    "versions",
    "date",
)
MARKERS = "osD^vPX"
"""One per run."""

Row = dict[str, object]


def chosen(spec: str) -> list[tuple[str, Checkpoint, Task]]:
    """Checkpoints of RUN or RUN:STEP,STEP…"""
    folder, _, steps = spec.partition(":")
    run = open_run(folder)
    task = load_task(None, run)
    if task is None:
        raise click.ClickException(f"{folder}: not a run of kolmogram train (no task in config.json)")
    wanted = {int(s) for s in steps.split(",")} if steps else None
    return [(Path(folder).name, c, task) for c in run if wanted is None or c.step in wanted]


def measure(
    name: str, checkpoint: Checkpoint, task: Task, epsilons: tuple[float, ...], seeds: int, moves: int | None
) -> Iterable[Row]:
    """Rows of one checkpoint."""
    params = dict(checkpoint.items())
    papers = {e: complexity(params, task, e, method="paper") for e in epsilons}
    nearest = min(epsilons, key=lambda e: abs(math.log(e)))
    alone = complexity(params, task, nearest, moves=moves).seconds
    for seed in range(seeds):
        for ours in complexity(params, task, list(epsilons), seed=seed, moves=moves):
            paper, seconds = papers[ours.epsilon], ours.seconds / len(epsilons)
            found = paper.status == "ok"  # theirs may find nothing: no trial keeps the loss
            measured = ours.bytes, *((paper.bytes, ours.bytes / paper.bytes) if found else ("", ""))
            times = seconds, alone if ours.epsilon == nearest else "", paper.seconds, seconds / paper.seconds
            values = (name, checkpoint.step, ours.epsilon, seed, *measured, *times)
            row = dict(zip(COLUMNS, (*values, *conditions()), strict=True))
            click.echo(" ".join(f"{v:.3f}" if isinstance(v, float) else str(v) for v in values))
            yield row


def conditions() -> tuple[str, int, str, str]:
    """Machine, threads, versions and date."""
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    versions = f"kolmogram {kolmogram.__version__}, torch {torch.__version__}, Python {platform.python_version()}"
    return machine, torch.get_num_threads(), versions, time.strftime("%Y-%m-%d")


def geometric_mean(values: list[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values)))


def summarise(rows: list[Row]) -> None:
    """The means that matter; of seeds also the spread."""

    def numbers(column: str, of: list[Row]) -> list[float]:
        return [float(str(row[column])) for row in of if row[column] != ""]

    for epsilon in sorted({float(str(row["epsilon"])) for row in rows}, reverse=True):
        of = [row for row in rows if float(str(row["epsilon"])) == epsilon]
        ratios = numbers("bytes_ratio", of)
        line = f"ε = {epsilon:g}: bytes {geometric_mean(ratios):.3f} of theirs ({min(ratios):.3f} – {max(ratios):.3f})"
        click.echo(f"{line}, seconds {geometric_mean(numbers('seconds_ratio', of)):.3f}")
    ratios = numbers("bytes_ratio", rows)
    click.echo(f"all: bytes {geometric_mean(ratios):.3f}, seconds {geometric_mean(numbers('seconds_ratio', rows)):.3f}")
    alone = [row for row in rows if row["alone_seconds"] != "" and str(row["seed"]) == "0"]
    shares = [a / b for a, b in zip(numbers("alone_seconds", alone), numbers("paper_seconds", alone), strict=True)]
    click.echo(f"one ε alone: {statistics.median(numbers('alone_seconds', alone)):.1f} s, {geometric_mean(shares):.3f}")
    groups: dict[tuple, list[float]] = {}
    for row in rows:
        groups.setdefault((row["run"], row["step"], row["epsilon"]), []).append(float(str(row["bytes"])))
    spreads = [max(g) / min(g) - 1 for g in groups.values()]
    click.echo(
        f"largest over smallest of the seeds: median +{statistics.median(spreads):.1%}, worst +{max(spreads):.1%}"
    )


def draw(rows: list[Row], path: Path) -> None:
    """Bytes of ours against theirs: a point per checkpoint and ε, the mean of the seeds and their range."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    points: dict[tuple[str, float, float, str], list[float]] = {}
    for row in [row for row in rows if row["paper_bytes"] != ""]:
        key = str(row["run"]), float(str(row["epsilon"])), float(str(row["paper_bytes"])), str(row["step"])
        points.setdefault(key, []).append(float(str(row["bytes"])))
    epsilons = sorted({epsilon for _, epsilon, *_ in points}, reverse=True)
    shades = mpl.colormaps["viridis_r"]
    colours = {e: shades(0.1 + 0.9 * i / max(len(epsilons) - 1, 1)) for i, e in enumerate(epsilons)}
    markers = dict(zip(dict.fromkeys(run for run, *_ in points), itertools.cycle(MARKERS)))
    with mpl.rc_context({**STYLE, "font.size": 9}):
        figure = Figure((7.2, 4.4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for (run, epsilon, theirs, _), sizes in points.items():
            axes.plot([theirs] * 2, [min(sizes), max(sizes)], color=colours[epsilon], linewidth=1)
            look = {"color": colours[epsilon], "markersize": 6, "markeredgecolor": "white", "markeredgewidth": 0.4}
            axes.plot(theirs, statistics.fmean(sizes), marker=markers[run], **look)
        sizes = [size for group in points.values() for size in group]
        left, right = (f(theirs for _, _, theirs, _ in points) for f in (min, max))
        axes.set(xscale="log", yscale="log", xlim=(left / 1.3, right * 1.3), ylim=(min(sizes) / 1.5, max(sizes) * 1.5))
        for share in (1, 4, 16, 64):
            guide(axes, share)
        axes.set_xlabel("bytes, the authors' method (a pickle in bzip2)")
        axes.set_ylabel("bytes, Kolmogram (a file that decodes)")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator())
            axis.set_major_formatter(EngFormatter("B", sep=" "))
            axis.set_minor_formatter(NullFormatter())
        handles = [Line2D([], [], linestyle="", marker="o", color=c, label=f"ε = {e:g}") for e, c in colours.items()]
        handles += [Line2D([], [], linestyle="", marker=m, color=MUTED, label=run) for run, m in markers.items()]
        handles.append(Line2D([], [], linestyle="", marker="|", markersize=9, color=MUTED, label="range over seeds"))
        figure.legend(handles=handles, loc="outside right center", frameon=False)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=200, format="png")


def guide(axes: "Axes", share: int) -> None:
    """A line on which ours takes 1 / `share` of their bytes, named where it leaves the axes."""
    (left, right), (_, top) = axes.get_xlim(), axes.get_ylim()
    axes.plot((left, right), (left / share, right / share), color="0.75", linewidth=0.8, zorder=0)
    end, beyond = ((right, right / share), "left") if right <= share * top else ((share * top, top), "center")
    name, at_right = f"1/{share}" if share > 1 else "equal", beyond == "left"
    place = {"textcoords": "offset points", "xytext": (3, 0) if at_right else (0, 2), "annotation_clip": False}
    axes.annotate(name, end, color=MUTED, ha=beyond, va="center" if at_right else "bottom", **place)


@click.command()
@click.argument("runs", nargs=-1, required=True)
@click.option("-e", "--epsilon", "epsilons", type=float, multiple=True, default=(1.0,))
@click.option("--seeds", default=1)
@click.option("--moves", type=int, help="Of our search, at most.")
@click.option("-o", "--out", type=click.Path(path_type=Path))
def main(runs: tuple[str, ...], epsilons: tuple[float, ...], seeds: int, moves: int | None, out: Path | None) -> None:
    """Print ours against the authors' method, and write the rows to a CSV."""
    rows: list[Row] = []
    selection = [item for spec in runs for item in chosen(spec)]
    _, checkpoint, task = selection[-1]
    complexity(dict(checkpoint.items()), task, 1.0)  # compile before the clock runs
    for name, checkpoint, task in selection:
        rows += measure(name, checkpoint, task, epsilons, seeds, moves)
        if out is not None:
            with out.open("w", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
    summarise(rows)
    if out is not None:
        draw(rows, out.with_suffix(".png"))
    click.echo(", ".join(map(str, conditions())))


if __name__ == "__main__":
    main()
