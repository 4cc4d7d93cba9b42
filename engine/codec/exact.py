"""Arithmetic that every IEEE-754 platform rounds alike: what the decoder uses to turn symbols into weights.

Sums run in one fixed order in float64, without fused operations and without a BLAS; cosines come from integers.
"""

from functools import lru_cache
from math import isqrt

import numpy as np
from numba import njit
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

_SCALE = 1 << 96
_PI = 248902613312231085230521944622  # round(π · 2^96)
_DEPENDENT = 1e-9  # a vector this much shorter than before its projections adds no direction


@njit(cache=True, nogil=True)
def product(a: FloatArray, b: FloatArray) -> FloatArray:
    """A @ b ([m, k] by [k, n]) summed over k in ascending order; what is zero takes no time."""
    result = np.zeros((a.shape[0], b.shape[1]))
    used = np.array([np.any(b[k] != 0.0) for k in range(a.shape[1])])
    for i in range(a.shape[0]):
        for k in range(a.shape[1]):
            factor = a[i, k]
            if factor != 0.0 and used[k]:
                for j in range(b.shape[1]):
                    result[i, j] += factor * b[k, j]
    return result


@njit(cache=True, nogil=True)
def complete_basis(vectors: FloatArray) -> FloatArray:
    """An orthonormal basis ([n, n], rows) whose first rows span `vectors` ([k, n]) in their order.

    Householder reflections (Golub & Van Loan, §5.2); vectors that depend on those before them are passed over.
    """
    count, n = vectors.shape
    reflectors = np.zeros((min(count, n), n))
    used = 0
    for index in range(count):
        if used == n:
            break
        v = vectors[index].copy()
        size = 0.0
        for j in range(n):
            size += v[j] * v[j]
        for r in range(used):
            dot = 0.0
            for j in range(r, n):
                dot += reflectors[r, j] * v[j]
            for j in range(r, n):
                v[j] -= 2.0 * dot * reflectors[r, j]
        rest = 0.0
        for j in range(used, n):
            rest += v[j] * v[j]
        if not rest > _DEPENDENT * size:
            continue
        head = v[used] + (np.sqrt(rest) if v[used] >= 0 else -np.sqrt(rest))
        norm = np.sqrt(rest - v[used] * v[used] + head * head)
        reflectors[used, used] = head / norm
        for j in range(used + 1, n):
            reflectors[used, j] = v[j] / norm
        used += 1
    basis = np.eye(n)
    for r in range(used - 1, -1, -1):
        for i in range(n):
            dot = 0.0
            for j in range(r, n):
                dot += reflectors[r, j] * basis[i, j]
            for j in range(r, n):
                basis[i, j] -= 2.0 * dot * reflectors[r, j]
    return basis


def _cosine(numerator: int, denominator: int) -> float:
    """cos(2π numerator/denominator), from a Taylor series in 96-bit integers."""
    angle = 2 * _PI * (numerator % denominator) // denominator
    term = total = _SCALE
    n = 0
    while term:
        term = -term * angle // _SCALE * angle // _SCALE // ((n + 1) * (n + 2))
        total += term
        n += 2
        if abs(term) <= 1:
            break
    return total / _SCALE


@lru_cache(maxsize=64)
def fourier_basis(period: int) -> FloatArray:
    """The orthonormal real Fourier basis ([period, period], rows: constant, cos 1, sin 1, cos 2, …)."""
    wave = np.array([_cosine(4 * j, 4 * period) for j in range(period)])
    shifted = np.array([_cosine(4 * j - period, 4 * period) for j in range(period)])  # the sine is a quarter turn later
    position = np.arange(period)
    basis = np.empty((period, period))
    basis[0] = np.sqrt(1 / period)
    for row in range(1, period):
        frequency = (row + 1) // 2
        source = wave if row % 2 else shifted
        basis[row] = source[frequency * position % period] * np.sqrt(2 / period)
    if period % 2 == 0:
        basis[period - 1] *= np.sqrt(0.5)
    return basis


def is_prime(n: int) -> bool:
    """By trial division: axes are short."""
    return n > 1 and all(n % d for d in range(2, isqrt(n) + 1))


@lru_cache(maxsize=64)
def multiplicative_basis(prime: int) -> FloatArray:
    """The Fourier basis of the multiplicative group mod `prime` ([p − 1, p − 1]) over 1 … p − 1.

    What multiplication is to residues, addition is to their logarithms to a primitive root; the smallest one is taken.
    Rows are those of `fourier_basis`.
    """
    logarithm = np.empty(prime, np.int64)
    logarithm[list(powers(prime))] = np.arange(prime - 1)
    return np.ascontiguousarray(fourier_basis(prime - 1)[:, logarithm[1:]])


@lru_cache(maxsize=64)
def powers(prime: int) -> tuple[int, ...]:
    """1, g, g², … mod `prime`: all residues but 0, by their logarithm to the smallest primitive root g."""
    order = prime - 1
    root = next(g for g in range(1, prime) if len({pow(g, k, prime) for k in range(order)}) == order)
    return tuple(pow(root, k, prime) for k in range(order))
