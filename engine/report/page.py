"""`report.html`: one self-contained page about one run, or several side by side."""

import html
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files import write_text
from . import charts
from .findings import bound_terms, findings
from .labels import complexity_label, format_cell
from .style import RUNS
from .template import PAGE
from .view import View, load_views, on_one_axis, panel_titles


def write_report(folders: Sequence[str | Path], path: str | Path) -> None:
    """Write the page about the folders that `analyze` wrote. Needs no network to be read: plotly.js is inside."""
    write_text(path, render(load_views(folders)))


def render(views: Sequence[View]) -> str:
    """The page as HTML."""
    from plotly.offline import get_plotlyjs

    collected: dict[str, charts.Chart] = {}

    def chart(figure: charts.Chart | None, title: str, text: str) -> str:
        if figure is None:
            return ""
        name = f"chart-{len(collected)}"
        collected[name] = figure
        return f'<section><h2>{title}</h2><p>{text}</p><div id="{name}" class="chart"></div></section>'

    shared = on_one_axis(views)
    titles = panel_titles(shared)
    text = " ".join(filter(None, (_OVERVIEW["Complexity" in titles], _left_out(views, shared))))
    body = [
        chart(charts.overview(shared) if titles else None, "Trajectory", text),
        chart(charts.controls(shared), *_CONTROLS),
    ]
    for view in views:
        body.append(f"<h1 class='run'>{_text(view.name)}</h1>" if len(views) > 1 else "")
        body.append(chart(charts.tensor_bytes(view), *_BYTES))
        body.append(chart(charts.effective_ranks(view), *_RANKS))
        body.append(chart(charts.singular_values(view), *_SPECTRA))
        body.append(_table(view))
        body.append(_proved(view))
        body.append(_provenance(view))
    return PAGE.format(
        title=_text(", ".join(view.name for view in views)),
        heading=_heading(views, shared),
        body="\n".join(part for part in body if part),
        plotly=get_plotlyjs(),
        charts=json.dumps(collected).replace("<", "\\u003c"),
    )


_OVERVIEW = {
    True: "How well the network predicts, and the fewest bytes found that keep its training loss within ε.",
    False: "Measured on the weights alone; give a task to measure complexity.",
}
_CONTROLS = ("Weight space", "What the weights say without any data.")
_BYTES = ("Where the bytes go", "Coded size of each tensor. What the network does not use costs almost nothing.")
_RANKS = ("Effective rank of every matrix", "exp(spectral entropy): how many directions a matrix really uses.")
_SPECTRA = ("Singular values", "σ at ranks 1, 2, 4, 8, … along the run, one matrix at a time.")


def _left_out(views: Sequence[View], shared: Sequence[View]) -> str:
    names = ", ".join(view.name for view in views if view not in shared)
    return f"Without steps, and so not drawn here: {_text(names)}." if names else ""


def _heading(views: Sequence[View], shared: Sequence[View]) -> str:
    if len(views) > 1:
        colours = {view: RUNS[i % len(RUNS)] for i, view in enumerate(shared)}
        return "<ul class='runs'>" + "".join(_run_item(view, colours.get(view, "none")) for view in views) + "</ul>"
    view = views[0]
    sentences = " ".join(findings(view))
    return f"<h1>{_text(view.name)}</h1><p class='findings'>{_text(sentences)}</p>{_facts(view)}"


def _run_item(view: View, colour: str) -> str:
    swatch = f"<i style='background:{colour}'></i>"
    return f"<li>{swatch}<b>{_text(view.name)}</b> <span>{_text(' '.join(findings(view)))}</span></li>"


def _facts(view: View) -> str:
    trajectory = view.trajectory
    failed = sum(status != "ok" for status in trajectory["status"])
    stepless = len(trajectory) - len(view.rows)  # only the table has these
    weights = [number for number in trajectory["parameters"] if not math.isnan(number)]  # of those that can be read
    facts = {
        "checkpoints": f"{len(trajectory)}"
        + (f", {stepless} without a step" if stepless else "")
        + (f", {failed} with problems" if failed else ""),
        "weights": format_cell("parameters", max(weights, default=math.nan)),
    }
    return "<dl>" + "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts.items()) + "</dl>"


def _table(view: View) -> str:
    """Every checkpoint, those with problems too."""
    names = ("step", *view.table_columns())
    head = "".join(f"<th>{_text(_column_title(name))}</th>" for name in ("checkpoint", *names))
    rows = []
    for row in view.trajectory.rows:
        cells = "".join(f"<td>{_text(format_cell(name, row[name]))}</td>" for name in names)
        rows.append(f"<tr><td>{_text(row['checkpoint'])}</td>{cells}</tr>")
        if row["status"] != "ok":
            rows.append(f"<tr class='problem'><td colspan='{len(names) + 1}'>{_text(row['status'])}</td></tr>")
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f"<section><h2>Checkpoints</h2><div class='scroll'>{table}</div></section>"


def _proved(view: View) -> str:
    """Under which assumptions the bounds hold: nowhere without them."""
    bounds = view.trajectory.provenance.get("bounds")
    if not bounds:
        return ""
    before, assumptions = bound_terms(bounds)
    items = "".join(f"<li>{_text(assumption)}</li>" for assumption in assumptions)
    return f"<section><h2>What the bounds assume</h2><p>{_text(before)}</p><ul>{items}</ul></section>"


def _column_title(name: str) -> str:
    if "bytes@" in name:
        return f"bytes, {complexity_label(name)}"
    return name.replace("_", " ")


def _provenance(view: View) -> str:
    text = json.dumps(view.trajectory.provenance, indent=2, ensure_ascii=False)
    return f"<details><summary>Where these numbers come from</summary><pre>{_text(text)}</pre></details>"


def _text(value: Any) -> str:
    return html.escape(str(value))
