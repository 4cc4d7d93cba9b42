"""Our complexity against the authors' method, on one and the same checkpoints, from one run.

    python benchmarks/complexity.py RUN[:STEP,STEP…]... [-e EPSILON]... [--seeds N] [-o results.csv]

Each RUN is the folder of a `kolmogram train` run. Ours answers all ε in one search, and again the ε nearest to 1 alone;
theirs has one search for each ε, and no size where none of its trials keeps the loss. A row per checkpoint, ε and seed
of ours; with -o also a figure beside the CSV.
"""

import csv
import math
import os
import platform
import statistics
import time
from collections.abc import Iterable
from pathlib import Path

import click
import kolmogram
import torch
from kolmogram.engine.checkpoints import Checkpoint, open_run
from kolmogram.engine.coarse import complexity
from kolmogram.engine.files import atomic_path
from kolmogram.engine.tasks import Task, load_task

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
            found = paper.bytes > 0  # theirs may find nothing: no trial keeps the loss
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
    """Bytes of ours against theirs, a point per row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    compared = [row for row in rows if row["paper_bytes"] != ""]
    figure = Figure((5, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for epsilon in sorted({float(str(row["epsilon"])) for row in rows}, reverse=True):
        of = [row for row in compared if float(str(row["epsilon"])) == epsilon]
        x, y = ([float(str(row[column])) for row in of] for column in ("paper_bytes", "bytes"))
        axes.scatter(x, y, s=14, alpha=0.8, label=f"ε = {epsilon:g}")
    sizes = [float(str(row["paper_bytes"])) for row in compared]
    low, high = 0.9 * min(sizes), 1.1 * max(sizes)
    for share in (1, 1 / 4, 1 / 16, 1 / 64):
        axes.plot((low, high), (share * low, share * high), color="0.7", linewidth=0.7, zorder=0)
        end = (high, share * high)
        axes.annotate(f" {share:.3g}×", end, color="0.5", fontsize=7, va="center", annotation_clip=False)
    axes.set(xscale="log", yscale="log", xlabel="the authors' method", ylabel="ours", xlim=(low, high))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 3)))
        axis.set_major_formatter(FuncFormatter(lambda size, _: f"{size / 1e3:g} kB"))
        axis.set_minor_formatter(NullFormatter())
    axes.legend(frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=160, format="png")


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
