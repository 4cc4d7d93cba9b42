"""What a run says about itself: metrics.csv of `kolmogram train`, and the metrics inside checkpoint files."""

import csv
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from .checkpoints import Checkpoint, Run
from .checkpoints.location import reached


class RunLog:
    """Logged numbers by checkpoint: those in the checkpoint's own files, then the row of metrics.csv of its step.

    They are joined to the trajectory beside what was measured, and never replace a column of the same name.
    """

    def __init__(self, run: Run) -> None:
        with reached(run.folder):
            self._by_step = _read_metrics(run.folder / "metrics.csv")

    def columns(self, checkpoint: Checkpoint) -> dict[str, float]:
        """Name → value for one checkpoint; empty if nothing was logged for it."""
        logged = dict(checkpoint.metrics)
        if checkpoint.epoch is not None:
            logged["epoch"] = checkpoint.epoch
        if checkpoint.step is not None:
            logged |= self._by_step.get(checkpoint.step, {})
        # A trainer's "loss" is one of a few batches; ours is of the whole training set. Names with an @ are ours.
        return {f"logged_{name}" if name == "loss" or "@" in name else name: v for name, v in logged.items()}


def _read_metrics(path: Path) -> Mapping[int, dict[str, float]]:
    """The numbers of a CSV file by its `step` column, rows of one step joined; {} for any other file of that name."""
    by_step: dict[int, dict[str, float]] = {}
    with suppress(OSError, UnicodeError, csv.Error), path.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            with suppress(KeyError, TypeError, ValueError, OverflowError):  # a row that is still being written
                by_step.setdefault(int(float(row.pop("step"))), {}).update(_numbers(row))
    return by_step


def _numbers(row: Mapping[str, str]) -> dict[str, float]:
    """The cells that are numbers. The wall clock is left out: it would make equal runs unequal."""
    numbers: dict[str, float] = {}
    for name, text in row.items():
        with suppress(TypeError, ValueError, AttributeError):  # a cell that is missing
            numbers[name] = int(text) if text.isdigit() else float(text)
    numbers.pop("seconds", None)
    return numbers
