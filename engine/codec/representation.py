"""A coarse-grained tensor as the file stores it, and how its symbols become weights again."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from math import prod
from typing import NamedTuple

import numpy as np

from ..lazy import lazy
from .arithmetic import IntArray
from .exact import FloatArray, complete_basis, fourier_basis, multiplicative_basis, product


class Kind(IntEnum):
    """How a tensor is coded."""

    ZERO = 0  # every weight is 0
    DIRECT = 1  # the weights, in the given bases, on one grid
    FACTORS = 2  # a sum of rank-one terms whose two sides are integers
    EXACT = 3  # the very bytes: integers, flags, and what has no finite grid


class BasisKind(IntEnum):
    """The orthonormal basis of one axis."""

    IDENTITY = 0
    FOURIER = 1  # real Fourier basis on the first `parameter` coordinates
    INHERITED = 2  # the directions that an earlier tensor of the file uses: `parameter` is its index, `axis` its side
    MULTIPLICATIVE = 3  # the Fourier basis over the discrete logarithms of 1 … p − 1, p = `parameter` a prime; 0 stays


class Basis(NamedTuple):
    """The basis of one axis of a matrix; what it costs in the file is a handful of bits."""

    kind: BasisKind = BasisKind.IDENTITY
    parameter: int = 0
    axis: int = 0


IDENTITY = Basis()
OCTAVE = 8  # steps are powers of the eighth root of two
_ROOTS = tuple(2 ** (k / OCTAVE) for k in range(OCTAVE))
MINIMUM_STEP, MAXIMUM_STEP = -1023, 1023  # eighths of an octave
LONGEST_BASIS = 1024  # a longer axis has only its own coordinates


def step_size(index: int) -> float:
    """The quantisation step 2^(index/8)."""
    return float(np.ldexp(_ROOTS[index % OCTAVE], index // OCTAVE))


def nearest_step(size: float) -> int:
    """The index of the step nearest to `size` on the logarithmic grid."""
    return int(np.clip(np.rint(OCTAVE * np.log2(max(size, 1e-300))), MINIMUM_STEP, MAXIMUM_STEP))


def matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    """Every tensor seen as a matrix: (out, everything else); vectors and scalars are one column."""
    if len(shape) < 2:
        return prod(shape), 1
    return shape[0], prod(shape[1:])


@dataclass(frozen=True, eq=False)
class Representation:
    """One tensor's code. Bases apply to the two axes of its matrix view ([m, n]).

    DIRECT: `symbols` [m, n], weights (symbols + offset)·Δ in the bases. FACTORS: `symbols` [m + n, rank], the sides
    a_i over b_i, weights Σ_i Δ/‖a_i‖ · a_i b_iᵀ in the bases. ZERO and EXACT have no symbols; EXACT carries `raw`.
    """

    kind: Kind
    step: int = 0
    offset: int = 0
    bases: tuple[Basis, Basis] = (IDENTITY, IDENTITY)
    transposed: bool = False  # DIRECT: the symbols are coded row by row
    symbols: IntArray | None = None
    raw: bytes = b""


ZERO = Representation(Kind.ZERO)


@dataclass(frozen=True, eq=False)
class Decoded:
    """A tensor that both sides have: code, matrix ([m, n] float64) and bases ([m, m] and [n, n], or None)."""

    representation: Representation
    matrix: FloatArray
    bases: tuple[FloatArray | None, FloatArray | None]

    @lazy
    def left_directions(self) -> FloatArray:
        """An orthonormal basis ([m, m], rows) that begins with the directions used on the left, strongest first."""
        return _directions(self, 0)

    @lazy
    def right_directions(self) -> FloatArray:
        """The same on the right ([n, n], rows)."""
        return _directions(self, 1)


def basis_matrix(basis: Basis, n: int, earlier: Sequence[Decoded]) -> FloatArray | None:
    """The basis as rows ([n, n]); None stands for the identity."""
    if basis.kind == BasisKind.IDENTITY:
        return None
    if basis.kind == BasisKind.FOURIER:
        result = np.eye(n)
        result[: basis.parameter, : basis.parameter] = fourier_basis(basis.parameter)
        return result
    if basis.kind == BasisKind.MULTIPLICATIVE:
        result = np.eye(n)
        result[1 : basis.parameter, 1 : basis.parameter] = multiplicative_basis(basis.parameter)
        return result
    source = earlier[basis.parameter]
    return source.right_directions if basis.axis else source.left_directions


def _directions(source: Decoded, axis: int) -> FloatArray:
    """The coded vectors on a side (the factors, or the rows or columns of the symbols), strongest first, completed."""
    code = source.representation
    m = source.matrix.shape[0]
    assert code.symbols is not None
    if code.kind == Kind.FACTORS:
        vectors = code.symbols[m:].T if axis == 1 else code.symbols[:m].T
        strength = np.abs(code.symbols[m:]).sum(0)
    else:
        vectors = code.symbols if axis == 1 else code.symbols.T
        strength = np.abs(vectors).sum(1)
    order = np.argsort(-strength, kind="stable")
    order = order[strength[order] > 0]
    chosen = np.ascontiguousarray(vectors[order], dtype=np.float64)
    transform = source.bases[axis]
    if transform is not None:
        chosen = product(chosen, transform)
    return complete_basis(chosen)


def reconstruct(code: Representation, shape: Sequence[int], earlier: Sequence[Decoded]) -> Decoded:
    """The weights of a ZERO, DIRECT or FACTORS tensor, given the tensors before it in the file."""
    m, n = matrix_shape(shape)
    if code.kind == Kind.ZERO:
        return Decoded(code, np.zeros((m, n)), (None, None))
    bases = (basis_matrix(code.bases[0], m, earlier), basis_matrix(code.bases[1], n, earlier))
    return Decoded(code, to_weights(code, (m, n), bases), bases)


def to_weights(
    code: Representation, shape: tuple[int, int], bases: tuple[FloatArray | None, FloatArray | None]
) -> FloatArray:
    """The matrix ([m, n] float64) of a DIRECT or FACTORS code under basis matrices that are known already."""
    assert code.symbols is not None
    size = step_size(code.step)
    if code.kind == Kind.DIRECT:
        matrix: FloatArray = (code.symbols + code.offset).astype(np.float64) * size
    else:
        left = code.symbols[: shape[0]].astype(np.float64)
        right = np.ascontiguousarray(code.symbols[shape[0] :].T, dtype=np.float64)
        norms: FloatArray = np.sqrt(np.maximum((left * left).sum(0), 1.0))
        matrix = product(left, (right * (size / norms)[:, None]).astype(np.float64))
    if bases[0] is not None:
        matrix = product(np.ascontiguousarray(bases[0].T), matrix)
    if bases[1] is not None:
        matrix = product(matrix, bases[1])
    return matrix
