"""Which basis to code an axis in: its own coordinates, Fourier, or the directions that an earlier tensor uses.

The test is the rate of reverse water-filling (Cover & Thomas §10.3.3): bits = n/2 Σ_j log₂(1 + energy_j / noise), so
that directions below the noise level are free and a basis wins by gathering energy in few of them.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from ..codec.exact import FloatArray
from ..codec.representation import IDENTITY, Basis, BasisKind, Decoded, basis_matrix
from .rounding import Array, Metric

_LONGEST_INHERITED = 1024
_TIE = 1.01  # times the rate of plain coordinates up to which Fourier's is taken: it gathers energy that noise may hide
_BASIS_BITS = 8.0  # about what naming an inherited basis costs


def _rate(weights: FloatArray, price: Array, noise: float) -> float:
    """Bits of coding the rows of `weights` ([n, k]), whose errors cost `price` ([n]) each, at `noise`."""
    energy = (weights * weights).mean(1) * price
    return float(0.5 * weights.shape[1] * np.log2(1 + energy / noise).sum())


def choose_basis(
    weights: FloatArray, metric: Metric, noise: float, fourier: Basis, earlier: Sequence[Decoded]
) -> Basis:
    """The basis of axis 0 of `weights` ([n, k]) with the lowest rate at `noise` (squared error in the metric, per
    entry).

    `fourier` is the axis' own Fourier basis, or the identity (`fourier_bases`).
    """
    damped = metric.damped
    best, chosen = _rate(weights, _diagonal(damped), noise), IDENTITY

    def rate_in(basis: Basis) -> float:
        matrix = basis_matrix(basis, len(weights), earlier)
        assert matrix is not None
        return _rate(matrix @ weights, _diagonal_in(damped, matrix), noise)

    if fourier != IDENTITY and (rate := rate_in(fourier)) < _TIE * best:
        best, chosen = rate, fourier
    for basis in _inheritable(len(weights), earlier):
        if (rate := rate_in(basis)) < best - _BASIS_BITS:
            best, chosen = rate, basis
    return chosen


def transform_metric(metric: Array, basis: FloatArray) -> FloatArray:
    """The metric ([n, n] or [n]) seen in a basis ([n, n], rows)."""
    return (basis * metric) @ basis.T if metric.ndim == 1 else basis @ metric @ basis.T


def _diagonal(metric: Array) -> Array:
    return metric if metric.ndim == 1 else np.diag(metric)


def _diagonal_in(metric: Array, basis: FloatArray) -> Array:
    """The diagonal of `transform_metric`."""
    half = basis * metric if metric.ndim == 1 else basis @ metric
    return (half * basis).sum(1)


def _inheritable(n: int, earlier: Sequence[Decoded]) -> Iterator[Basis]:
    """Every basis of an axis of length `n` that an earlier tensor offers."""
    if n > _LONGEST_INHERITED:
        return
    for index, source in enumerate(earlier):
        if source.representation.symbols is None or source.matrix.shape[1] == 1:
            continue
        for axis in (0, 1):
            if source.matrix.shape[axis] == n:
                yield Basis(BasisKind.INHERITED, index, axis)
