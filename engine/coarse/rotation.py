"""Turning the strong components of a factor pair into each other until both sides are sparse.

W = U V is the same for R U⁻¹… any rotation of its components; the cheapest one has many near-zero entries (a hidden
unit that serves one frequency). Jacobi sweeps minimise Σ log(1 + (entry/step)²), a smooth stand-in for bits, over
pairs of components.
"""

import numpy as np
from numba import njit

from ..codec.exact import FloatArray

_ANGLES = 8  # of a quarter turn
_SWEEPS = 4
_LANES = 16


@njit(cache=True, fastmath=True, nogil=True)
def _cost(a: FloatArray, b: FloatArray, c: float, s: float, first: float, second: float) -> float:
    """Σ log(1 + v²) over the two turned sides, scaled by `first` and `second`.

    Logarithms are dear: factors are multiplied in 16 lanes first, at most 16 to a lane, which cannot overflow below
    10⁹ steps.
    """
    products = np.ones(_LANES)
    total, whole = 0.0, a.size // _LANES * _LANES
    for start in range(0, whole, _LANES):
        for lane in range(_LANES):
            x = (c * a[start + lane] + s * b[start + lane]) * first
            y = (c * b[start + lane] - s * a[start + lane]) * second
            products[lane] *= (1.0 + x * x) * (1.0 + y * y)
        if start % (8 * _LANES) == 7 * _LANES:
            for lane in range(_LANES):
                total += np.log(products[lane])
                products[lane] = 1.0
    for k in range(whole, a.size):
        x = (c * a[k] + s * b[k]) * first
        y = (c * b[k] - s * a[k]) * second
        products[k - whole] *= (1.0 + x * x) * (1.0 + y * y)
    for lane in range(_LANES):
        total += np.log(products[lane])
    return total


@njit(cache=True, fastmath=True, nogil=True)
def _turn(a: FloatArray, b: FloatArray, c: float, s: float) -> None:
    for k in range(a.size):
        x = c * a[k] + s * b[k]
        b[k] = c * b[k] - s * a[k]
        a[k] = x


@njit(cache=True, fastmath=True, nogil=True)
def _products(a: FloatArray, b: FloatArray) -> tuple[float, float, float]:
    """Σ aa, Σ bb, Σ ab."""
    aa, bb, ab = 0.0, 0.0, 0.0
    for k in range(a.size):
        aa += a[k] * a[k]
        bb += b[k] * b[k]
        ab += a[k] * b[k]
    return aa, bb, ab


@njit(cache=True, fastmath=True, nogil=True)
def rotate(left: FloatArray, right: FloatArray) -> None:
    """Rotate components in place: `right` [r, n] in steps, `left` [r, m] in its steps for a right side of norm 1.

    Left entries are weighed by the norm of their right side, as their rounding is. The first sweep tries all angles of
    a quarter turn, the later ones look beside where the components stand, ever closer.
    """
    for sweep in range(_SWEEPS):
        changed = False
        for i in range(right.shape[0]):
            for j in range(i):
                ii, jj, ij = _products(right[i], right[j])
                best, chosen, still = 1e300, 0.0, 0.0
                for trial in range(_ANGLES if sweep == 0 else 5):
                    step = trial if sweep == 0 else trial - 2
                    angle = step * np.pi / (2 * _ANGLES) / 2.0**sweep
                    c, s = np.cos(angle), np.sin(angle)
                    first = np.sqrt(c * c * ii + s * s * jj + 2 * c * s * ij)
                    second = np.sqrt(abs(c * c * jj + s * s * ii - 2 * c * s * ij))
                    cost = _cost(right[i], right[j], c, s, 1.0, 1.0) + _cost(left[i], left[j], c, s, first, second)
                    if step == 0:
                        still = cost
                    if cost < best:
                        best, chosen = cost, angle
                if chosen != 0.0 and best < still - 1e-9:
                    changed = True
                    c, s = np.cos(chosen), np.sin(chosen)
                    _turn(right[i], right[j], c, s)
                    _turn(left[i], left[j], c, s)
        if not changed:
            break
