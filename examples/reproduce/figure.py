"""The paper's figure: accuracy above complexity at ε = 1, a panel per operation, mean and band over seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from kolmogram.engine.files import atomic_path
from kolmogram.engine.report.figure import STYLE
from kolmogram.engine.report.style import HAIRLINE, MUTED, RUNS, lighten
from runs import OPERATIONS, GridRun
from tables import ACCURATE, COMPLEXITY, PROXIES, Columns, passes, phases, read

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMES = {"paper": "the paper's recipe", "none": "no regularisation", "weight_decay": "weight decay alone"}
COLOURS = dict(zip(NAMES, RUNS, strict=False))


def draw(tables: Mapping[GridRun, Path], folder: Path) -> None:
    """Write grokking.png and proxies.png into `folder`."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    measured = {run: read(path) for run, path in tables.items()}
    shown = [operation for operation in OPERATIONS if any(run.operation == operation for run in measured)]
    if not shown:
        return
    for name, rows, panel in (("grokking", 2, draw_operation), ("proxies", 2, draw_proxies)):
        with mpl.rc_context(STYLE):
            figure = Figure((max(6.0, 2.1 * len(shown) + 0.6), 1.6 * rows + 0.6), layout="constrained")
            FigureCanvasAgg(figure)
            axes = figure.subplots(rows, len(shown), sharex="col", sharey="row", squeeze=False)
            for column, operation in enumerate(shown):
                panel(list(axes[:, column]), {run: t for run, t in measured.items() if run.operation == operation})
                axes[0, column].set_title(operation, loc="left", fontsize=8)
                axes[-1, column].set_xlabel("step")
            for axis in axes[:, 0]:
                axis.set_ylim(bottom=0)  # of the whole row, once all of it is drawn
            handles = {
                label: handle
                for axis in axes.flat
                for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
            }
            figure.legend(
                handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), frameon=False
            )
            with atomic_path(folder / f"{name}.png") as temporary:
                figure.savefig(temporary, dpi=200)


def draw_operation(axes: Sequence["Axes"], runs: Mapping[GridRun, Columns]) -> None:
    """Accuracy above, complexity below; a dotted line where `phases` sees the fall of the recipe's runs."""
    from matplotlib.ticker import EngFormatter

    accuracy, complexity = axes
    for recipe in NAMES:
        seeds = [table for run, table in runs.items() if run.recipe == recipe]
        if seeds:
            band(accuracy, seeds, "train_accuracy", lighten(COLOURS[recipe], 0.55), "")
            band(accuracy, seeds, "test_accuracy", COLOURS[recipe], "")
            band(complexity, seeds, COMPLEXITY, COLOURS[recipe], NAMES[recipe])
    for run, table in runs.items():
        if run.recipe in NAMES and (fall := phases(table).fall):
            for axis in axes:
                axis.axvline(fall.step, color=COLOURS[run.recipe], linewidth=0.6, linestyle=":")
    complexity.yaxis.set_major_formatter(EngFormatter("B", sep=" "))
    for axis, title in ((accuracy, "accuracy"), (complexity, "complexity at ε = 1")):
        style(axis, title)


def draw_proxies(axes: Sequence["Axes"], runs: Mapping[GridRun, Columns]) -> None:
    """C₁ and the naive proxies of seed 0, each in shares of its largest: the recipe above, no regularisation below."""
    for axis, recipe in zip(axes, ("paper", "none"), strict=True):
        for table in [table for run, table in runs.items() if (run.recipe, run.seed) == (recipe, 0)]:
            columns = {COMPLEXITY: "C₁", **PROXIES}
            for colour, (column, label) in zip(RUNS, columns.items(), strict=False):
                axis.plot(table["step"], table[column] / np.nanmax(table[column]), color=colour, label=label)
            accurate = passes(table, "test_accuracy", ACCURATE)
            axis.axvline(accurate, color=MUTED, linestyle=":", label="test accuracy 0.9")
        style(axis, NAMES[recipe])


def band(axis: "Axes", seeds: Sequence[Columns], column: str, colour: str, label: str) -> None:
    """Mean over seeds at the steps that all have, with the range of all of them."""
    steps = sorted(set.intersection(*(set(table["step"]) for table in seeds)))
    values = np.array([table[column][np.isin(table["step"], steps)] for table in seeds])
    axis.fill_between(steps, values.min(0), values.max(0), color=colour, alpha=0.25, linewidth=0)
    axis.plot(steps, values.mean(0), color=colour, linewidth=1.3, marker="o", markersize=1.6, label=label or "_")


def style(axis: "Axes", title: str) -> None:
    """Steps on a log scale; the title only at the left."""
    from matplotlib.ticker import FuncFormatter

    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    axis.grid(axis="y", color=HAIRLINE, linewidth=0.5)
    if axis.get_subplotspec().is_first_col():  # pyright: ignore[reportOptionalMemberAccess]
        axis.set_ylabel(title)
