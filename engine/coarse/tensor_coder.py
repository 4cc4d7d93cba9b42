"""One tensor, many codes: at a noise level, the candidate with the least distortion + slope · bits."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ..codec.arithmetic import IntArray
from ..codec.exact import FloatArray
from ..codec.representation import ZERO, Basis, Decoded, Kind, Representation, nearest_step, step_size, to_weights
from ..lazy import lazy
from .curvature import Curvature
from .lowrank import CUT, LARGEST_ROTATION, ROTATED_CUT, Decomposition, decompose, factorise
from .rate import matrix_bits
from .rotation import rotate
from .rounding import Array, Metric, round_matrix
from .transforms import transform_metric

ROUNDING_DAMPING = 1.0  # of the metric that feeds errors back: trusting the sketch more costs up to half of the bytes
FITTING_DAMPING = 0.3  # of the metric that directions are fitted in
BITS_PER_NOISE = 0.1155  # −dD/dR of a uniform quantiser is step² · ln 2 / 6 per bit
SIDE_BITS = 24.0  # step, bases, rank: about what a tensor costs before its first symbol


Bases = tuple[FloatArray | None, FloatArray | None]
Sides = tuple[FloatArray, FloatArray]
Sources = tuple[Decoded | None, Decoded | None]


ALL_KINDS = frozenset({Kind.DIRECT, Kind.FACTORS})


class Candidate(NamedTuple):
    """One code of a tensor, what it decodes to, its estimated bits and its modelled distortion."""

    decoded: Decoded
    bits: float
    distortion: float

    @property
    def code(self) -> Representation:
        """The code itself."""
        return self.decoded.representation


@dataclass(frozen=True, eq=False)
class View:
    """The tensor in chosen bases.

    Its weights ([m, n]) and the metrics of its two sides for rounding and for fitting.
    """

    weights: FloatArray
    matrices: Bases
    sources: Sources  # kept, so that their ids stay theirs while the view is remembered by them
    rounding: tuple[Metric, Metric]
    fitting: tuple[Metric, Metric]

    @lazy
    def decomposition(self) -> Decomposition:
        """The SVD in the fitting metrics."""
        return decompose(self.weights, *self.fitting)

    @lazy
    def rotations(self) -> dict[int, Sides | None]:
        """Rotated sides by the log₂ of the noise level they were rotated for.

        One rotation serves the levels around it.
        """
        return {}

    def sides(self, level: float) -> Sides | None:
        """The components that matter at `level`, left [r, m] and right [r, n]."""
        svd = self.decomposition
        rank = int((svd.singular > CUT * level).sum())
        if rank == 0:
            return None
        return np.ascontiguousarray(svd.left[:, :rank].T), svd.singular[:rank, None] * svd.right[:rank]

    def rotated_sides(self, level: float) -> Sides | None:
        """The same with the strong components rotated towards sparse sides.

        Or None where there is nothing to rotate.
        """
        octave = math.floor(math.log2(level))
        if octave not in self.rotations:
            self.rotations[octave] = self._rotate(2.0**octave)
        return self.rotations[octave]

    def _rotate(self, level: float) -> Sides | None:
        strong = int((self.decomposition.singular > ROTATED_CUT * level).sum())
        sides = self.sides(level)
        if sides is None or not 1 < strong <= LARGEST_ROTATION:
            return None
        left, right = sides
        unit_left = math.sqrt(self.rounding[0].conditional)
        unit_right = math.sqrt(self.rounding[1].conditional) / level
        turned_left, turned_right = left[:strong] * unit_left, right[:strong] * unit_right
        rotate(turned_left, turned_right)
        left[:strong], right[:strong] = turned_left / unit_left, turned_right / unit_right
        return left, right


@dataclass(frozen=True, eq=False)
class TensorCoder:
    """Codes one matrix ([m, n] float64; vectors are one column) under the curvature of the loss."""

    weights: FloatArray
    curvature: Curvature

    @lazy
    def dead(self) -> bool:
        """Whether the loss does not see this tensor at all."""
        columns = self.curvature.columns
        return not self.weights.any() or float(columns.sum() if columns.ndim == 1 else np.trace(columns)) < 1e-14

    def zero(self) -> Candidate:
        """The code that drops the tensor."""
        return self._zero

    @lazy
    def _zero(self) -> Candidate:
        return dropped(self.weights.shape, self.distortion(np.zeros_like(self.weights)))

    def distortion(self, decoded: FloatArray) -> float:
        """tr(Eᵀ A E G) of the error E."""
        a, g = self.curvature
        error = (self.weights - decoded).astype(g.dtype)
        left = a[:, None] * error if a.ndim == 1 else a @ error
        right = error * g if g.ndim == 1 else error @ g
        return float((left * right).sum())

    @lazy
    def plain(self) -> View:
        """The tensor in its own coordinates."""
        return self.view((None, None), (None, None))

    def view(self, matrices: Bases, sources: Sources) -> View:
        """The tensor in the given bases, inherited from `sources`."""
        weights = self.weights
        if matrices[0] is not None:
            weights = matrices[0] @ weights
        if matrices[1] is not None:
            weights = weights @ matrices[1].T
        rows, columns = self._metrics(0, matrices[0]), self._metrics(1, matrices[1])
        rounding, fitting = zip(rows, columns, strict=True)
        return View(np.ascontiguousarray(weights), matrices, sources, rounding, fitting)

    def _metrics(self, axis: int, basis: FloatArray | None) -> tuple[Metric, Metric]:
        """The metrics of an axis for rounding and for fitting; in its own coordinates they are shared by all views."""
        return self._own_metrics[axis] if basis is None else _damped(transform_metric(self.curvature[axis], basis))

    @lazy
    def _own_metrics(self) -> tuple[tuple[Metric, Metric], tuple[Metric, Metric]]:
        return _damped(self.curvature.rows), _damped(self.curvature.columns)

    def best(
        self, level: float, bases: tuple[Basis, Basis], view: View, kinds: frozenset[Kind] = ALL_KINDS
    ) -> Candidate:
        """The cheapest code of these `kinds` at noise `level`, the root of the distortion that a symbol may cause."""
        if self.dead:
            return self.zero()
        slope = BITS_PER_NOISE * level * level
        candidates = [self.zero()]
        for code, bits in self._codes(level, slope, view, bases, kinds):
            matrix = to_weights(code, self.weights.shape, view.matrices)
            candidates.append(Candidate(Decoded(code, matrix, view.matrices), bits, self.distortion(matrix)))
        return min(candidates, key=lambda c: c.distortion + slope * c.bits)

    def _codes(
        self, level: float, slope: float, view: View, bases: tuple[Basis, Basis], kinds: frozenset[Kind]
    ) -> Iterator[tuple[Representation, float]]:
        if Kind.DIRECT in kinds:
            yield self._direct(level, slope, view, bases)
        if Kind.FACTORS not in kinds or self.weights.shape[1] == 1:
            return
        m = len(self.weights)
        start = view.rotated_sides(level) or view.sides(level)
        factors = factorise(view.weights, view.fitting, view.rounding, start, level, slope) if start else None
        if factors is not None:
            symbols = np.ascontiguousarray(np.concatenate([factors.left, factors.right], 1).T)
            yield Representation(Kind.FACTORS, factors.step, 0, bases, False, symbols), factor_bits(symbols, m)

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
        transposed, bits = direct_bits(symbols)
        return Representation(Kind.DIRECT, step, offset, bases, transposed, symbols), bits


def _damped(metric: Array) -> tuple[Metric, Metric]:
    return Metric(metric, ROUNDING_DAMPING), Metric(metric, FITTING_DAMPING)


def dropped(shape: tuple[int, int], distortion: float = math.nan) -> Candidate:
    """The code that leaves a tensor out."""
    return Candidate(Decoded(ZERO, np.zeros(shape), (None, None)), 2.0, distortion)


def direct_bits(symbols: IntArray) -> tuple[bool, float]:
    """Whether a direct code ([m, n]) is shorter row by row, and the bits it takes then."""
    by_columns, by_rows = matrix_bits(symbols.T), matrix_bits(symbols)
    transposed = symbols.shape[1] > 1 and by_rows < by_columns
    return transposed, (by_rows if transposed else by_columns) + SIDE_BITS


def factor_bits(symbols: IntArray, m: int) -> float:
    """Bits of the sides ([m + n, rank]) of a factor code."""
    return matrix_bits(symbols[:m].T) + matrix_bits(symbols[m:].T) + SIDE_BITS


def recoded(old: Candidate, code: Representation) -> Candidate:
    """A tensor under another direct code in the same bases."""
    shape, symbols = old.decoded.matrix.shape, code.symbols
    assert symbols is not None
    if not symbols.any() and code.offset == 0:
        return dropped(shape)
    transposed, bits = direct_bits(symbols)
    code = replace(code, transposed=transposed)
    return Candidate(Decoded(code, to_weights(code, shape, old.decoded.bases), old.decoded.bases), bits, math.nan)
