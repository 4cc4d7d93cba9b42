"""Our complexity against the authors' method, on one and the same checkpoints, from one run.

    python benchmarks/complexity.py RUN[:STEP,STEP…]... [-e EPSILON]... [--seeds N] [-o results.csv]

Each RUN is the folder of a `kolmogram train` run. Prints, per checkpoint and ε, bytes and seconds of both and their
ratios, then the geometric means.
"""

import csv
import math
import os
import platform
import time
from pathlib import Path

import click
import kolmogram
import torch
from kolmogram.engine.checkpoints import Checkpoint, open_run
from kolmogram.engine.coarse import Complexity, complexity
from kolmogram.engine.tasks import Task, load_task
from rich.console import Console
from rich.table import Table

COLUMNS = (
    "run",
    "step",
    "epsilon",
    "seed",
    "bytes",
    "paper_bytes",
    "bytes_ratio",
    "seconds",
    "paper_seconds",
    "seconds_ratio",
)


def chosen(spec: str) -> list[tuple[str, Checkpoint, Task]]:
    """Checkpoints of RUN or RUN:STEP,STEP…"""
    folder, _, steps = spec.partition(":")
    run = open_run(folder)
    task = load_task(None, run)
    if task is None:
        raise click.ClickException(f"{folder}: not a run of kolmogram train (no task in config.json)")
    wanted = {int(s) for s in steps.split(",")} if steps else None
    return [(Path(folder).name, c, task) for c in run if wanted is None or c.step in wanted]


def measure(checkpoint: Checkpoint, task: Task, epsilon: float, method: str, seed: int) -> Complexity:
    return complexity(dict(checkpoint.items()), task, epsilon, method=method, seed=seed)


def geometric_mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


@click.command()
@click.argument("runs", nargs=-1, required=True)
@click.option("-e", "--epsilon", "epsilons", type=float, multiple=True, default=(1.0,))
@click.option("--seeds", default=1)
@click.option("-o", "--out", type=click.Path(path_type=Path))
def main(runs: tuple[str, ...], epsilons: tuple[float, ...], seeds: int, out: Path | None) -> None:
    """Print ours against the authors' method, and write the rows to a CSV."""
    rows: list[dict[str, object]] = []
    selection = [item for spec in runs for item in chosen(spec)]
    name, checkpoint, task = selection[0]
    measure(checkpoint, task, 100.0, "kolmogram", 0)  # compile before the clock runs
    for name, checkpoint, task in selection:
        for epsilon in epsilons:
            for seed in range(seeds):
                ours = measure(checkpoint, task, epsilon, "kolmogram", seed)
                paper = measure(checkpoint, task, epsilon, "paper", seed)
                row = (name, checkpoint.step, epsilon, seed, ours.bytes, paper.bytes, ours.bytes / max(paper.bytes, 1),
                       ours.seconds, paper.seconds, ours.seconds / paper.seconds)  # fmt: skip
                rows.append(dict(zip(COLUMNS, row, strict=True)))
                click.echo(" ".join(f"{v:.3f}" if isinstance(v, float) else str(v) for v in row), err=True)
    table = Table(*COLUMNS)
    for row in rows:
        table.add_row(*(f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()))
    Console().print(table)
    for column in ("bytes_ratio", "seconds_ratio"):
        click.echo(f"{column}: geometric mean {geometric_mean([float(str(r[column])) for r in rows]):.3f}")
    where = f"{platform.machine()}, {os.cpu_count()} cores, {platform.python_version()}, torch {torch.__version__}"
    click.echo(f"kolmogram {kolmogram.__version__}, {where}, {time.strftime('%Y-%m-%d')}")
    if out is not None:
        with out.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
