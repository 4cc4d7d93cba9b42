"""The page's charts as Plotly figures (plain dicts of data and layout)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .labels import format_bytes
from .style import BAND, HAIRLINE, INK, MUTED, OTHERS, RUNS, TENSORS, lighten, role_colour
from .ticks import step_ticks
from .view import Line, Panel, View, panel_titles

Chart = dict[str, Any]

FONT = "Inter, 'Helvetica Neue', Helvetica, Arial, sans-serif"
MAX_TENSORS = 40
"""Curves per chart; a page with thousands would say nothing and not load."""


def overview(views: Sequence[View]) -> Chart:
    """The picture of the run(s): accuracy or loss above, complexity below, on one step axis."""
    titles = panel_titles(views)
    traces: list[dict[str, Any]] = []
    layout = _layout(height=200 + 210 * len(titles), right=130, top=44)
    spans = _spans(len(titles), first_share=0.8 if len(titles) > 1 else 1.0)
    for row, title in enumerate(titles):
        number = "" if row == 0 else str(row + 1)
        panels = [(i, view, panel) for i, view in enumerate(views) for panel in view.panels() if panel.title == title]
        layout[f"yaxis{number}"] = _y_axis(panels[0][2]) | {"domain": spans[row]}
        layout["annotations"].append(_panel_title(panels[0][2], spans[row][1]))
        for i, view, panel in panels:
            for line in panel.lines if len(views) == 1 else panel.compared():
                colour = _colour(line, i, len(views))
                traces += _band(view, line, f"y{number}", colour)
                traces.append(_trace(view, line, f"y{number}", colour, len(views) > 1))
        if len(views) == 1:
            height = (spans[row][1] - spans[row][0]) * layout["height"]
            layout["annotations"] += _end_labels(views[0], panels[0][2], f"y{number}", height)
    layout["xaxis"] = _step_axis(views) | {"anchor": f"y{'' if len(titles) == 1 else len(titles)}", "showspikes": True}
    if len(views) == 1:
        _mark_phases(layout, views[0], titles)
    return {"data": traces, "layout": layout}


def tensor_bytes(view: View) -> Chart | None:
    """Coded bytes by tensor, stacked: where the description of the network goes."""
    column = view.main_complexity
    by_tensor = view.tensor_values(column) if column else {}
    if not by_tensor:
        return None
    ordered = _largest_first(by_tensor)
    shown, rest = ordered[: len(TENSORS)], ordered[len(TENSORS) :]
    details = view.tensor_details(column) if column else {}
    bands = [(name, by_tensor[name], details[name], TENSORS[i]) for i, name in enumerate(shown)]
    if rest:
        others = [sum(by_tensor[name][i] for name in rest) for i in range(len(view.x))]
        bands.append((f"{len(rest)} others", others, [""] * len(others), OTHERS))
    measured = [i for i in range(len(view.x)) if not all(math.isnan(values[i]) for _, values, _, _ in bands)]
    traces = [_area(view, *band, measured) for band in bands]
    axes = {"xaxis": _step_axis([view]), "yaxis": _axis() | _BYTE_TICKS | {"rangemode": "tozero"}}
    layout = _layout(height=400) | axes | {"showlegend": True, "legend": _LEGEND, "hovermode": "x unified"}
    return {"data": traces, "layout": layout}


def effective_ranks(view: View) -> Chart | None:
    """Effective rank of every matrix, in the colours of the bytes chart."""
    by_tensor = view.tensor_values("effective_rank")
    if not by_tensor:
        return None
    colours = tensor_colours(view)
    names = _largest_first(by_tensor)[:MAX_TENSORS]
    traces = [_curve(view, name, by_tensor[name], colours.get(name, OTHERS), "%{y:.1f} directions") for name in names]
    layout = _layout(height=380) | {"xaxis": _step_axis([view]), "yaxis": _axis() | {"rangemode": "tozero"}}
    return {"data": traces, "layout": layout | {"showlegend": True, "legend": _LEGEND}}


def singular_values(view: View) -> Chart | None:
    """Singular values at ranks 1, 2, 4, … of one matrix at a time, chosen from a menu."""
    ranks = sorted(
        {int(m.partition("@")[2]) for m in view.trajectory.tensors["measure"] if m.startswith("singular_value@")}
    )
    curves = {rank: view.tensor_values(f"singular_value@{rank}") for rank in ranks}
    names = list(curves[1])[:MAX_TENSORS] if ranks else []
    if not names:
        return None
    traces: list[dict[str, Any]] = []
    owners: list[str] = []
    for name in names:
        own = [rank for rank in ranks if name in curves[rank]]
        for i, rank in enumerate(own):
            colour = lighten("#7a1f5c", 0.72 * i / max(1, len(own) - 1))
            trace = _curve(view, f"rank {rank}", curves[rank][name], colour, "%{y:.3g}")
            traces.append(trace | {"visible": name == names[0]})
            owners.append(name)
    buttons = [
        {"label": _short(name), "method": "update", "args": [{"visible": [owner == name for owner in owners]}]}
        for name in names
    ]
    layout = _layout(height=380) | {"xaxis": _step_axis([view]), "yaxis": _axis() | {"type": "log", "dtick": 1}}
    layout |= {"showlegend": True, "legend": _LEGEND | {"y": 0.86}, "updatemenus": [_MENU | {"buttons": buttons}]}
    return {"data": traces, "layout": layout}


def controls(views: Sequence[View]) -> Chart | None:
    """Small panels of what needs no task: ranks, entropy estimate, norm."""
    wanted = {
        "effective_rank": "Effective rank",
        "stable_rank": "Stable rank",
        "entropy_bits@0.25": "Entropy",
        "l2_norm": "Weight norm",
    }
    above = panel_titles(views)
    present = [name for name in wanted if wanted[name] not in above and any(view.column(name) for view in views)]
    if not present:
        return None
    traces: list[dict[str, Any]] = []
    layout = _layout(height=290, top=60)
    gap = 0.06
    width = (1 - gap * (len(present) - 1)) / len(present)
    for i, name in enumerate(present):
        number, left = "" if i == 0 else str(i + 1), i * (width + gap)
        place = {"domain": [left, left + width], "anchor": f"y{number}"}
        layout[f"xaxis{number}"] = _step_axis(views, title=False, at_most=4) | place
        layout[f"yaxis{number}"] = _axis() | {"anchor": f"x{number}", "nticks": 5}
        layout["annotations"].append(_caption(wanted[name], left, 1.0))
        for j, view in enumerate(views):
            if values := view.column(name):
                colour = RUNS[j % len(RUNS)] if len(views) > 1 else INK
                trace = _curve(view, view.name, values, colour, "%{y:.4g}")
                traces.append(trace | {"xaxis": f"x{number}", "yaxis": f"y{number}", "showlegend": False})
    return {"data": traces, "layout": layout}


def tensor_colours(view: View) -> dict[str, str]:
    """Tensor → colour, the largest in bytes (or weights) first; grey is left to those beyond the palette."""
    column = view.main_complexity
    values = (view.tensor_values(column) if column else {}) or view.tensor_values("effective_rank")
    return dict(zip(_largest_first(values), TENSORS, strict=False))


_BYTE_TICKS = {"tickformat": "~s", "ticksuffix": "B"}
_LEGEND = {
    "orientation": "v", "x": 1.02, "y": 1.0, "font": {"size": 12}, "traceorder": "normal", "itemwidth": 30,
    "tracegroupgap": 2,
}  # fmt: skip
_MENU = {
    "x": 1.02, "y": 1.0, "xanchor": "left", "yanchor": "top", "bgcolor": "#ffffff", "bordercolor": HAIRLINE,
    "font": {"size": 12}, "pad": {"r": 0, "t": 0},
}  # fmt: skip


def _layout(height: int, right: int = 20, top: int = 24) -> dict[str, Any]:
    return {
        "height": height,
        "margin": {"l": 48, "r": right, "t": top, "b": 52},
        "font": {"family": FONT, "size": 13, "color": INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hoverlabel": {"bgcolor": "#ffffff", "bordercolor": HAIRLINE, "font": {"color": INK, "family": FONT}},
        "modebar": {"bgcolor": "rgba(255,255,255,0)", "color": "#b9c2ca", "activecolor": INK},
        "showlegend": False,
        "annotations": [],
        "shapes": [],
    }


def _axis() -> dict[str, Any]:
    ticks = {"ticks": "outside", "tickcolor": HAIRLINE, "ticklen": 4, "tickfont": {"color": MUTED, "size": 12}}
    return {
        "gridcolor": HAIRLINE,
        "gridwidth": 1,
        "zeroline": False,
        "linecolor": HAIRLINE,
        "automargin": True,
        **ticks,
    }


def _step_axis(views: Sequence[View], title: bool = True, at_most: int = 8) -> dict[str, Any]:
    labels, small = step_ticks(views, at_most)
    axis = _axis() | {"showgrid": False, "linecolor": "#b9c2ca", "showline": True}
    axis |= {"tickmode": "array", "tickvals": list(labels), "ticktext": list(labels.values())}
    if views[0].has_steps:
        minor = {"tickmode": "array", "tickvals": small, "ticks": "outside", "ticklen": 2, "tickcolor": HAIRLINE}
        axis |= {"type": "log", "minor": minor}
    name = "step" if views[0].has_steps else "checkpoint"
    return axis | ({"title": {"text": name, "font": {"size": 12, "color": MUTED}}} if title else {})


def _y_axis(panel: Panel) -> dict[str, Any]:
    axis = _axis()
    if panel.unit_interval:
        return axis | {"range": [-0.03, 1.05], "dtick": 0.25, "tickformat": ".2~f"}
    return axis | {"rangemode": "tozero", **(_BYTE_TICKS if panel.unit == "bytes" else {})}


def _spans(count: int, first_share: float) -> list[list[float]]:
    """Vertical ranges of the panels from the top, the first one lower than the others."""
    gap = 0.12 if count > 1 else 0.0
    weights = [first_share, *[1.2] * (count - 1)]
    unit = (1 - gap * (count - 1)) / sum(weights)
    spans, top = [], 1.0
    for weight in weights:
        spans.append([max(0.0, top - weight * unit), top])
        top -= weight * unit + gap
    return spans


def _colour(line: Line, run: int, runs: int) -> str:
    if runs == 1:
        return role_colour(line.role, line.rank)
    return lighten(RUNS[run % len(RUNS)], 0.45 if line.role == "train" else 0.0)


def _trace(view: View, line: Line, axis: str, colour: str, named: bool) -> dict[str, Any]:
    prefix = f"{view.name}, " if named else ""
    form = "%{y:,.0f} bytes" if line.role == "complexity" else "%{y:.4g}"
    trace = _curve(view, f"{prefix}{line.label}", line.values, colour, form)
    width = 2.6 if line.role == "test" or (line.role == "complexity" and line.rank == 0) else 1.8
    dash = "dot" if named and line.role == "train" else "solid"
    return trace | {"yaxis": axis, "line": {"color": colour, "width": width, "dash": dash}, "showlegend": False}


def _band(view: View, line: Line, axis: str, colour: str) -> list[dict[str, Any]]:
    """What lies between the smallest and the largest of several searches, as one closed outline."""
    if not line.upper:
        return []
    points = [p for p in zip(view.x, line.values, line.upper, strict=True) if not math.isnan(p[1] + p[2])]
    outline = [(x, low) for x, low, _ in points] + [(x, high) for x, _, high in reversed(points)]
    fill = {"fill": "toself", "fillcolor": colour, "opacity": BAND, "line": {"width": 0}, "mode": "lines"}
    x, y = [x for x, _ in outline], [y for _, y in outline]
    return [{"type": "scatter", "x": x, "y": y, "yaxis": axis, "hoverinfo": "skip", "showlegend": False, **fill}]


def _curve(view: View, name: str, values: Sequence[float], colour: str, form: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": _short(name),
        "x": view.x,
        "y": [None if math.isnan(value) else value for value in values],
        "text": _hover_steps(view),
        "line": {"color": colour, "width": 1.8},
        "marker": {"size": 5, "color": colour},
        "hovertemplate": f"%{{text}}<br><b>{form}</b><extra>{_short(name)}</extra>",
    }


def _area(
    view: View, name: str, values: Sequence[float], details: Sequence[str], colour: str, measured: Sequence[int]
) -> dict[str, Any]:
    """A band of the stack over the checkpoints that were measured: a gap would be drawn as nothing at all."""
    trace = _curve(view, name, values, colour, "") | {"text": details}
    trace |= {key: [trace[key][i] for i in measured] for key in ("x", "y", "text")}
    trace |= {"stackgroup": "bytes", "mode": "lines", "fillcolor": lighten(colour, 0.25)}
    return trace | {"line": {"color": "#ffffff", "width": 0.8}, "hovertemplate": "%{y:,.0f} bytes %{text}"}


def _hover_steps(view: View) -> list[str]:
    if not view.has_steps:
        return [str(row["checkpoint"]) for row in view.rows]
    return [f"step {int(step):,}" for step in view.steps]


def _largest_first(values: Mapping[str, Sequence[float]]) -> list[str]:
    """Names by their mean over the checkpoints that have a value."""

    def mean(name: str) -> float:
        known = [value for value in values[name] if not math.isnan(value)]
        return sum(known) / len(known) if known else 0.0

    return sorted(values, key=lambda name: (-mean(name), name))


def _panel_title(panel: Panel, top: float) -> dict[str, Any]:
    unit = f", {panel.unit}" if panel.unit else ""
    return _caption(f"<b>{panel.title}</b>{unit}", 0.0, top)


def _caption(text: str, x: float, y: float) -> dict[str, Any]:
    place = {"xref": "paper", "yref": "paper", "x": x, "y": y, "xanchor": "left", "yanchor": "bottom", "yshift": 6}
    return {"text": text, "showarrow": False, "font": {"size": 13, "color": INK}, **place}


def _end_labels(view: View, panel: Panel, axis: str, height: float) -> list[dict[str, Any]]:
    """Each line's name beside its last point: quicker to read than a legend."""
    labels = []
    for line, (i, offset) in zip(panel.lines, panel.label_places(height, spacing=15), strict=True):
        where = {"x": math.log10(view.x[i]) if view.has_steps else view.x[i], "y": line.values[i], "yref": axis}
        place = {"showarrow": False, "xanchor": "left", "xshift": 10, "yshift": offset}
        font = {"color": role_colour(line.role, line.rank), "size": 13}
        labels.append({"text": line.label, "font": font, **where, **place})
    return labels


def _mark_phases(layout: dict[str, Any], view: View, titles: Sequence[str]) -> None:
    """Thin lines through all panels where the complexity peaks and where it is half fallen, if it falls."""
    name, peak, fall = view.main_complexity, view.phases.peak, view.phases.fall
    if name is None or peak is None or fall is None:
        return
    for i in (peak.index, fall.index):
        at = {"x0": view.x[i], "x1": view.x[i], "y0": 0, "y1": 1, "yref": "paper"}
        line = {"color": MUTED, "width": 1, "dash": "dot"}
        layout["shapes"].append({"type": "line", "line": line, "layer": "below", **at})
    axis, size = "y" if len(titles) == 1 else f"y{len(titles)}", (view.column(name) or [])[peak.index]
    where = {"x": math.log10(view.x[fall.index]), "y": 0, "yref": axis}
    place = {"showarrow": False, "xanchor": "left", "yanchor": "bottom", "xshift": 3}
    layout["annotations"].append({"text": "fall", "font": {"color": MUTED, "size": 12}, **where, **place})
    where = {"x": math.log10(view.x[peak.index]), "y": size, "yref": axis}
    place = {"showarrow": False, "xanchor": "center", "yanchor": "bottom", "yshift": 5}
    font = {"color": role_colour("complexity", view.complexity_columns().index(name)), "size": 13}
    layout["annotations"].append({"text": f"<b>{format_bytes(size)}</b>", "font": font, **where, **place})


def _short(name: str, length: int = 34) -> str:
    """A name that fits a legend: the end of it says most."""
    text = name.replace("<", "‹").replace(">", "›")
    return text if len(text) <= length else "…" + text[-length + 1 :]
