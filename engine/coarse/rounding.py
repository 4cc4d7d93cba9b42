"""Rounding that looks at rate and distortion together, with error feedback on both sides of a matrix.

Errors are weighed by a Kronecker metric: distortion tr(Eᵀ A E G). Both factors are split as L D Lᵀ; entries are
rounded last to first, each after adding what the errors made so far ask of it (GPTQ, Frantar et al. 2022, here on
rows and columns), and each gives up magnitude where the bits cost more than the error (the dead zone of RDOQ in video
coders).
"""

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ..codec.arithmetic import IntArray
from ..codec.exact import FloatArray
from ..lazy import lazy
from .rate import laplace_costs

_TINY = 1e-30
Array = NDArray[np.floating]
"""Metrics and errors may be in float32; what is rounded is in float64, for steps may be fine."""
Factors = tuple[Array, FloatArray]
"""Unit lower L ([n, n]; [0, 0] for a diagonal metric) and D ([n]) of a metric L D Lᵀ."""


@dataclass(frozen=True, eq=False)
class Metric:
    """A symmetric positive metric of one axis: `matrix` [n, n], or [n] when it is diagonal.

    `damping` in mean diagonals.
    """

    matrix: Array
    damping: float

    @lazy
    def damped(self) -> Array:
        """The matrix with its damping on the diagonal, same shape as `matrix`."""
        if self.matrix.ndim == 1:
            return self.matrix + self.damping * max(self.matrix.mean(), _TINY) + _TINY
        mean = max(float(np.trace(self.matrix)) / len(self.matrix), _TINY)
        damped = self.matrix.copy()
        damped[np.diag_indices_from(damped)] += self.damping * mean + _TINY
        return damped

    @lazy
    def order(self) -> NDArray[np.intp]:
        """Coordinates from light to heavy: the heaviest are rounded first, while others can still make up for them."""
        diagonal = self.matrix if self.matrix.ndim == 1 else np.diag(self.matrix)
        return np.argsort(diagonal, kind="stable")

    @lazy
    def factors(self) -> Factors:
        """Unit lower L ([n, n] float32, [0, 0] for a diagonal metric) and D ([n]) of the damped metric in `order`."""
        damped = self.damped
        if damped.ndim == 1:
            return np.zeros((0, 0), np.float32), damped[self.order].astype(np.float64)
        root = np.linalg.cholesky(damped.take(self.order, 0).take(self.order, 1))
        diagonal = np.diag(root).astype(np.float64)
        return np.ascontiguousarray(root / diagonal, np.float32), diagonal * diagonal

    @lazy
    def conditional(self) -> float:
        """Mean of D: the price of a unit error after the others have made up for it."""
        return float(self.factors[1].mean())


@njit(cache=True, fastmath=True, nogil=True)
def _round(
    weights: FloatArray,
    row_factors: Factors,
    column_factors: Factors,
    step: FloatArray,
    slope: float,
    per_unit: FloatArray,
    symbols: FloatArray,
    errors: Array,
) -> None:
    rows, columns = weights.shape
    (lower_rows, price_rows), (lower_columns, price_columns) = row_factors, column_factors
    from_rows = np.zeros(columns, np.float32)
    from_columns = np.zeros(columns, np.float32)
    for i in range(rows - 1, -1, -1):
        from_rows[:] = 0.0
        if lower_rows.size > 0:
            for k in range(i + 1, rows):
                factor = lower_rows[k, i]
                if factor != 0.0:
                    for j in range(columns):
                        from_rows[j] += factor * errors[k, j]
        size = step[i]
        from_columns[:] = 0.0
        for j in range(columns - 1, -1, -1):
            x = (weights[i, j] + from_rows[j] + from_columns[j]) / size
            magnitude = abs(x)
            price = price_rows[i] * price_columns[j] * size * size
            shrink = slope * per_unit[i] / (2.0 * price) if price > 0.0 else 1e9
            q = np.floor(magnitude - shrink + 0.5)
            if (
                q <= 0.0
                or price * (magnitude - q) ** 2 + slope * (per_unit[i] * q + 1.0) > price * magnitude * magnitude
            ):
                q = 0.0
            if x < 0.0:
                q = -q
            symbols[i, j] = q
            errors[i, j] = np.float32(weights[i, j] - q * size)
            if lower_columns.size > 0:
                fed = from_rows[j] + errors[i, j]
                for k in range(j):
                    from_columns[k] += fed * lower_columns[j, k]


def round_matrix(weights: FloatArray, rows: Metric, columns: Metric, step: FloatArray, slope: float) -> IntArray:
    """Integers ([m, n]) for `weights` ([m, n]) in units of `step` ([m], one per row) at `slope` distortion per bit."""
    return _rounded(weights, rows.order, columns.order, rows.factors, columns.factors, step, slope)


@njit(cache=True, nogil=True)
def _rounded(
    weights: FloatArray,
    order_rows: IntArray,
    order_columns: IntArray,
    row_factors: Factors,
    column_factors: Factors,
    step: FloatArray,
    slope: float,
) -> IntArray:
    """All of it in one call: threads that round other matrices meanwhile need not take turns at the interpreter."""
    sorted_step = step[order_rows]
    sorted_weights = np.empty(weights.shape)
    for i in range(order_rows.size):
        for j in range(order_columns.size):
            sorted_weights[i, j] = weights[order_rows[i], order_columns[j]]
    mean = _mean_magnitudes(sorted_weights, sorted_step)
    symbols, errors = np.empty(weights.shape), np.empty(weights.shape, np.float32)
    for _ in range(2 if slope > 0 else 1):
        per_unit = np.minimum(laplace_costs(np.maximum(mean, 0.02))[1], 6.0)
        _round(sorted_weights, row_factors, column_factors, sorted_step, slope, per_unit, symbols, errors)
        mean = _mean_magnitudes(symbols, np.ones(step.size))
    result = np.empty(weights.shape, np.int64)
    for i in range(order_rows.size):
        for j in range(order_columns.size):
            result[order_rows[i], order_columns[j]] = int(symbols[i, j])
    return result


@njit(cache=True, nogil=True)
def _mean_magnitudes(weights: FloatArray, step: FloatArray) -> FloatArray:
    """Mean of |round(w / step)| of each row."""
    result = np.zeros(step.size)
    for i in range(step.size):
        for j in range(weights.shape[1]):
            result[i] += np.floor(abs(weights[i, j]) / step[i] + 0.5)
    return result / weights.shape[1]
