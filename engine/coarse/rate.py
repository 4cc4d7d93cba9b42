"""Estimated bits of integer matrices, for choosing between codes during the search.

Reported sizes never come from here.
"""

import numpy as np
from numba import njit

from ..codec.arithmetic import IntArray
from ..codec.exact import FloatArray


@njit(cache=True, nogil=True)
def laplace_costs(mean: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Bits of a zero, and of each unit of magnitude, for two-sided geometric symbols of mean magnitude `mean`."""
    ratio = (np.sqrt(1 + mean * mean) - 1) / mean
    return -np.log2((1 - ratio) / (1 + ratio)), -np.log2(ratio)


@njit(cache=True, nogil=True)
def row_bits(symbols: IntArray) -> FloatArray:
    """Bits of each row ([m]) of `symbols` ([m, n]) under an adaptive two-sided geometric model of its own."""
    count = symbols.shape[1]
    total = np.zeros(len(symbols))
    for i in range(len(symbols)):
        for j in range(count):
            total[i] += abs(symbols[i, j])
    zero, unit = laplace_costs(np.maximum(total / count, 0.5 / count))
    return zero * count + unit * total + 4.0


def matrix_bits(symbols: IntArray) -> float:
    """Bits of a matrix ([m, n]), modelled row by row."""
    return float(row_bits(symbols).sum())
