"""Tables of the grid as columns, and where a curve passes a level."""

import csv
import math
from pathlib import Path

import numpy as np
from kolmogram.analyzers.phases import Phases, find_phases

Columns = dict[str, np.ndarray]

COMPLEXITY = "complexity_bytes@1.0"
PROXIES = {
    "prediction_bytes": "zip of predictions",
    "squared_norm": "‖w‖²",
    "fisher_bits": "Fisher MDL",
}
ACCURATE = 0.9


def read(path: Path) -> Columns:
    """The numeric columns of a table, (n,) float64 each."""
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    numeric = [name for name in rows[0] if name not in ("checkpoint", "status")]
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in numeric}


def phases(table: Columns, column: str = COMPLEXITY) -> Phases:
    """Onset, peak and fall of a column."""
    if column not in table:
        return Phases(None, None, None)
    return find_phases(list(table["step"]), list(table[column]))


def passes(table: Columns, column: str, level: float, start: int = 0) -> float:
    """The step at which a column first crosses a level after row `start`, interpolated in log step; NaN if never."""
    steps, above = table["step"], table[column] >= level
    for i in range(start + 1, len(steps)):
        if above[i] != above[start]:
            low, high = table[column][i - 1], table[column][i]
            share = (level - low) / (high - low)
            return math.exp(np.interp(share, [0, 1], np.log(np.maximum(steps[i - 1 : i + 1], 1))))
    return math.nan


def fallen(table: Columns, share: float, column: str = COMPLEXITY) -> float:
    """The step at which a share of the fall, on a log scale, is done; NaN without a fall."""
    found = phases(table, column)
    if found.peak is None:
        return math.nan
    size, peak = table[column], found.peak.index
    level = size[peak] ** (1 - share) * np.nanmin(size[peak:]) ** share
    return passes(table, column, level, peak)


def steepest(table: Columns, column: str) -> float:
    """The step of the steepest descent, on log scales, over two spacings of checkpoints: the best guess of a proxy."""
    steps, sizes = np.log(table["step"][1:]), np.log(table[column][1:])
    slopes = (sizes[2:] - sizes[:-2]) / (steps[2:] - steps[:-2])
    return math.exp(steps[1 + int(np.nanargmin(slopes))])
