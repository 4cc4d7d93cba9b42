"""The paper's figure: accuracy above complexity at ε = 1, a panel per operation, mean and band over seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from kolmogram.engine.files import atomic_path
from kolmogram.engine.report.figure import STYLE
from kolmogram.engine.report.style import HAIRLINE, INK, MUTED, RUNS, lighten
from runs import OPERATIONS, GridRun
from tables import ACCURATE, COMPLEXITY, PROXIES, Columns, passes, phases, read

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = {"paper": "the paper's recipe", "none": "no regularisation", "weight_decay": "weight decay alone"}
COLOURS = dict(zip(NAMES, (RUNS[0], RUNS[1], RUNS[3]), strict=True))  # no green beside the red
MARKERS = dict(zip(NAMES, "os^", strict=True))
LINES = ((RUNS[0], "-"), (RUNS[1], "--"), (INK, "-."), (RUNS[3], "-"))
PROXY_STYLES = dict(zip((COMPLEXITY, *PROXIES), LINES, strict=True))
LIGHT = 0.6  # share of white in the colour of training accuracy
TEXT = {"font.size": 9.5, "axes.titlesize": 10.5}  # to be read where the page shows nine inches as 900 pixels


def draw(tables: Mapping[GridRun, Path], folder: Path) -> None:
    """Write grokking.png and proxies.png into `folder`."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    measured = {run: read(path) for run, path in tables.items()}
    shown = [operation for operation in OPERATIONS if any(run.operation == operation for run in measured)]
    if not shown:
        return
    figures = (("grokking", draw_operation, key, False), ("proxies", draw_proxies, proxy_key, "row"))
    for name, panel, legend, shared in figures:
        with mpl.rc_context({**STYLE, **TEXT}):
            figure = Figure((max(6.0, 2.1 * len(shown) + 0.6), 4.6), layout="constrained")
            FigureCanvasAgg(figure)
            axes = figure.subplots(2, len(shown), sharex="col", sharey=shared, squeeze=False)
            for column, operation in enumerate(shown):
                panel(list(axes[:, column]), {run: t for run, t in measured.items() if run.operation == operation})
                axes[0, column].set_title(operation, loc="left")
                axes[-1, column].set_xlabel("training step")
            legend(figure)
            with atomic_path(folder / f"{name}.png") as temporary:
                figure.savefig(temporary, dpi=200)


def draw_operation(axes: Sequence["Axes"], runs: Mapping[GridRun, Columns]) -> None:
    """Accuracy above, complexity below; a dotted line where `phases` sees the fall."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    accuracy, complexity = axes
    for recipe in NAMES:
        seeds = [table for run, table in runs.items() if run.recipe == recipe]
        if seeds:
            band(accuracy, seeds, "train_accuracy", recipe, LIGHT)
            band(accuracy, seeds, "test_accuracy", recipe)
            band(complexity, seeds, COMPLEXITY, recipe)
    for run, table in runs.items():
        if run.recipe in NAMES and (fall := phases(table).fall):
            for axis in axes:
                axis.axvline(fall.step, color=COLOURS[run.recipe], linewidth=1, linestyle=":", zorder=1)
    accuracy.set_ylim(-0.04, 1.06)
    accuracy.set_yticks((0, 0.5, 1))
    complexity.set_ylim(bottom=0)
    complexity.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    complexity.yaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size / 1000:g} kB" if size else "0"))
    for axis, title in ((accuracy, "accuracy"), (complexity, "complexity, ε = 1")):
        style(axis, title)


def draw_proxies(axes: Sequence["Axes"], runs: Mapping[GridRun, Columns]) -> None:
    """C₁ and the naive proxies of seed 0, each in shares of its maximum: the recipe above, no regularisation below."""
    for axis, recipe in zip(axes, ("paper", "none"), strict=True):
        for table in [table for run, table in runs.items() if (run.recipe, run.seed) == (recipe, 0)]:
            for column, (colour, dashes) in PROXY_STYLES.items():
                share = table[column] / np.nanmax(table[column])
                width = 2.0 if column == COMPLEXITY else 1.4
                axis.plot(table["step"], share, color=colour, linestyle=dashes, linewidth=width)
            axis.axvline(passes(table, "test_accuracy", ACCURATE), color=MUTED, linewidth=1.2, linestyle=":", zorder=1)
        axis.set_ylim(-0.06, 1.08)  # off the frame, on which many a curve would lie
        axis.set_yticks((0, 0.5, 1))
        style(axis, f"{NAMES[recipe]}\nshare of its maximum")


def key(figure: "Figure") -> None:
    """What colours, shades, bands and dots of grokking.png mean."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    grey = RUNS[-1]
    handles = [Line2D([], [], color=COLOURS[r], marker=MARKERS[r], markersize=4, label=NAMES[r]) for r in NAMES]
    handles += [
        Line2D([], [], color=grey, linestyle=":", label="fall, found in the sizes alone"),
        Line2D([], [], color=lighten(grey, LIGHT), linewidth=1.8, label="pale: training accuracy"),
        Line2D([], [], color=grey, linewidth=1.8, label="full colour: test accuracy"),
        Patch(color=grey, alpha=0.25, linewidth=0, label="band: range over seeds"),
    ]
    across = [*zip(handles[:3], handles[4:], strict=True), handles[3:4]]  # a legend is filled column by column
    handles = [handle for column in across for handle in column]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(across), frameon=False)


def proxy_key(figure: "Figure") -> None:
    """What the lines of proxies.png mean."""
    from matplotlib.lines import Line2D

    names = {COMPLEXITY: "complexity C₁", **PROXIES}
    styles = {names[column]: style for column, style in PROXY_STYLES.items()}
    handles = [Line2D([], [], color=c, linestyle=d, linewidth=1.8, label=n) for n, (c, d) in styles.items()]
    handles.append(Line2D([], [], color=MUTED, linewidth=1.2, linestyle=":", label="test accuracy 0.9"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)


def band(axis: "Axes", seeds: Sequence[Columns], column: str, recipe: str, light: float = 0.0) -> None:
    """Mean over seeds at the steps that all have, with the range of all of them."""
    steps = sorted(set.intersection(*(set(table["step"]) for table in seeds)))
    values = np.array([table[column][np.isin(table["step"], steps)] for table in seeds])
    colour = lighten(COLOURS[recipe], light)
    axis.fill_between(steps, values.min(0), values.max(0), color=colour, alpha=0.25, linewidth=0)
    look = {"color": colour, "linewidth": 1.3, "marker": MARKERS[recipe], "markersize": 2.4, "markeredgewidth": 0}
    axis.plot(steps, values.mean(0), **look)


def style(axis: "Axes", title: str) -> None:
    """Steps on a log scale; the title only at the left."""
    from matplotlib.ticker import FuncFormatter

    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    axis.grid(axis="y", color=HAIRLINE, linewidth=0.6)
    axis.set_axisbelow(True)
    if axis.get_subplotspec().is_first_col():  # pyright: ignore[reportOptionalMemberAccess]
        axis.set_ylabel(title)
