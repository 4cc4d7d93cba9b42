"""One tensor, many codes: at a noise level, the candidate with the least distortion + slope · bits."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from ..codec.exact import FloatArray
from ..codec.representation import ZERO, Basis, Decoded, Kind, Representation, nearest_step, step_size, to_weights
from .curvature import Curvature
from .lowrank import CUT, LARGEST_ROTATION, ROTATED_CUT, Decomposition, decompose, factorise
from .rate import matrix_bits
from .rotation import rotate
from .rounding import Metric, round_matrix
from .transforms import transform_metric

ROUNDING_DAMPING = 1.0  # of the metric that feeds errors back: trusting the sketch more costs up to half of the bytes
FITTING_DAMPING = 0.3  # of the metric that directions are fitted in
BITS_PER_NOISE = 0.1155  # −dD/dR of a uniform quantiser is step² · ln 2 / 6 per bit
SIDE_BITS = 24.0  # step, bases, rank: about what a tensor costs before its first symbol


class Candidate(NamedTuple):
    """One code of a tensor, what it decodes to, its estimated bits and its modelled distortion."""

    decoded: Decoded
    bits: float
    distortion: float

    @property
    def code(self) -> Representation:
        """The code itself."""
        return self.decoded.representation


Bases = tuple[FloatArray | None, FloatArray | None]


@dataclass(frozen=True, eq=False)
class View:
    """The tensor in chosen bases.

    Its weights ([m, n]) and the metrics of its two sides for rounding and for fitting.
    """

    weights: FloatArray
    rounding: tuple[Metric, Metric]
    fitting: tuple[Metric, Metric]

    @cached_property
    def decomposition(self) -> Decomposition:
        """The SVD in the fitting metrics."""
        return decompose(self.weights, *self.fitting)


@dataclass(frozen=True, eq=False)
class TensorCoder:
    """Codes one matrix ([m, n] float64; vectors are one column) under the curvature of the loss."""

    weights: FloatArray
    curvature: Curvature

    @property
    def dead(self) -> bool:
        """Whether the loss does not see this tensor at all."""
        columns = self.curvature.columns
        return not self.weights.any() or float(columns.sum() if columns.ndim == 1 else np.trace(columns)) < 1e-14

    def zero(self) -> Candidate:
        """The code that drops the tensor."""
        zeros = np.zeros_like(self.weights)
        return Candidate(Decoded(ZERO, zeros, (None, None)), 2.0, self.distortion(zeros))

    def distortion(self, decoded: FloatArray) -> float:
        """tr(Eᵀ A E G) of the error E."""
        error = self.weights - decoded
        a, g = self.curvature
        left = a[:, None] * error if a.ndim == 1 else a @ error
        right = error * g if g.ndim == 1 else error @ g
        return float((left * right).sum())

    def view(self, matrices: Bases) -> View:
        """The tensor in the given bases."""
        weights = self.weights
        metrics = [self.curvature.rows, self.curvature.columns]
        if matrices[0] is not None:
            weights = matrices[0] @ weights
            metrics[0] = transform_metric(metrics[0], matrices[0])
        if matrices[1] is not None:
            weights = weights @ matrices[1].T
            metrics[1] = transform_metric(metrics[1], matrices[1])
        rounding = (Metric(metrics[0], ROUNDING_DAMPING), Metric(metrics[1], ROUNDING_DAMPING))
        fitting = (Metric(metrics[0], FITTING_DAMPING), Metric(metrics[1], FITTING_DAMPING))
        return View(np.ascontiguousarray(weights), rounding, fitting)

    def best(self, level: float, bases: tuple[Basis, Basis], matrices: Bases, view: View) -> Candidate:
        """The cheapest code at noise `level` (the root of distortion per symbol that rounding may cause)."""
        if self.dead:
            return self.zero()
        slope = BITS_PER_NOISE * level * level
        candidates = [self.zero()]
        for code, bits in self._codes(level, slope, view, bases):
            matrix = to_weights(code, self.weights.shape, matrices)
            candidates.append(Candidate(Decoded(code, matrix, matrices), bits, self.distortion(matrix)))
        return min(candidates, key=lambda c: c.distortion + slope * c.bits)

    def _codes(
        self, level: float, slope: float, view: View, bases: tuple[Basis, Basis]
    ) -> Iterator[tuple[Representation, float]]:
        yield self._direct(level, slope, view, bases)
        if self.weights.shape[1] == 1:
            return
        svd = view.decomposition
        rank = int((svd.singular > CUT * level).sum())
        if rank == 0:
            return
        left, right = svd.left[:, :rank].T, svd.singular[:rank, None] * svd.right[:rank]
        starts = [(left, right)]
        strong = int((svd.singular > ROTATED_CUT * level).sum())
        if 1 < strong <= LARGEST_ROTATION:
            starts.append(self._rotated(left, right, strong, level, view))
        for start in starts:
            factors = factorise(view.weights, view.fitting, view.rounding, start, level, slope)
            if factors is not None:
                symbols = np.concatenate([factors.left, factors.right], 1).T
                bits = matrix_bits(factors.left) + matrix_bits(factors.right) + SIDE_BITS
                yield Representation(Kind.FACTORS, factors.step, 0, bases, False, np.ascontiguousarray(symbols)), bits

    def _direct(
        self, level: float, slope: float, view: View, bases: tuple[Basis, Basis]
    ) -> tuple[Representation, float]:
        rows, columns = view.rounding
        step = nearest_step(level / math.sqrt(rows.conditional * columns.conditional))
        size = step_size(step)
        vector = self.weights.shape[1] == 1
        offset = round(float(view.weights.mean()) / size) if vector else 0
        steps = np.full(len(view.weights), size)
        symbols = round_matrix(view.weights - offset * size, rows, columns, steps, slope)
        by_columns, by_rows = matrix_bits(symbols.T), matrix_bits(symbols)
        transposed = not vector and by_rows < by_columns
        return Representation(Kind.DIRECT, step, offset, bases, transposed, symbols), min(
            by_rows, by_columns
        ) + SIDE_BITS

    @staticmethod
    def _rotated(
        left: FloatArray, right: FloatArray, strong: int, level: float, view: View
    ) -> tuple[FloatArray, FloatArray]:
        """The start with its strong components rotated towards sparse sides."""
        unit_rows = math.sqrt(view.rounding[0].conditional)
        unit_columns = math.sqrt(view.rounding[1].conditional) / level
        left, right = left.copy(), right.copy()
        turned_left, turned_right = left[:strong] * unit_rows, right[:strong] * unit_columns
        rotate(turned_left, turned_right)
        left[:strong], right[:strong] = turned_left / unit_rows, turned_right / unit_columns
        return left, right
