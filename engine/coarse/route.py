"""Where a search goes, before it comes to the ε that it was asked for: first beyond, then back by short strides.

A network that has been coarse has found its structure, and keeps it when it becomes finer again; one that comes from
the fine side has not. But where most of what the network knew is lost, there is nothing to come back from.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

BEYOND = 1.5  # times the largest ε asked for
HOME, FURTHEST = 0.15, 0.38  # shares of what the empty network loses: where to go at least, and no further before
STRIDE = 5.0  # smaller ε are reached by factors of this at most


class Route(NamedTuple):
    """Stations of a search, rises of the loss in nats."""

    first: float
    back: list[float]
    """Smaller ones, descending: those asked for and some on the way."""
    further: list[float]
    """Larger ones, ascending."""


def route(asked: Sequence[float], empty: float) -> Route:
    """The way to all of the ascending ε `asked` for, if the empty network loses `empty` nats."""
    limit = FURTHEST * empty
    near = [epsilon for epsilon in asked if epsilon <= limit]
    if not near:
        return Route(asked[0], [], list(asked[1:]))
    home = HOME * empty if math.isfinite(empty) else 0.0
    largest = near[-1]
    first = max(BEYOND * largest if BEYOND * largest <= limit else largest, home)
    back, here = [], first
    for epsilon in reversed(near):
        strides = math.ceil(math.log(here / epsilon) / math.log(STRIDE))
        back += [here * (epsilon / here) ** (stride / strides) for stride in range(1, strides)]
        back += [epsilon] if epsilon < first else []
        here = epsilon
    return Route(first, back, list(asked[len(near) :]))
