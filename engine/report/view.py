"""What is shown of a run, before how: panels of lines against the step, and the findings in words.

The page and the paper figure draw the same panels.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ...analyzers.phases import Phases, find_phases
from ..errors import KolmogramError
from ..trajectory import Trajectory


@dataclass(frozen=True)
class Line:
    """One curve: values by checkpoint, NaN where there is none."""

    label: str
    values: list[float]
    role: str  # "train", "test", "complexity" or "measure": decides the colour when there is one run
    rank: int = 0  # 0 is the main line of its role; further ones (other ε) are drawn lighter


@dataclass(frozen=True)
class Panel:
    """Curves that share an axis."""

    title: str
    unit: str
    lines: list[Line]
    unit_interval: bool = False  # the axis is a share, 0 to 1

    def compared(self) -> list[Line]:
        """The lines to draw where several runs share the panel: no further ε."""
        return [line for line in self.lines if line.role in ("train", "test") or line.rank == 0]

    def label_places(self, height: float, spacing: float) -> list[tuple[int, float]]:
        """For each line the index of its last value, and how far up its label has to move not to cover another.

        `height` of the panel, `spacing` of the labels and the result are in the same unit (points, pixels).
        """
        ends = [max(i for i, value in enumerate(line.values) if not math.isnan(value)) for line in self.lines]
        top = max(value for line in self.lines for value in line.values if not math.isnan(value))
        at = [line.values[end] / top * height if top > 0 else 0.0 for line, end in zip(self.lines, ends, strict=True)]
        moved: dict[int, float] = {}
        below = -math.inf
        for i in sorted(range(len(at)), key=lambda i: (at[i], self.lines[i].role == "train")):
            below = moved[i] = max(at[i], below + spacing)
        return [(end, moved[i] - at[i]) for i, end in enumerate(ends)]


class View:
    """A trajectory as something to look at."""

    def __init__(self, trajectory: Trajectory, name: str) -> None:
        self.trajectory = trajectory
        self.name = name
        self.steps = [float(step) for step in trajectory["step"]]
        self.has_steps = sum(not math.isnan(step) for step in self.steps) > 1
        self.x = _positions(self.steps) if self.has_steps else [float(i) for i in range(1, len(trajectory) + 1)]

    @classmethod
    def load(cls, folder: str | Path) -> "View":
        """The view of a folder that `analyze` or `demo` wrote, under the folder's name (or its run's)."""
        folder = Path(folder)
        trajectory = Trajectory.load(folder)
        own = folder.resolve()
        return cls(trajectory, own.parent.name if own.name == "kolmogram" else own.name)

    def column(self, name: str) -> list[float] | None:
        """A numeric column, or None where the trajectory has none or nothing in it."""
        if name not in self.trajectory.columns:
            return None
        values = [float(value) for value in self.trajectory[name]]
        return None if all(map(math.isnan, values)) else values

    def panels(self) -> list[Panel]:
        """The panels that say most: how well it predicts above, how complex it is below."""
        understanding = self._accuracy() or self._loss()
        complexity = self._complexity()
        weights = [] if complexity else [self._ranks(), self._entropy()]
        return [panel for panel in (understanding, self._proved(), complexity, *weights) if panel]

    def complexity_columns(self) -> list[str]:
        """Columns of coded sizes, largest ε first."""
        names = [
            name for name in self.trajectory.columns if name.partition("@")[0] in ("complexity_bytes", "paper_bytes")
        ]
        return sorted((name for name in names if self.column(name)), key=lambda name: -float(name.partition("@")[2]))

    @cached_property
    def phases(self) -> Phases:
        """Onset, peak and fall of the complexity at the largest ε."""
        columns = self.complexity_columns()
        return find_phases(self.steps, (self.column(columns[0]) or []) if columns else [])

    def table_columns(self) -> tuple[str, ...]:
        """The columns that a table for people shows, of those that have anything in them."""
        before = ("epoch", "train_accuracy", "test_accuracy", "loss", "test_loss", "logged_loss", "eval_loss")
        proved = (
            "description_ratio",
            "population_description_ratio",
            "error_bound",
            "unseen_error_bound",
            "loss_bound",
        )
        after = ("effective_rank", "entropy_bits@0.25", "l2_norm")
        names = (*before, *self.complexity_columns(), *proved, *after)
        return tuple(name for name in names if self.column(name))

    def tensor_values(self, measure: str) -> dict[str, list[float]]:
        """Tensor → values of one measure along the run; NaN where a checkpoint has none."""
        return self._by_tensor(measure, "value", math.nan)

    def tensor_details(self, measure: str) -> dict[str, list[str]]:
        """Tensor → the word beside each value, e.g. the transform that its bytes were coded with."""
        return self._by_tensor(measure, "detail", "")

    def _by_tensor(self, measure: str, column: str, missing: Any) -> dict[str, list[Any]]:
        table = self.trajectory.tensors
        found: dict[str, list[Any]] = {}
        for row in self._rows_of_measure.get(measure, ()):
            if tensor := table["tensor"][row]:
                values = found.setdefault(tensor, [missing] * len(self.trajectory))
                values[self._places[table["checkpoint"][row]]] = table[column][row]
        return found

    @cached_property
    def _rows_of_measure(self) -> dict[str, list[int]]:
        """Measure → rows of the tensor table, which is long: it is searched once."""
        rows: dict[str, list[int]] = {}
        for row, measure in enumerate(self.trajectory.tensors["measure"]):
            rows.setdefault(measure, []).append(row)
        return rows

    @cached_property
    def _places(self) -> dict[str, int]:
        return {checkpoint: i for i, checkpoint in enumerate(self.trajectory["checkpoint"])}

    def _accuracy(self) -> Panel | None:
        lines = self._lines({"train_accuracy": ("train", "train"), "test_accuracy": ("test", "test")})
        return Panel("Accuracy", "", lines, unit_interval=True) if lines else None

    def _loss(self) -> Panel | None:
        measured = {"loss": ("train", "train"), "test_loss": ("test", "test")}
        logged = {"train_loss": ("train", "train"), "logged_loss": ("train", "train"), "eval_loss": ("test", "test")}
        lines = self._lines(measured) or self._lines(logged)
        return Panel("Loss", "nats per example", lines) if lines else None

    def _complexity(self) -> Panel | None:
        lines = [
            Line(complexity_label(name), self.column(name) or [], "complexity", rank)
            for rank, name in enumerate(self.complexity_columns())
        ]
        return Panel("Complexity", "bytes", lines) if lines else None

    def _proved(self) -> Panel | None:
        """The bound that `kolmogram bound` added, and what it says nothing below."""
        names = ("unseen_error_bound", "error_bound")
        wanted = next((name for name in names if self.column(name)), names[-1])
        lines = self._lines({wanted: ("at most", "measure"), "chance_error": ("chance", "measure")})
        title = "Error on unseen examples" if wanted == names[0] else "Error on the population"
        return Panel(title, "upper bound", lines, unit_interval=True) if len(lines) == 2 else None

    def _ranks(self) -> Panel | None:
        lines = self._lines({"effective_rank": ("effective rank", "measure")})
        return Panel("Effective rank", "directions", lines) if lines else None

    def _entropy(self) -> Panel | None:
        names = ("entropy_bits@1.0", "entropy_bits@0.25", "entropy_bits@0.0625")
        lines = self._lines({name: (f"Δ = σ·{float(name.partition('@')[2]):g}", "measure") for name in names})
        return Panel("Entropy", "bits per weight, estimated", lines) if lines else None

    def _lines(self, wanted: dict[str, tuple[str, str]]) -> list[Line]:
        present = [(name, column) for name in wanted if (column := self.column(name))]
        return [Line(wanted[name][0], column, wanted[name][1], rank) for rank, (name, column) in enumerate(present)]


def panel_titles(views: Sequence[View]) -> list[str]:
    """Titles of all panels of the runs, in order, each once."""
    return list(dict.fromkeys(panel.title for view in views for panel in view.panels()))


def load_views(folders: Sequence[str | Path]) -> list[View]:
    """Views of several folders, with names that tell them apart."""
    if not folders:
        raise KolmogramError("nothing to show: give at least one folder that kolmogram analyze wrote")
    views = [View.load(folder) for folder in folders]
    if len({view.name for view in views}) < len(views):
        for view, folder in zip(views, folders, strict=True):
            view.name = str(folder)
    return views


def findings(view: View) -> list[str]:
    """What the trajectory says, in sentences; only what the numbers carry."""
    names = view.complexity_columns()
    if not names:
        return []
    values = view.column(names[0]) or []
    known = [i for i, value in enumerate(values) if not math.isnan(value)]
    peak, last = max(known, key=lambda i: values[i]), known[-1]
    sentence = f"Complexity ({complexity_label(names[0])} nat) peaks at {format_bytes(values[peak])} {_at(view, peak)}"
    if values[peak] > 1.05 * values[last]:
        ratio = f"{values[peak] / values[last]:.1f} times less"
        sentence += f" and falls to {format_bytes(values[last])} {_at(view, last)}, {ratio}"
    sentences = [sentence]
    if fall := view.phases.fall:
        half_way = f"{_at(view, fall.index)} (confidence {fall.confidence:.2f})"
        sentences.append(f"By its sizes alone, the fall is half-way {half_way}")
    accuracy = view.column("test_accuracy")
    passed = next((i for i, value in enumerate(accuracy or []) if value >= 0.9), None)
    if passed is not None:
        order = "after" if passed > peak else "before" if passed < peak else "at"
        sentences.append(f"Test accuracy passes 0.9 {_at(view, passed)}, {order} the peak")
    return [sentence + "." for sentence in sentences]


def verdict(row: Mapping[str, Any]) -> str:
    """Whether a row's bound on the error is worth anything: below chance, only below 1, or vacuous."""
    unseen = row.get("unseen_error_bound", math.nan)
    bound = row.get("error_bound", math.nan) if math.isnan(unseen) else unseen
    if math.isnan(bound):
        return "–"
    return "below chance" if bound < row["chance_error"] else "below 1" if bound < 1 else "nothing"


def format_bytes(size: float) -> str:
    """A size for people: `842 B`, `21.2 kB`, `3.4 MB`."""
    if math.isnan(size):
        return "–"
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size:.0f} B"


def format_cell(column: str, value: Any) -> str:
    """One cell of a table for people: whole numbers with separators, others to four digits, – for nothing."""
    if isinstance(value, str):
        return value
    if value is None or math.isnan(value):
        return "–"
    if float(value).is_integer() and (column in ("step", "epoch", "parameters", "nonfinite") or "bytes" in column):
        return f"{int(value):,}"
    return f"{value:.4g}"


def _positions(steps: Sequence[float]) -> list[float]:
    """Steps on a logarithmic axis: step 0 stands half-way (in ratio) to the left of the first positive one."""
    positive = [step for step in steps if step > 0]
    return [min(positive, default=1.0) / 2 if step == 0 else step for step in steps]


def _at(view: View, i: int) -> str:
    return f"at step {int(view.steps[i]):,}" if view.has_steps else f"in {view.trajectory['checkpoint'][i]}"


def complexity_label(column: str) -> str:
    method, _, epsilon = column.partition("@")
    return f"ε = {float(epsilon):g}" + (", the authors' method" if method == "paper_bytes" else "")
