"""From a trained run to its table: complexity, spectra, norms, naive proxies, and the authors' own measure."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kolmogram.analyzers.proxies import naive_proxies
from kolmogram.engine.analysis import Progress, analyze
from kolmogram.engine.checkpoints import open_run
from kolmogram.engine.files import write_text
from kolmogram.engine.tasks import load_task
from kolmogram.engine.trajectory import Trajectory, make_rows

EPSILON = 1.0
AUTHORS = "paper_bytes@1.0"


def measure(run: Path, table: Path, progress: Callable[[Progress], None], *, authors: bool = False) -> None:
    """Measure every checkpoint of a run and write its table, a CSV file. What has been measured is not repeated."""
    measured = analyze(
        run, measures=("complexity", "spectrum", "norms"), epsilons=(EPSILON,), out=run / "kolmogram", progress=progress
    )
    columns = [proxies(run), authors_sizes(run, progress) if authors else read_authors_sizes(run)]
    rows = [
        row | {k: v for column in columns for k, v in column.get(row["checkpoint"], {}).items()}
        for row in measured.rows
    ]
    Trajectory(make_rows(rows)).to_csv(table)


def proxies(run: Path) -> dict[str, dict[str, float]]:
    """Checkpoint → its naive proxies; kept in the run's folder as they come."""
    path = run / "kolmogram" / "proxies.json"
    found: dict[str, dict[str, float]] = json.loads(path.read_text()) if path.is_file() else {}
    opened = open_run(run)
    task: Any = load_task(None, opened)
    for checkpoint in opened:
        if checkpoint.name not in found:
            found[checkpoint.name] = naive_proxies(task, dict(checkpoint.items()))
            write_text(path, json.dumps(found))
    return found


def authors_sizes(run: Path, progress: Callable[[Progress], None]) -> dict[str, dict[str, float]]:
    """Checkpoint → bytes by the authors' method."""
    options = {"measures": ("complexity",), "epsilons": (EPSILON,), "method": "paper"}
    analyze(run, out=run / "authors", progress=progress, **options)
    return read_authors_sizes(run)


def read_authors_sizes(run: Path) -> dict[str, dict[str, float]]:
    """What `authors_sizes` measured before; nothing if it was never asked for."""
    folder = run / "authors"
    if not (folder / "trajectory.parquet").is_file():
        return {}
    return {row["checkpoint"]: {AUTHORS: row[AUTHORS]} for row in Trajectory.load(folder).rows}
