"""Where the step axis has labels: round steps, and 0 where step 0 stands. The page and the paper figure share them."""

import math
from collections.abc import Sequence

from .view import View


def step_ticks(views: Sequence[View], at_most: int = 8) -> tuple[dict[float, str], list[float]]:
    """Place → label, and the small ticks between, for runs that share an axis. Without steps: numbers of checkpoints.

    The fewer decades, the more digits before the zeros; the two ends where no round step lies between them.
    """
    if not views[0].has_steps:
        count = max(len(view.x) for view in views)
        return {i: str(i) for i in range(1, count + 1, math.ceil(count / at_most) or 1)}, []
    steps = [step for view in views for step in view.steps if step > 0] or [1.0]
    low, high = min(steps), max(steps)
    digits = (1,) if high >= 100 * low else (1, 2, 5) if high >= 10 * low else (1, 2, 3, 5, 7)
    places = _round_steps(low, high, digits)
    if len(places) < 2:
        places = sorted({low, high})
    starts = {x for view in views for x, step in zip(view.x, view.steps, strict=True) if step == 0 and x < low}
    labels = dict.fromkeys(starts, "0") if len(starts) == 1 else {}
    labels |= {place: f"{place:,.0f}" for place in places[:: math.ceil(len(places) / at_most)]}
    return labels, _round_steps(low, high, range(1, 10))


def _round_steps(low: float, high: float, digits: Sequence[int]) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [d * 10.0**k for k in decades for d in digits if low <= d * 10.0**k <= high]
