"""Which sides of a network's matrices are worth trying in a Fourier basis: those whose energy gathers in a few waves.

All sides of one length are transformed together, in pieces: threads that transform many small ones would take turns at
the interpreter's lock.
"""

from collections.abc import Iterator, Mapping
from functools import cache

import numpy as np
from numba import njit

from ...kernels.threads import with_one_blas_thread_each
from ..codec.arithmetic import IntArray
from ..codec.exact import FloatArray, is_prime, powers
from ..codec.representation import IDENTITY, Basis, BasisKind
from .rounding import Array

_LONGEST, _SHORTEST = 512, 16  # sides
_TAIL = 5  # special tokens that may follow the cyclic ones
_GAIN = 0.03  # nats of mean log energy above which a basis's rate is worth asking for
_PIECE = 256  # columns that a thread transforms


Side = tuple[str, int]
"""A matrix's name, and one of its axes."""


def fourier_bases(weights: Mapping[str, FloatArray]) -> dict[str, tuple[Basis, Basis]]:
    """The Fourier basis, or the identity, that each side of each matrix is worth trying in; a vector's are identities.

    That is additive or, for primes, multiplicative. A cyclic axis may be followed by a few special coordinates (the
    tokens of an operation and of "=").
    """
    sides: dict[Side, FloatArray] = {}
    for name, matrix in weights.items():
        if matrix.shape[1] > 1 and matrix.any():
            sides |= {(name, 0): matrix, (name, 1): matrix.T}
    pieces = list(_pieces({side: w for side, w in sides.items() if _SHORTEST <= len(w) <= _LONGEST}))
    energies: dict[Side, FloatArray] = {}
    for piece, found in zip(pieces, with_one_blas_thread_each(_energies, pieces), strict=True):
        for side, part in zip(piece, found, strict=True):
            energies[side] = energies[side] + part if side in energies else part
    best = {side: _best(found) for side, found in energies.items()}
    return {name: (best.get((name, 0), IDENTITY), best.get((name, 1), IDENTITY)) for name in weights}


def _pieces(sides: Mapping[Side, FloatArray]) -> Iterator[dict[Side, FloatArray]]:
    """Columns of sides of one length, _PIECE together: small sides share a piece, large ones are in several."""
    for length in sorted({len(columns) for columns in sides.values()}, reverse=True):
        piece, room = {}, _PIECE
        for side, columns in sides.items():
            start = 0
            while len(columns) == length and start < columns.shape[1]:
                piece[side] = columns[:, start : start + room]
                start, room = start + room, room - piece[side].shape[1]
                if room == 0:
                    yield piece
                    piece, room = {}, _PIECE
        if piece:
            yield piece


def _energies(piece: Mapping[Side, FloatArray]) -> FloatArray:
    """Of every side in a piece, in every basis, the energies of its n rows ([sides, bases, n])."""
    columns = np.concatenate(list(piece.values()), 1, dtype=np.float32, casting="same_kind")  # enough to compare by
    owners = np.repeat(np.arange(len(piece)), [part.shape[1] for part in piece.values()])
    found = [fourier_energies(columns, basis, owners, len(piece)) for basis in _bases(len(columns))]
    return np.stack(found).transpose(2, 0, 1)


def _best(energies: FloatArray) -> Basis:
    """The basis in which the mean log energy of the rows of a side ([bases, n]) is least."""
    floor = 1e-3 * energies[0].mean() + np.finfo(np.float32).tiny  # squares of tiny weights vanish in float32
    means = np.nan_to_num(np.log(energies + floor).mean(1), nan=np.inf)  # and those of huge ones overflow
    means[0] -= _GAIN
    return _bases(energies.shape[1])[means.argmin()]


@cache
def _bases(n: int) -> list[Basis]:
    """The identity, and the bases that an axis of length n may be in."""
    periods = range(n, max(n - _TAIL, _SHORTEST) - 1, -1)
    kinds = {p: (BasisKind.FOURIER, BasisKind.MULTIPLICATIVE)[: 1 + is_prime(p)] for p in periods}
    return [IDENTITY, *(Basis(kind, period) for period in periods for kind in kinds[period])]


def fourier_energies(columns: Array, basis: Basis, owners: IntArray, count: int) -> FloatArray:
    """Energies ([n, count]) of the rows of `columns` ([n, k]) in a Fourier basis, or in none, by FFT.

    `owners` ([k]) says whose the columns are. The rows come in no particular order.
    """
    if basis == IDENTITY:
        return _row_energies(columns, owners, count)
    first = 1 if basis.kind == BasisKind.MULTIPLICATIVE else 0  # zero has no logarithm
    cyclic = columns[list(powers(basis.parameter))] if first else columns[: basis.parameter]
    waves = np.fft.rfft(cyclic, axis=0, norm="ortho")
    real, imaginary = _row_energies(waves.real, owners, count), _row_energies(waves.imag, owners, count)
    single = [0, -1] if len(cyclic) % 2 == 0 else [0]  # without a sine: constant and highest frequency
    alone, pairs = real[single], slice(1, len(real) - len(single) + 1)
    others = np.concatenate([columns[:first], columns[basis.parameter :]])
    return np.concatenate([alone, 2 * real[pairs], 2 * imaginary[pairs], _row_energies(others, owners, count)])


@njit(cache=True, nogil=True, fastmath=True)
def _row_energies(columns: Array, owners: IntArray, count: int) -> FloatArray:
    """Sums of squares of every row of `columns` ([n, k]) over the columns of each owner ([n, count])."""
    result = np.zeros((len(columns), count))
    for i in range(len(columns)):
        start = 0
        while start < owners.size:
            end = start
            total = 0.0
            while end < owners.size and owners[end] == owners[start]:
                total += columns[i, end] * columns[i, end]
                end += 1
            result[i, owners[start]] += total
            start = end
    return result
