"""Factor codes: W ≈ Σ a_i b_iᵀ with integer sides, fitted in the metric of the loss.

Start from the SVD of A^½ W G^½; round the left sides; solve the right sides for the rounded left ones and round them;
solve and round the left sides again; and once more the right. A component that does not earn its bits is dropped.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..codec.arithmetic import IntArray
from ..codec.exact import FloatArray
from ..codec.representation import nearest_step, step_size
from .rate import row_bits
from .rounding import Array, Metric, round_matrix

_Map = Callable[[np.ndarray], np.ndarray]

CUT = 0.3  # singular directions below this many noise levels never survive
ROTATED_CUT = 1.5  # those above it are worth rotating
LARGEST_ROTATION = 64


class Factors(NamedTuple):
    """Left sides [r, m] and right sides [r, n] in units of `step` (an index), strongest first."""

    left: IntArray
    right: IntArray
    step: int


class Decomposition(NamedTuple):
    """The whitened SVD, brought back: W = Σ_i left_i singular_i right_i, `left` [m, r] and `right` [r, n]."""

    left: FloatArray
    singular: FloatArray
    right: FloatArray


def decompose(weights: FloatArray, rows: Metric, columns: Metric) -> Decomposition:
    """The SVD of `weights` ([m, n]) in the damped metrics of its two sides.

    Any root of a metric whitens it; its Cholesky factor is the cheapest.
    """
    (half, unhalf), (half_columns, unhalf_columns) = _root(rows.damped), _root(columns.damped)
    u, s, v = np.linalg.svd(half_columns(half(weights).T).T, full_matrices=False)
    return Decomposition(unhalf(u), s, unhalf_columns(v.T).T)


def _root(metric: Array) -> tuple[_Map, _Map]:
    """For a metric M = L Lᵀ ([n, n], or [n]) the maps x → Lᵀ x and x → L⁻ᵀ x."""
    if metric.ndim == 1:
        root = np.sqrt(metric)[:, None]
        return lambda x: root * x, lambda x: x / root
    lower = np.linalg.cholesky(metric)
    return lambda x: lower.T @ x, lambda x: np.linalg.solve(lower.T, x)


def _apply(metric: Array, matrix: FloatArray) -> FloatArray:
    return metric[:, None] * matrix if metric.ndim == 1 else metric @ matrix


def _solve(sides: FloatArray, metric: Array, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The Gram matrix [r, r] of `sides` ([r, k]) in the metric, and the other sides [r, n].

    These are the ones that fit `weights` ([k, n]) best.
    """
    weighted = _apply(metric, sides.T).T
    gram = weighted @ sides.T
    ridge = 1e-9 * np.trace(gram) / len(gram) * np.eye(len(gram))
    return gram, np.linalg.solve(gram + ridge, weighted @ weights)


def factorise(
    weights: FloatArray,
    fitted: tuple[Metric, Metric],
    rounded: tuple[Metric, Metric],
    start: tuple[FloatArray, FloatArray],
    level: float,
    slope: float,
) -> Factors | None:
    """Integer factors of `weights` ([m, n]) at noise level `level`, from real `start` sides ([r, m], [r, n]).

    `fitted` are the metrics of the two sides for solving, `rounded` those for rounding (more damped). None if nothing
    survives.
    """
    left_real, right_real = start
    strength = np.sqrt((right_real**2).sum(1))
    price_rows, price_columns = rounded[0].conditional, rounded[1].conditional
    identity = Metric(np.ones(len(left_real)), 0.0)
    units = level / (strength * math.sqrt(price_rows) * math.sqrt(price_columns))
    left = round_matrix(
        left_real * (1 / np.maximum(units, 1e-30))[:, None], identity, rounded[0], np.ones(len(units)), 0.0
    )
    for last in (False, True):
        left = left[np.abs(left).sum(1) > 0]
        if not len(left):
            return None
        norms = np.sqrt((left.astype(np.float64) ** 2).sum(1))
        gram, right_real = _solve(left / norms[:, None], fitted[0].damped, weights)
        inner = Metric(gram, 1e-6)
        step = nearest_step(level / math.sqrt(inner.conditional * price_columns))
        right = round_matrix(right_real, inner, rounded[1], np.full(len(left), step_size(step)), slope)
        keep = _worthwhile(left, right, gram, fitted[1].damped, step_size(step), slope * (1.0 if last else 0.5))
        left, right, norms = left[keep], right[keep], norms[keep]
        if not len(left):
            return None
        if last:
            order = np.argsort(-np.abs(right).sum(1), kind="stable")
            return Factors(left[order], right[order], step)
        sides = right * (step_size(step) / norms)[:, None]
        gram, left_real = _solve(sides, fitted[1].damped, np.ascontiguousarray(weights.T))
        left = round_matrix(left_real, Metric(gram, 1e-6), rounded[0], np.ones(len(left_real)), slope)
    raise AssertionError("the loop returns on its last turn")


def _worthwhile(
    left: IntArray, right: IntArray, gram: FloatArray, columns: Array, size: float, slope: float
) -> np.ndarray:
    """Which components lower the distortion, given that the others would be refitted, by more than their bits cost."""
    conditional = 1 / np.maximum(
        np.diag(np.linalg.inv(gram + 1e-9 * np.trace(gram) / len(gram) * np.eye(len(gram)))), 1e-30
    )
    energy = (right * _apply(columns, right.T.astype(np.float64)).T).sum(1) * size * size
    bits = row_bits(left) + row_bits(right)
    return (np.abs(right).sum(1) > 0) & (energy * conditional > slope * bits)
