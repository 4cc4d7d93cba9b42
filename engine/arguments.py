"""What may be asked for: refused in one line before anything is done, by whoever is asked."""

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
