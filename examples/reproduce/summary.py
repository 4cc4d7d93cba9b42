"""What the grid says, in numbers: one row per run, and the tables of docs/reproduction.md."""

import csv
import io
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from kolmogram.engine.files import write_text
from runs import GridRun
from tables import ACCURATE, COMPLEXITY, PROXIES, Columns, fallen, passes, phases, read, steepest

ABLE = 0.99  # test accuracy of a network whose size is compared with that of others

Row = dict[str, Any]


def summarise(tables: Mapping[GridRun, Path], folder: Path) -> str:
    """Write summary.csv and summary.md into `folder`; returns the latter."""
    measured = {run: read(path) for run, path in tables.items()}
    rows = [summary(run, table) for run, table in measured.items()]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / "summary.csv", text.getvalue())
    grokked = [row for row in rows if not math.isnan(row["accurate"])]
    sections = {
        "Phases": markdown(map(phase_row, rows)),
        "Order of events": markdown(map(order_row, grokked)),
        "Naive proxies": markdown(map(proxy_row, rows)),
        "The regulariser against weight decay alone": markdown(regulariser_rows(measured)),
    }
    page = "\n\n".join(f"## {title}\n\n{table}" for title, table in sections.items() if table) + "\n"
    write_text(folder / "summary.md", page)
    return page


def summary(run: GridRun, table: Columns) -> Row:
    """Everything that the tables below say of one run; steps and bytes."""
    found = phases(table)
    row: Row = {"operation": run.operation, "recipe": run.recipe, "seed": run.seed, "last_step": table["step"][-1]}
    row |= {f"accuracy_{level}": passes(table, "test_accuracy", level) for level in (0.1, 0.5)}
    row["accurate"] = passes(table, "test_accuracy", ACCURATE)
    for name, phase in (("onset", found.onset), ("peak", found.peak), ("fall", found.fall)):
        row[name] = phase.step if phase else math.nan
        row[f"{name}_confidence"] = phase.confidence if phase else math.nan
    row |= {f"fallen_{share}": fallen(table, share) for share in (0.1, 0.5, 0.9)}
    sizes = table[COMPLEXITY]
    row |= {"largest_bytes": np.nanmax(sizes), "final_bytes": sizes[-1]}
    row |= {"final_train_accuracy": table["train_accuracy"][-1], "final_test_accuracy": table["test_accuracy"][-1]}
    for column in PROXIES:
        fall = phases(table, column).fall
        row |= {f"{column}_fall": fall.step if fall else math.nan, f"{column}_steepest": steepest(table, column)}
    return row


def phase_row(row: Row) -> Row:
    """Markers of one run beside the step at which it can do the test."""
    cells = {"run": name(row), "test accuracy 0.9": count(row["accurate"])}
    for marker in ("onset", "peak", "fall"):
        confidence = row[f"{marker}_confidence"]
        cells[marker] = "none" if math.isnan(confidence) else f"{count(row[marker])} ({confidence:.2f})"
    cells["fall / accuracy 0.9"] = ratio(row["fall"], row["accurate"])
    return cells | {"largest, bytes": count(row["largest_bytes"]), "last, bytes": count(row["final_bytes"])}


def order_row(row: Row) -> Row:
    """Steps of complexity's fall and of accuracy's rise, in shares of each."""
    cells = {"run": name(row)}
    cells |= {f"fallen {share:.0%}": count(row[f"fallen_{share}"]) for share in (0.1, 0.5, 0.9)}
    steps = {0.1: row["accuracy_0.1"], 0.5: row["accuracy_0.5"], ACCURATE: row["accurate"]}
    return cells | {f"test accuracy {level}": count(step) for level, step in steps.items()}


def proxy_row(row: Row) -> Row:
    """For each proxy the fall that `phases` finds, and its steepest descent, as multiples of the step of accuracy."""
    cells = {"run": name(row), "C₁, fall": found(row["fall"], row["accurate"])}
    for column, title in PROXIES.items():
        cells[f"{title}, fall"] = found(row[f"{column}_fall"], row["accurate"])
        cells[f"{title}, steepest"] = ratio(row[f"{column}_steepest"], row["accurate"])
    return cells


def regulariser_rows(tables: Mapping[GridRun, Columns]) -> Iterable[Row]:
    """Weight decay alone, with the spectral-entropy regulariser, and with noise too: seed 0, equally accurate.

    Compared at the last checkpoint at which all of them can do the test; a run may end in a spike of its loss.
    """
    recipes = {"weight_decay": "weight decay", "noiseless": "and spectral entropy", "paper": "and noise"}
    found = {(run.operation, run.recipe): table for run, table in tables.items() if run.seed == 0}
    for operation in dict.fromkeys(run.operation for run in tables):
        trio = [found.get((operation, recipe)) for recipe in recipes]
        chosen = [table for table in trio if table is not None]
        if len(chosen) < len(recipes):
            continue
        able = [step for step in chosen[0]["step"] if all(at(t, "test_accuracy", step) >= ABLE for t in chosen)]
        if not able:
            continue
        cells = {"operation": operation, "step": count(able[-1])}
        for title, column, write in (("C₁", COMPLEXITY, count), ("accuracy", "test_accuracy", "{:.3f}".format)):
            values = {name: at(table, column, able[-1]) for name, table in zip(recipes.values(), chosen, strict=True)}
            cells |= {f"{name}, {title}": write(value) for name, value in values.items()}
        yield cells


def at(table: Columns, column: str, step: float) -> float:
    """A column at a step; NaN where there is no such checkpoint."""
    return float(next(iter(table[column][table["step"] == step]), math.nan))


def markdown(rows: Iterable[Row]) -> str:
    """A table of rows with equal keys; nothing of none."""
    rows = list(rows)
    if not rows:
        return ""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def name(row: Row) -> str:
    """A run's name for people."""
    return f"{row['operation']}, {row['recipe'].replace('_', ' ')}, {row['seed']}"


def found(step: float, accurate: float) -> str:
    """A fall relative to the step of accuracy; where that is never reached, the step of the false alarm."""
    if math.isnan(step):
        return "none"
    return f"at {count(step)}" if math.isnan(accurate) else ratio(step, accurate)


def ratio(step: float, other: float) -> str:
    """A quotient, or a dash."""
    return "–" if math.isnan(step / other) else f"{step / other:.2f}"


def count(value: float) -> str:
    """A whole number with separators, or a dash."""
    return "–" if math.isnan(value) else f"{value:,.0f}"
