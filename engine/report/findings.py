"""What tables say, in sentences: only what the numbers carry."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .labels import complexity_label, format_bytes
from .view import View


def findings(view: View) -> list[str]:
    """What the trajectory says, in sentences; only what the numbers carry."""
    main, peak, fall = view.main_complexity, view.phases.peak, view.phases.fall
    if main is None:
        return []
    sentences = [_course(view, name) for name in view.complexity_columns() if name == main or len(view.sizes(name)) < 2]
    if fall:
        half_way = f"{_at(view, fall.index)} (confidence {fall.confidence:.2f})"
        sentences.append(f"By its sizes alone, the fall is half-way {half_way}")
    accuracy = view.column("test_accuracy")
    passed = next((i for i, value in enumerate(accuracy or []) if value >= 0.9), None)
    if passed is not None:
        order = "after" if peak and passed > peak.index else "before" if peak and passed < peak.index else "at"
        sentences.append(f"Test accuracy passes 0.9 {_at(view, passed)}" + (f", {order} the peak" if peak else ""))
    return [sentence + "." for sentence in (*sentences, *hints(view))]


def hints(view: View) -> list[str]:
    """What to do about an ε that asks nothing of a network: all its tensors are coded as zero at every checkpoint."""
    found = []
    for name in view.complexity_columns():
        if {word for words in view.tensor_details(name).values() for word in words if word} == {"zero"}:
            epsilon = complexity_label(name)
            found.append(
                f"{epsilon} is more than what the empty network loses: every file is empty; try a smaller --epsilon"
            )
    return found


def _course(view: View, name: str) -> str:
    """How one column of sizes goes. A peak is one only if a fall from it was found: sizes are noisy."""
    values = view.column(name) or []
    known = [i for i, value in enumerate(values) if not math.isnan(value)]
    first, last = known[0], known[-1]
    low, high = min(view.sizes(name)), max(view.sizes(name))
    epsilon, _, method = complexity_label(name).partition(",")
    subject = f"Complexity ({epsilon} nat{',' if method else ''}{method})"
    if low == high:
        where = "throughout" if first != last else _at(view, last)
        return f"{subject} is {format_bytes(high)} {where}"
    if peak := view.phases.peak:
        return f"{subject} {_peak_and_fall(view, values, known, peak.index)}"
    if len(known) == 2:
        ends = (f"{format_bytes(values[i])} {_at(view, i)}" for i in known)
        return f"{subject} is {' and '.join(ends)}"
    unseen = "; no fall is seen" if view.has_steps else ""
    return f"{subject} ranges from {format_bytes(low)} to {format_bytes(high)}{unseen}"


def _peak_and_fall(view: View, values: Sequence[float], known: Sequence[int], peak: int) -> str:
    """The end of the fall is the last size unless it has risen again."""
    last, lowest = known[-1], min((i for i in known if i > peak), key=lambda i: values[i])
    end = last if values[last] <= 1.05 * values[lowest] else lowest
    fall = f"falls to {format_bytes(values[end])} {_at(view, end)}, {values[peak] / values[end]:.1f} times less"
    again = "" if end == last else f", then rises to {format_bytes(values[last])} {_at(view, last)}"
    return f"peaks at {format_bytes(values[peak])} {_at(view, peak)} and {fall}{again}"


def _at(view: View, i: int) -> str:
    step, checkpoint = view.rows[i]["step"], view.rows[i]["checkpoint"]
    return f"in {checkpoint}" if math.isnan(step) else f"at step {int(step):,}"


def verdict(row: Mapping[str, Any]) -> str:
    """Whether a row's bound on the error is worth anything: below chance, only below 1, or vacuous."""
    unseen = row.get("unseen_error_bound", math.nan)
    bound = row.get("error_bound", math.nan) if math.isnan(unseen) else unseen
    if math.isnan(bound):
        return "–"
    return "below chance" if bound < row["chance_error"] else "below 1" if bound < 1 else "nothing"


def bound_terms(bounds: Mapping[str, Any]) -> tuple[str, list[str]]:
    """What comes before the assumptions of bounds, and these; where there are no bounds, why, and nothing."""
    said = bounds["assumptions"]
    if len(said) == 1:
        return said[0], []
    sample = f"With probability {bounds['confidence']:g} over the training sample"
    return f"{sample}, for all rows together, provided that", said
