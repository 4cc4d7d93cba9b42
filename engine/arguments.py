"""What may be asked for: refused in one line before anything is done, by whoever is asked."""

import math
from collections.abc import Iterable
from numbers import Integral
from typing import Any

from .errors import KolmogramError

METHODS = ("kolmogram", "paper")
"""Of finding complexity."""


def checked_method(method: Any) -> str:
    """A method of finding complexity."""
    if method not in METHODS:
        raise KolmogramError(f"unknown method {method!r}: use {' or '.join(METHODS)}")
    return method


def at_least_one(name: str, number: Any) -> int:
    """A number of things."""
    if not isinstance(number, Integral) or number < 1:
        raise KolmogramError(f"{name} must be a whole number, at least 1, not {number!r}")
    return int(number)


def several(epsilon: Any) -> bool:
    """Whether these are ε in a row, and not one of them (an array without axes is one)."""
    return isinstance(epsilon, Iterable) and not isinstance(epsilon, str) and getattr(epsilon, "ndim", 1) > 0


def checked_epsilons(epsilons: Any) -> tuple[float, ...]:
    """One ε or several: how much the loss may rise, nats per example."""
    given = tuple(epsilons) if several(epsilons) else (epsilons,)
    for epsilon in given:
        if not _is_positive(epsilon):
            raise KolmogramError(f"epsilon is the allowed rise of the loss: a positive number of nats, not {epsilon}")
    return tuple(map(float, given))


def _is_positive(number: Any) -> bool:
    try:
        return 0 < float(number) < math.inf
    except (TypeError, ValueError):
        return False
