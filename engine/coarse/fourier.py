"""Which sides of a network's matrices are worth trying in a Fourier basis: those whose energy gathers in a few waves.

All sides of one length are transformed together, in pieces: threads that transform many small ones would take turns at
the interpreter's lock.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

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
_PIECE = 1024  # columns that a thread transforms


def fourier_bases(weights: Mapping[str, FloatArray]) -> dict[str, tuple[Basis, Basis]]:
    """The Fourier basis, or the identity, that each side of each matrix is worth trying in; a vector's are identities.

    That is additive or, for primes, multiplicative. A cyclic axis may be followed by a few special coordinates (the
    tokens of an operation and of "=").
    """
    found = {name: [IDENTITY, IDENTITY] for name in weights}
    alike: dict[int, list[tuple[str, int, FloatArray]]] = defaultdict(list)
    for name, matrix in weights.items():
        for axis, side in enumerate((matrix, matrix.T)):
            if matrix.shape[1] > 1 and _SHORTEST <= len(side) <= _LONGEST and matrix.any():
                alike[len(side)].append((name, axis, side))
    for sides in alike.values():
        for (name, axis, _), basis in zip(sides, _best_bases([side for *_, side in sides]), strict=True):
            found[name][axis] = basis
    return {name: (left, right) for name, (left, right) in found.items()}


def _best_bases(sides: Sequence[FloatArray]) -> list[Basis]:
    """The basis of axis 0 of each of `sides` ([n, k], k of its own) in which the mean log energy is least."""
    n = len(sides[0])
    columns = np.concatenate(sides, 1, dtype=np.float32, casting="same_kind")  # enough to compare means by
    owners = np.repeat(np.arange(len(sides)), [side.shape[1] for side in sides])
    pieces = [slice(start, start + _PIECE) for start in range(0, len(owners), _PIECE)]
    bases = [IDENTITY, *_candidates(n)]

    def energies_in(job: tuple[Basis, slice]) -> FloatArray:
        basis, piece = job
        return fourier_energies(columns[:, piece], basis, owners[piece], len(sides))

    found = with_one_blas_thread_each(energies_in, [(basis, piece) for basis in bases for piece in pieces])
    energies = np.stack(found).reshape(len(bases), len(pieces), n, len(sides)).sum(1)
    floor = 1e-3 * energies[0].sum(0) / n + np.finfo(np.float32).tiny  # squares of tiny weights vanish in float32
    means = np.log(energies + floor).mean(1)
    means = np.nan_to_num(means, nan=np.inf)  # and those of huge ones overflow
    means[0] -= _GAIN
    return [bases[index] for index in means.argmin(0)]


def _candidates(n: int) -> list[Basis]:
    periods = range(n, max(n - _TAIL, _SHORTEST) - 1, -1)
    kinds = {p: (BasisKind.FOURIER, BasisKind.MULTIPLICATIVE)[: 1 + is_prime(p)] for p in periods}
    return [Basis(kind, period) for period in periods for kind in kinds[period]]


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
