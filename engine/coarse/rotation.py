"""Turning the strong components of a factor pair into each other until both sides are sparse.

W = U V is the same for R U⁻¹… any rotation of its components; the cheapest one has many near-zero entries (a hidden
unit that serves one frequency). Jacobi sweeps minimise Σ log(1 + (entry/step)²), a smooth stand-in for bits, over
pairs of components.
"""

import numpy as np
from numba import njit

from ..codec.exact import FloatArray

_ANGLES = 16
_SWEEPS = 4


@njit(cache=True, fastmath=True, nogil=True)
def _cost(values: FloatArray) -> float:
    """Σ log(1 + v²), with one logarithm for eight values."""
    total, running = 0.0, 1.0
    for k in range(values.size):
        running *= 1.0 + values[k] * values[k]
        if k % 8 == 7:
            total += np.log(running)
            running = 1.0
    return total + np.log(running)


@njit(cache=True, fastmath=True, nogil=True)
def _turn(a: FloatArray, b: FloatArray, c: float, s: float, first: FloatArray, second: FloatArray) -> None:
    for k in range(a.size):
        first[k] = c * a[k] + s * b[k]
        second[k] = c * b[k] - s * a[k]


@njit(cache=True, fastmath=True, nogil=True)
def rotate(left: FloatArray, right: FloatArray) -> None:
    """Rotate components in place: `left` [r, m] in units of its rounding step for a right side of norm 1, `right` [r,
    n] in steps.

    Left entries are weighed by the norm of their right side, as their rounding is.
    """
    r = right.shape[0]
    u1, u2 = np.empty(left.shape[1]), np.empty(left.shape[1])
    v1, v2 = np.empty(right.shape[1]), np.empty(right.shape[1])
    for sweep in range(_SWEEPS):
        changed = False
        for i in range(r):
            for j in range(i):
                best, chosen, still = 1e300, 0.0, 0.0
                for a in range(_ANGLES):
                    angle = (
                        np.pi / 2 * a / _ANGLES if sweep == 0 else np.pi / 2 * (a - _ANGLES // 2) / _ANGLES / 1.5**sweep
                    )
                    c, s = np.cos(angle), np.sin(angle)
                    _turn(right[i], right[j], c, s, v1, v2)
                    _turn(left[i], left[j], c, s, u1, u2)
                    u1 *= np.sqrt((v1 * v1).sum())
                    u2 *= np.sqrt((v2 * v2).sum())
                    cost = _cost(v1) + _cost(v2) + _cost(u1) + _cost(u2)
                    if angle == 0.0:
                        still = cost
                    if cost < best:
                        best, chosen = cost, angle
                if chosen != 0.0 and best < still - 1e-9:
                    changed = True
                    c, s = np.cos(chosen), np.sin(chosen)
                    _turn(right[i], right[j], c, s, v1, v2)
                    right[i], right[j] = v1, v2
                    _turn(left[i], left[j], c, s, u1, u2)
                    left[i], left[j] = u1, u2
        if not changed:
            break
