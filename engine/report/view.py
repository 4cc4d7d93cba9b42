"""What is shown of a run, before how: panels of lines against the step.

The page and the paper figure draw the same panels.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ...analyzers.phases import Phases, find_phases
from ..errors import KolmogramError
from ..trajectory import Trajectory
from .labels import complexity_label


@dataclass(frozen=True)
class Line:
    """One curve: values by checkpoint, NaN where there is none."""

    label: str
    values: list[float]
    role: str  # "train", "test", "complexity" or "measure": decides the colour when there is one run
    rank: int = 0  # 0 is the main line of its role; further ones (other ε) are drawn lighter
    upper: list[float] | None = None  # the largest of several searches, whose smallest are the values


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
    """A trajectory as something to look at.

    `rows` are those that are drawn and spoken of, and every list of values follows them: where there are steps, a
    checkpoint without one (a best.pt, a last.pt) has no place on the axis. Tables show the whole trajectory.
    """

    def __init__(self, trajectory: Trajectory, name: str) -> None:
        self.trajectory = trajectory
        self.name = name
        stepped = [row for row in trajectory.rows if not math.isnan(row["step"])]
        self.has_steps = len(stepped) > 1
        self.rows = stepped if self.has_steps else trajectory.rows
        self.steps = [float(row["step"]) for row in self.rows]
        self.x = [float(i) for i in range(1, len(self.rows) + 1)]
        if self.has_steps:
            self.share_axis([self])

    def share_axis(self, views: "Sequence[View]") -> None:
        """Place the steps on the logarithmic axis of these runs.

        Step 0 stands half-way (in ratio) to the left of the first positive one of them all.
        """
        first = min((step for view in views for step in view.steps if step > 0), default=1.0)
        self.x = [first / 2 if step == 0 else step for step in self.steps]

    @classmethod
    def load(cls, folder: str | Path) -> "View":
        """The view of a folder that `analyze` or `demo` wrote, under the folder's name (or its run's)."""
        folder = Path(folder)
        trajectory = Trajectory.load(folder)
        own = folder.resolve()
        return cls(trajectory, own.parent.name if own.name == "kolmogram" else own.name)

    def column(self, name: str) -> list[float] | None:
        """A numeric column of what is drawn, or None where the trajectory has none or nothing in it."""
        if name not in self.trajectory.columns:
            return None
        values = [float(row[name]) for row in self.rows]
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
    def main_complexity(self) -> str | None:
        """The column of sizes that says most: at the largest ε whose files are not all of one size, if there is one."""
        columns = self.complexity_columns()
        return next((name for name in columns if len(self.sizes(name)) > 1), next(iter(columns), None))

    def sizes(self, name: str) -> set[float]:
        """The different values of a column."""
        return {value for value in self.column(name) or [] if not math.isnan(value)}

    @cached_property
    def phases(self) -> Phases:
        """Onset, peak and fall of `main_complexity`."""
        return find_phases(self.steps, (self.column(self.main_complexity) or []) if self.main_complexity else [])

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
        sizes = [each for name in self.complexity_columns() for each in (name, name.replace("_bytes@", "_largest@"))]
        names = (*before, *sizes, *proved, *after)
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
            tensor, place = table["tensor"][row], self._places.get(table["checkpoint"][row])
            if tensor and place is not None:
                found.setdefault(tensor, [missing] * len(self.rows))[place] = table[column][row]
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
        return {row["checkpoint"]: i for i, row in enumerate(self.rows)}

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
            Line(complexity_label(name), self.column(name) or [], "complexity", rank, self._largest(name))
            for rank, name in enumerate(self.complexity_columns())
        ]
        return Panel("Complexity", "bytes", lines) if lines else None

    def _largest(self, name: str) -> list[float] | None:
        return self.column(name.replace("_bytes@", "_largest@"))

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


def on_one_axis(views: Sequence[View]) -> list[View]:
    """The runs that can share an axis: where some have steps, not those without."""
    return [view for view in views if view.has_steps] or list(views)


def load_views(folders: Sequence[str | Path]) -> list[View]:
    """Views of several folders, with names that tell them apart."""
    if not folders:
        raise KolmogramError("nothing to show: give at least one folder that kolmogram analyze wrote")
    views = [View.load(folder) for folder in folders]
    own = Counter(view.name for view in views)
    names = [v.name if own[v.name] == 1 else str(folder) for v, folder in zip(views, folders, strict=True)]
    for i, view in enumerate(views):
        before = names[:i].count(names[i])  # the same folder twice
        view.name = names[i] + (f" ({before + 1})" if before else "")
        if view.has_steps:
            view.share_axis(on_one_axis(views))
    if len({view.main_complexity for view in views} - {None}) > 1:  # sizes at different ε are told apart
        for view in views:
            if main := view.main_complexity:
                view.name += f", {complexity_label(main)}"
    return views
