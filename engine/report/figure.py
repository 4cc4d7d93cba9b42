"""The paper figure: one column wide, the panels of the page, as PDF, PNG or SVG."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import KolmogramError
from ..files import atomic_path
from .labels import format_bytes
from .style import BAND, HAIRLINE, INK, MUTED, RUNS, lighten, role_colour
from .ticks import step_ticks
from .view import Line, Panel, View, load_views, on_one_axis, panel_titles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = (".pdf", ".png", ".svg")

_COLUMN_INCHES = 3.4
_PANEL_INCHES = 1.45
_HEADROOM = 1.14  # above the highest line, for a line of text
STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["Inter", "Helvetica", "Arial", "Liberation Sans", "DejaVu Sans"],
    "font.size": 7.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "pdf.fonttype": 42,  # text stays text: journals refuse Type 3 fonts
    "svg.fonttype": "none",
    "svg.hashsalt": "kolmogram",  # equal input, equal file
}


def write_figure(folders: Sequence[str | Path], path: str | Path) -> None:
    """Draw what `analyze` wrote into `folders`; the format is the path's ending (.pdf, .png, .svg)."""
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise KolmogramError(f"{path}: a figure ends in {', '.join(FORMATS)}")
    draw(load_views(folders), path)


def draw(views: Sequence[View], path: Path) -> None:
    """Panels below each other on one step axis. A run without steps has no place on it beside others that have some."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    left_out = [view.name for view in views if view not in on_one_axis(views)]
    views = on_one_axis(views)
    titles = panel_titles(views)
    if not titles:
        raise KolmogramError(f"{views[0].name}: no column to draw; analyze with a task, or with the spectrum measure")
    with mpl.rc_context(STYLE):
        heights = [0.8 if i == 0 and len(titles) > 1 else 1.2 for i in range(len(titles))]
        figure = Figure((_COLUMN_INCHES, _PANEL_INCHES * sum(heights) + 0.3), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(titles), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        for axis, title in zip(axes, titles, strict=True):
            _draw_panel(axis, views, title)
        if len(views) > 1:  # in the last panel, but of the runs of every one
            runs = {name: line for axis in axes for line, name in zip(*axis.get_legend_handles_labels(), strict=True)}
            axes[-1].legend(runs.values(), runs, frameon=False, fontsize=7, handlelength=1.4, borderaxespad=0.2)
        _step_axis(axes[-1], views, left_out)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=300, metadata=_undated(path))


def _draw_panel(axis: "Axes", views: Sequence[View], title: str) -> None:
    shown = [(i, view, panel) for i, view in enumerate(views) for panel in view.panels() if panel.title == title]
    for i, view, panel in shown:
        for line in panel.lines if len(views) == 1 else panel.compared():
            _draw_line(axis, view, line, i, len(views))
    _style_panel(axis, shown[0][2])
    if len(views) == 1:
        _label_ends(axis, views[0], shown[0][2])
        _mark_phases(axis, views[0], shown[0][2])


def _style_panel(axis: "Axes", panel: Panel) -> None:
    from matplotlib.ticker import EngFormatter

    axis.grid(axis="y", color=HAIRLINE, linewidth=0.5)
    axis.set_axisbelow(True)
    axis.tick_params(length=2.5, which="major")
    axis.tick_params(length=1.5, which="minor")
    axis.set_title(", ".join(filter(None, (panel.title, panel.unit))), loc="left", fontsize=8)
    if panel.unit_interval:
        axis.set_ylim(-0.04, 1.06)
    else:
        low, high = min(0.0, axis.dataLim.y0), max(0.0, axis.dataLim.y1)  # a loss may be negative
        axis.set_ylim(low, high + 0.04 * (high - low) or 1.0)
    if panel.unit == "bytes":
        axis.yaxis.set_major_formatter(EngFormatter("B", sep=" "))


def _draw_line(axis: "Axes", view: View, line: Line, run: int, runs: int) -> None:
    if runs == 1:
        colour = role_colour(line.role, line.rank)
    else:
        colour = lighten(RUNS[run % len(RUNS)], 0.45 if line.role == "train" else 0.0)
    main = line.role == "test" or (line.role in ("complexity", "measure") and line.rank == 0)
    style = {"color": colour, "linewidth": 1.4 if main else 0.9, "markersize": 2.2, "marker": "o", "markeredgewidth": 0}
    name = view.name if runs > 1 and line.role != "train" else "_" + line.label
    if line.upper:
        axis.fill_between(view.x, line.values, line.upper, color=colour, alpha=BAND, linewidth=0)
    axis.plot(view.x, line.values, linestyle=":" if runs > 1 and line.role == "train" else "-", label=name, **style)


def _label_ends(axis: "Axes", view: View, panel: Panel) -> None:
    """Each line's name beside the panel, where no grid strikes it, at the height of its end."""
    height = 72 * _PANEL_INCHES * (0.6 if panel.unit_interval else 0.9)
    for line, (i, offset) in zip(panel.lines, panel.label_places(height, spacing=8), strict=True):
        style = {"color": role_colour(line.role, line.rank), "fontsize": 7, "va": "center"}
        place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "annotation_clip": False}
        axis.annotate(textwrap.fill(line.label, 14), (1, line.values[i]), (2, offset), **place, **style)


def _mark_phases(axis: "Axes", view: View, panel: Panel) -> None:
    """Dotted lines where the complexity peaks and is half fallen, through every panel, if it falls; said in its own."""
    name, peak, fall = view.main_complexity, view.phases.peak, view.phases.fall
    if name is None or peak is None or fall is None:
        return
    for i in (peak.index, fall.index):
        axis.axvline(view.x[i], color=MUTED, linewidth=0.6, linestyle=":")
    if panel.unit == "bytes":
        axis.set_ylim(top=_HEADROOM * axis.dataLim.y1)
        size = format_bytes((view.column(name) or [])[peak.index])
        place = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "va": "top", "fontsize": 7}
        at_left = peak.index < len(view.x) / 4  # no room for it left of its line: both on the same side, then
        side, shift = ("left", 2) if at_left else ("right", -2)
        colour = role_colour("complexity", view.complexity_columns().index(name))
        axis.annotate(size, (view.x[peak.index], 1), (shift, 0), ha=side, color=colour, **place)
        axis.annotate("fall", (view.x[fall.index], 1), (2, -9 if at_left else 0), color=MUTED, **place)


def _step_axis(axis: "Axes", views: Sequence[View], left_out: Sequence[str]) -> None:
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullFormatter

    labels, small = step_ticks(views)
    if views[0].has_steps:
        axis.set_xscale("log")
    axis.xaxis.set_major_locator(FixedLocator(list(labels)))
    axis.xaxis.set_major_formatter(FixedFormatter(list(labels.values())))
    axis.xaxis.set_minor_locator(FixedLocator(small))
    axis.xaxis.set_minor_formatter(NullFormatter())
    note = f"\nwithout steps, not drawn: {', '.join(left_out)}" if left_out else ""
    axis.set_xlabel(("step" if views[0].has_steps else "checkpoint") + note)


def _undated(path: Path) -> dict[str, None] | None:
    """Metadata that leave the date out: the same figure is the same file."""
    return {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}.get(path.suffix.lower())
