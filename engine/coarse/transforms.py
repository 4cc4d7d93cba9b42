"""Which basis to code an axis in: its own coordinates, Fourier, or the directions that an earlier tensor uses.

The test is the rate of reverse water-filling (Cover & Thomas §10.3.3): bits = n/2 Σ_j log₂(1 + energy_j / noise), so
that directions below the noise level are free and a basis wins by gathering energy in few of them.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from ..codec.exact import FloatArray
from ..codec.representation import IDENTITY, Basis, BasisKind, Decoded, basis_matrix
from .rounding import Metric

_LONGEST_FOURIER = 512
_SHORTEST_FOURIER = 16
_FOURIER_TAIL = 5  # special tokens that may follow the cyclic ones
_LONGEST_INHERITED = 1024
_SMALLEST_GAIN = 0.03  # of the rate, below which the plain coordinates stay


def _rate(weights: FloatArray, metric: FloatArray, noise: float) -> float:
    """Bits of coding the rows of `weights` ([n, k]), each against the noise that its own metric allows."""
    price = metric if metric.ndim == 1 else np.diag(metric)
    energy = (weights * weights).mean(1) * price
    return float(0.5 * weights.shape[1] * np.log2(1 + energy / noise).sum())


def choose_basis(weights: FloatArray, metric: Metric, noise: float, earlier: Sequence[Decoded]) -> Basis:
    """The basis of axis 0 of `weights` ([n, k]) with the lowest rate at `noise` (squared error in the metric.

    Per entry).
    """
    damped = metric.damped
    plain = _rate(weights, damped, noise)
    best, chosen = plain * (1 - _SMALLEST_GAIN) - 8, IDENTITY
    for basis in _candidates(len(weights), earlier):
        matrix = basis_matrix(basis, len(weights), earlier)
        assert matrix is not None
        rate = _rate(matrix @ weights, transform_metric(damped, matrix), noise)
        if rate < best:
            best, chosen = rate, basis
    return chosen


def transform_metric(metric: FloatArray, basis: FloatArray) -> FloatArray:
    """The metric ([n, n] or [n]) seen in a basis ([n, n], rows)."""
    return (basis * metric) @ basis.T if metric.ndim == 1 else basis @ metric @ basis.T


def _candidates(n: int, earlier: Sequence[Decoded]) -> Iterator[Basis]:
    if _SHORTEST_FOURIER <= n <= _LONGEST_FOURIER:
        for period in range(n, max(n - _FOURIER_TAIL, _SHORTEST_FOURIER) - 1, -1):
            yield Basis(BasisKind.FOURIER, period)
    if n <= _LONGEST_INHERITED:
        for index, source in enumerate(earlier):
            if source.representation.symbols is None or source.matrix.shape[1] == 1:
                continue
            for axis in (0, 1):
                if source.matrix.shape[axis] == n:
                    yield Basis(BasisKind.INHERITED, index, axis)
