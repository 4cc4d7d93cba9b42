"""The loops of the CPU path, compiled by numba: cached on disk, without the GIL, one thread each."""

# ruff: noqa: ANN001, ANN201, ANN202 (numba infers the types)

import functools

import numba
import numpy as np

from .reference import LARGEST_SYMBOL, LEVELS, SYMBOL_LIMIT

BLOCK = 1024  # weights whose intermediates stay in the first cache
PATTERNS = 1 << 16
LOW_HALF = np.uint64(0xFFFF)
HALF = np.float32(0.5)
FLOAT32_MAX = np.finfo(np.float32).max
LARGEST = np.float32(LARGEST_SYMBOL)
CELL, MASS, VARIANCE, LOG, SYMBOLS, ERROR, ZEROS = range(7)  # the state of a walk along the weights in ascending order

_compiled = functools.partial(numba.njit, nogil=True, cache=True, error_model="numpy")


@_compiled
def count_halves(loose, words):
    """Counts of 16-bit elements; four tables, so that equal neighbours do not wait for each other."""
    tables = np.zeros((4, PATTERNS), np.int64)
    t0, t1, t2, t3 = tables[0], tables[1], tables[2], tables[3]
    for word in words:
        t0[word & LOW_HALF] += 1
        t1[(word >> np.uint64(16)) & LOW_HALF] += 1
        t2[(word >> np.uint64(32)) & LOW_HALF] += 1
        t3[word >> np.uint64(48)] += 1
    for element in loose:
        t0[element] += 1
    return t0 + t1 + t2 + t3


@_compiled
def count_uppers(loose, words):
    """Counts of the upper halves of 32-bit elements, two to a word."""
    tables = np.zeros((4, PATTERNS), np.int64)
    t0, t1, t2, t3 = tables[0], tables[1], tables[2], tables[3]
    for i in range(words.size // 2):
        first, second = words[2 * i], words[2 * i + 1]
        t0[(first >> np.uint64(16)) & LOW_HALF] += 1
        t1[first >> np.uint64(48)] += 1
        t2[(second >> np.uint64(16)) & LOW_HALF] += 1
        t3[second >> np.uint64(48)] += 1
    if words.size % 2:
        t0[(words[-1] >> np.uint64(16)) & LOW_HALF] += 1
        t1[words[-1] >> np.uint64(48)] += 1
    for element in loose:
        t0[element >> np.uint32(16)] += 1
    return t0 + t1 + t2 + t3


@_compiled
def merge_moments(a, b):
    """(count, mean, Σ(w − mean)², max|w|, Σw²) of two disjoint parts together (Chan, Golub, LeVeque 1979)."""
    count = a[0] + b[0]
    if count == 0:
        return a
    shift = b[1] - a[1]
    mean = a[1] + shift * b[0] / count
    spread = a[2] + b[2] + shift * shift * a[0] * b[0] / count
    return count, mean, spread, max(a[3], b[3]), a[4] + b[4]


@_compiled(fastmath={"reassoc"})
def block_moments(w):
    """Moments of the finite entries, block by block: each is read twice, from the cache the second time."""
    total = (0, 0.0, 0.0, 0.0, 0.0)
    for start in range(0, w.size, BLOCK):
        block = w[start : start + BLOCK]
        count, sum_, energy, abs_max = 0, 0.0, 0.0, np.float32(0)
        for v in block:
            finite = abs(v) <= FLOAT32_MAX
            x = np.float64(v) if finite else 0.0
            count += finite
            sum_ += x
            energy += x * x
            abs_max = max(abs_max, abs(v) if finite else np.float32(0))
        if count:
            mean, spread = sum_ / count, 0.0
            for v in block:
                d = np.float64(v) - mean if abs(v) <= FLOAT32_MAX else 0.0
                spread += d * d
            total = merge_moments(total, (count, mean, spread, np.float64(abs_max), energy))
    return total


@_compiled
def weighted_moments(values, counts):
    """Moments of values[i], finite, each occurring counts[i] times."""
    total = (0, 0.0, 0.0, 0.0, 0.0)
    for i in range(values.size):
        v, n = np.float64(values[i]), counts[i]
        if n and np.isfinite(v):
            total = merge_moments(total, (n, v, 0.0, abs(v), n * v * v))
    return total


@_compiled(fastmath={"reassoc"})
def _sum(values):
    """In any order, so that it vectorises; kept apart, so that nothing else is reordered."""
    total = 0.0
    for value in values:
        total += value
    return total


@_compiled
def quantize(w, steps, inverses, out, counts):
    """One tile (rows, columns): adds its symbols, what is not finite last, to four tables; writes ŵ if `out` has room.

    Returns Σ(w − ŵ)².
    """
    error = 0.0
    level, squared = np.empty(BLOCK, np.int32), np.empty(BLOCK, np.float64)
    step, inverse, held = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    for row in range(w.shape[0]):
        for start in range(0, w.shape[1], BLOCK):
            block = w[row, start : start + BLOCK]
            n = block.size
            step[:n] = steps[row, start : start + n]
            inverse[:n] = inverses[row, start : start + n]
            for i in range(n):
                v = block[i]
                x = v * inverse[i]
                floor = np.floor(x)
                q = floor + np.float32(x - floor >= HALF)
                held[i] = q * step[i] if abs(x) < SYMBOL_LIMIT else v
                finite = abs(v) <= FLOAT32_MAX
                difference = np.float64(v) - np.float64(held[i])
                squared[i] = difference * difference if finite else 0.0
                bounded = min(max(q if finite else HALF, -LARGEST), LARGEST)
                level[i] = np.int32(bounded) + LARGEST_SYMBOL if finite else LEVELS
            error += _sum(squared[:n])
            for i in range(n):
                counts[i % 4, level[i]] += 1
            if out.size:
                out[row, start : start + n] = held[:n]
    return error


@_compiled
def _symbol(v, inverse):
    """`reference.quantize` for one float64 that holds a float32."""
    x = np.float32(v) * inverse
    floor = np.floor(x)
    return np.float64(floor) + np.float64(x - floor >= HALF)


@_compiled
def _answerable(total, low, high, step, inverse):
    """Whether there are weights, and the step gives each of them a symbol."""
    width = 1 / np.float64(inverse)
    return total > 0 and 0 < step < np.inf and inverse <= FLOAT32_MAX and max(-low, high) < SYMBOL_LIMIT * width


@_compiled
def walk_weights(w, steps, out):
    """Entropy, mse, zero fraction and symbols, (S, 4), of ascending weights: runs of equal symbols are counted."""
    for s in range(steps.size):
        inverse, step = np.float32(1) / steps[s], np.float64(steps[s])
        if not (w.size and _answerable(w.size, w[0], w[-1], step, inverse)):
            continue
        log, symbols, error, zeros, begin = 0.0, 0, 0.0, 0, 0
        q = _symbol(w[0], inverse)
        for i in range(w.size + 1):
            symbol = _symbol(w[i], inverse) if i < w.size else np.inf
            if symbol != q:
                run = i - begin
                log += run * np.log2(run)
                symbols += 1
                zeros += run if q == 0 else 0
                q, begin = symbol, i
            if i < w.size:
                error += (w[i] - q * step) ** 2
        out[s, 0] = max(0.0, np.log2(w.size) - log / w.size)
        out[s, 1] = error / w.size
        out[s, 2] = zeros / w.size
        out[s, 3] = symbols


@_compiled
def _expected(mass, variance):
    """E[c log₂ c], to second order, and the chance that c > 0, for a cell with this mean and variance of its count."""
    if variance == 0:
        return mass * np.log2(mass), 1.0
    if mass < 0.5:
        return 0.0, 1 - np.exp(-mass)
    return mass * np.log2(mass) + variance / (2 * mass * np.log(2)), 1 - np.exp(-mass)


@_compiled
def _close(state):
    """The open cell is complete."""
    if state[MASS] > 0:
        log, occupied = _expected(state[MASS], state[VARIANCE])
        state[LOG] += log
        state[SYMBOLS] += occupied
    state[MASS] = state[VARIANCE] = 0.0


@_compiled
def _add(state, q, n, share, error):
    """A share of a key's n weights has symbol q, which no earlier symbol exceeds; `error` is their mean (w − qΔ)²."""
    if q != state[CELL]:
        _close(state)
        state[CELL] = q
    state[MASS] += n * share
    state[VARIANCE] += n * share * (1 - share)
    state[ERROR] += n * share * error
    if q == 0:
        state[ZEROS] += n * share


@_compiled
def _add_atoms(state, low, high, n, atoms, step, inverse):
    """A key's n weights, equally many at `atoms` evenly spaced values of [low, high), or of (low, high] below zero."""
    spacing = (high - low) / atoms
    first = low if low >= 0 else low + spacing
    q, share, error = _symbol(first, inverse), 0.0, 0.0
    for i in range(atoms):
        value = first + i * spacing
        symbol = _symbol(value, inverse)
        if symbol != q:
            _add(state, q, n, share, error / share)
            q, share, error = symbol, 0.0, 0.0
        share += 1 / atoms
        error += (value - q * step) ** 2 / atoms
    _add(state, q, n, share, error / share)


@_compiled
def _add_spread(state, low, high, n, step, width):
    """A key's n weights, evenly over [low, high): outer cells are shared with neighbours, inner ones alike."""
    first, last = np.floor(low / width + 0.5), np.ceil(high / width + 0.5) - 1
    begin = low
    for q in (first, last):
        end = high if q == last else (q + 0.5) * width
        offset, length = (begin + end) / 2 - q * step, end - begin
        _add(state, q, n, length / (high - low), offset * offset + length * length / 12)
        if q == last:
            return
        inner, share = last - first - 1, width / (high - low)
        log, occupied = _expected(n * share, n * share * (1 - share)) if inner else (0.0, 0.0)
        state[LOG] += inner * log
        state[SYMBOLS] += inner * occupied
        state[ERROR] += inner * n * share * width * width / 12
        begin = (last - 0.5) * width


@_compiled
def walk_keys(bins, atoms, steps, least, out):
    """Entropy, mse, zero fraction and symbols, (S, 4), from rows (low, high, count) of keys in ascending order.

    Symbols never decrease along the rows, so one open cell is enough. A key's weights are `atoms` equally likely
    values, or an even spread if `atoms` is 0; where a cell ends inside a key, counts are expectations.
    """
    total = bins[:, 2].sum()
    for s in range(steps.size):
        inverse, step = np.float32(1) / steps[s], np.float64(steps[s])
        width = 1 / np.float64(inverse)
        if not (step >= least and bins.size and _answerable(total, bins[0, 0], bins[-1, 1], step, inverse)):
            continue
        state = np.zeros(7)
        for low, high, n in bins:
            if atoms or low == high:
                _add_atoms(state, low, high, n, max(atoms, 1), step, inverse)
            else:
                _add_spread(state, low, high, n, step, width)
        _close(state)
        out[s, 0] = max(0.0, np.log2(total) - state[LOG] / total)
        out[s, 1] = state[ERROR] / total
        out[s, 2] = state[ZEROS] / total
        out[s, 3] = state[SYMBOLS]
