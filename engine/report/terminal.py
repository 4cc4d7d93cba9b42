"""Tables and progress in a terminal: rows go to stdout, progress and problems to stderr."""

import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Self

from ..analysis import Progress
from ..audit import Audit
from ..checkpoints import Checkpoint
from ..inspection import InspectedTensor, weights_of
from ..trajectory import Trajectory
from .findings import bound_terms, hints, verdict
from .labels import format_bytes, format_cell
from .progress import ProgressLines
from .view import View

if TYPE_CHECKING:
    from ..training.grokking import Metrics

LONG_TEXT = ("checkpoint", "status", "tensor", "state", "evidence", "operation")
TEXT_COLUMNS = (*LONG_TEXT, "dtype", "shape", "what", "proves", "finding")
NARROWEST_TEXT = 12
"""Characters of a line into which a long text may be folded."""

LEAST_IMPORTANT = (
    "bound_epsilon", "description_ratio", "population_description_ratio", "loss_bound", "unseen_loss_bound", "epoch",
    "effective_rank", "spectral_entropy", "stable_rank", "entropy_bits", "entropy_bits@0.25", "seconds", "l2_norm",
)  # fmt: skip
"""What a table that is too wide for the terminal goes without; the last ones first."""


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], elsewhere: str = "in a pipe the table is whole"
) -> None:
    """A table on stdout: drawn for people in a terminal, plain aligned text (two spaces between cells) in a pipe.

    What a terminal has no room for is left out by whole columns, for a number that is cut is another number; a line
    says which, and `elsewhere` where they are.
    """
    if not sys.stdout.isatty():
        widths = [max(len(cell) for cell in cells) for cells in zip(columns, *rows, strict=True)]
        for row in (columns, *rows):
            cells = (
                cell.ljust(width) if name in TEXT_COLUMNS else cell.rjust(width)
                for name, cell, width in zip(columns, row, widths, strict=True)
            )
            print("  ".join(cells).rstrip())
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console, table = Console(), Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0))
    shown = _columns_that_fit(columns, rows, console.width)
    for name in shown:
        side = "left" if name in TEXT_COLUMNS else "right"
        table.add_column(name.replace("_", "\n"), justify=side, no_wrap=name not in LONG_TEXT, overflow="fold")
    for row in rows:
        cells = (cell for name, cell in zip(columns, row, strict=True) if name in shown)
        table.add_row(*map(Text, cells))  # Text: names may hold what rich takes for markup
    console.print(table)
    if missing := [name for name in columns if name not in shown]:
        note = f"not shown, {console.width} columns are too few: {', '.join(missing)}; {elsewhere}"
        console.print(Text(note, style="dim"))


def _columns_that_fit(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Names of the columns that have room uncut, the most important first: what tells rows apart, sizes, verdicts."""
    from rich.cells import cell_len

    needed = {}
    for name, *cells in zip(columns, *rows, strict=True):
        widest = max(map(cell_len, (*name.split("_"), *cells)))
        needed[name] = (min(widest, NARROWEST_TEXT) if name in LONG_TEXT else widest) + 2
    first, *others = columns
    others.sort(key=lambda name: name not in LONG_TEXT and name != "proves" and "bytes" not in name)
    others.sort(key=lambda name: LEAST_IMPORTANT.index(name) if name in LEAST_IMPORTANT else -1)
    shown, left = {first}, width - 1 - needed[first]
    for name in others:
        if needed[name] <= left:
            shown.add(name)
            left -= needed[name]
    return [name for name in columns if name in shown]


def print_trajectory(trajectory: Trajectory, only: Collection[str] | None = None) -> None:
    """The columns that say most, one row per checkpoint (`only` these); the tables on disk have all of them."""
    view = View(trajectory, "")
    columns = (*_naming(view), *view.table_columns())
    rows = [row for row in trajectory.rows if only is None or row["checkpoint"] in only]
    print_table(columns, [[_cell(name, row[name]) for name in columns] for row in rows], _IN_TRAJECTORY)
    for hint in hints(view):
        print(hint, file=sys.stderr)


def _naming(view: View) -> tuple[str, ...]:
    """The columns that tell rows apart."""
    if not view.has_steps:
        return ("checkpoint",)
    return ("step",) if len(view.rows) == len(view.trajectory) else ("step", "checkpoint")


_IN_TRAJECTORY = "trajectory.csv has them"


def print_bounds(trajectory: Trajectory) -> None:
    """What the files prove, one row per checkpoint, and on stderr what it rests on."""
    view = View(trajectory, "")
    columns = (*_naming(view), *(name for name in _BOUND_COLUMNS if view.column(name)))
    rows = [[*(_cell(name, row[name]) for name in columns), verdict(row)] for row in trajectory.rows]
    print_table((*columns, "proves"), rows, _IN_TRAJECTORY)
    before, assumptions = bound_terms(trajectory.provenance["bounds"])
    print(before, file=sys.stderr)
    for assumption in assumptions:
        print(f"- {assumption}", file=sys.stderr)


_BOUND_COLUMNS = (
    "train_accuracy", "test_accuracy", "bound_epsilon", "bound_bytes", "description_ratio",
    "population_description_ratio", "error_bound", "unseen_error_bound", "loss_bound", "unseen_loss_bound",
)  # fmt: skip


def print_problems(trajectory: Trajectory) -> int:
    """One line on stderr for each checkpoint that is not ok; how many there are."""
    bad = [row for row in trajectory.rows if row["status"] != "ok"]
    for row in bad:
        print(f"{row['checkpoint']}: {row['status']}", file=sys.stderr)
    return len(bad)


def print_audit(seen: Audit) -> None:
    """A row for each finding, and on stderr what was looked at."""
    columns = ("step", "checkpoint", "finding", "evidence")
    rows = [
        [_cell("step", f.step), f.checkpoint or "the run", f.finding, f.evidence + ("" if f.is_wrong else " (a note)")]
        for f in seen.findings
    ]
    if rows:
        print_table(columns, rows)
    counts = {"finding": len(seen.wrong), "note": len(seen.findings) - len(seen.wrong)}
    found = ", ".join(_counted(number, what) for what, number in counts.items()) if rows else "nothing found"
    print(f"{_counted(seen.checkpoints, 'checkpoint')}, {found}", file=sys.stderr)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def print_inspection(checkpoint: Checkpoint, tensors: Iterable[InspectedTensor]) -> None:
    """A checkpoint tensor by tensor, then what was left out and why."""
    measured = ("effective_rank", "stable_rank", "entropy_bits@0.25", "nonfinite")
    rows = []
    for tensor in tensors:
        info = tensor.info
        shape = "×".join(map(str, info.shape)) or "scalar"
        values = [_cell(name, tensor.values[name]) if name in tensor.values else "–" for name in measured]
        rows.append([info.name, str(info.dtype).removeprefix("torch."), shape, format_bytes(info.nbytes), *values])
    print_table(("tensor", "dtype", "shape", "size", *(name.replace("@0.25", "") for name in measured)), rows)
    step = "no step" if checkpoint.step is None else f"step {checkpoint.step:,}"
    print(f"{checkpoint.name}: {checkpoint.format}, {step}, {weights_of(checkpoint):,} weights", file=sys.stderr)
    for name, holder in checkpoint.aliases.items():
        print(f"{name}: tied to {holder}", file=sys.stderr)
    for name, reason in checkpoint.skipped.items():
        print(f"{name}: skipped, {reason}", file=sys.stderr)


def print_metrics(rows: Sequence["Metrics"]) -> None:
    """The rows of metrics.csv."""
    from ..training.grokking import Metrics  # brings the compiler of torch: a second for commands that do not train

    columns = [field.name for field in fields(Metrics)]
    print_table(
        columns, [[_cell(name, getattr(row, name)) for name in columns] for row in rows], "metrics.csv has them"
    )


def _cell(column: str, value: object) -> str:
    """A number for people, or, in a pipe, for programs: without separators."""
    text = format_cell(column, value)
    return text if sys.stdout.isatty() or isinstance(value, str) else text.replace(",", "")


class ProgressBars:
    """Bars with the time left on stderr, lines where it is no terminal.

    Its methods are the `progress` callbacks of `train`, `analyze` and `audit`.
    """

    def __init__(self, epochs: int | None = None) -> None:
        from rich import progress
        from rich.console import Console

        console = Console(stderr=True)
        self._epochs = epochs
        self._lines = None if console.is_terminal else ProgressLines()
        self._tasks: dict[str, progress.TaskID] = {}
        self._bars = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TextColumn("left"),
            progress.TimeRemainingColumn(),
            progress.TextColumn("{task.fields[note]}", style="dim"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def training(self, metrics: "Metrics") -> None:
        """Move the bar of a training run; its end is not known where an accuracy ends it."""
        accuracies = f"accuracy train {metrics.train_accuracy:.3f}, test {metrics.test_accuracy:.3f}"
        self._show("training", metrics.epoch, self._epochs, accuracies)

    def analysis(self, progress: Progress) -> None:
        """Move the bar of an analysis."""
        before = f"{progress.finished_before} already done" if progress.finished_before else ""
        self._show("analyzing", progress.done, progress.total, progress.checkpoint or before, progress.problem)

    def audit(self, progress: Progress) -> None:
        """Move the bar of an audit."""
        self._show("auditing", progress.done, progress.total, progress.checkpoint, progress.problem)

    def _show(self, what: str, done: int, total: int | None, note: str, problem: str = "") -> None:
        if self._lines:
            self._lines.show(what, done, total, note, problem)
            return
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=total, note=note)
        self._bars.update(self._tasks[what], completed=done, total=total, note=note)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()
        if self._lines:
            self._lines.flush()
