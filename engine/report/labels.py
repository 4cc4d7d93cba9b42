"""Numbers and columns as people read them."""

import math
from typing import Any


def format_bytes(size: float) -> str:
    """A size for people: `842 B`, `21.2 kB`, `3.4 MB`."""
    if math.isnan(size):
        return "–"
    rounded = float(f"{size:.3g}")  # first, or 999,600 would be 1000 kB
    for factor, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if rounded >= factor:
            return f"{rounded / factor:.3g} {unit}"
    return f"{size:.0f} B"


def format_cell(column: str, value: Any) -> str:
    """One cell of a table for people: whole numbers with separators, others to four digits, – for nothing."""
    if isinstance(value, str):
        return value
    if value is None or math.isnan(value):
        return "–"
    counted = column in ("step", "epoch", "parameters", "nonfinite") or "bytes" in column or "_largest@" in column
    if counted and float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:.4g}"


def complexity_label(column: str) -> str:
    method, _, epsilon = column.partition("@")
    return f"ε = {float(epsilon):g}" + (", the authors' method" if method == "paper_bytes" else "")
