"""The fast CPU path: numba loops over threads of our own.

Slices go to a plain thread pool of `torch.get_num_threads()` workers. numba's own parallel layer is left out: its
threads would spin against torch's.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import loops, reference
from .reference import (
    KEYS,
    LEVELS,
    WINDOW,
    Moments,
    QuantizedHistogram,
)
from .threads import pool

GRAIN = 1 << 16  # a thread's least share, in weights
CHUNK = 1 << 20  # weights held at a time as another dtype

Result = TypeVar("Result")


def pattern_counts(weights: Tensor) -> NDArray[np.int64]:
    """How often each 16-bit pattern occurs, (65536,): a weight's own if it has 16 bits, else its `reference.key`."""
    if weights.dtype in (torch.bfloat16, torch.float16):
        count, runs = loops.count_halves, iter([_flat(weights).view(torch.uint16).numpy()])
    else:
        count, runs = loops.count_uppers, (values.view(np.uint32) for values in _float32_runs(weights))
    counts = np.zeros(loops.PATTERNS, np.int64)
    for bits in runs:
        for part in _in_threads(lambda a, b, bits=bits: count(*_words(bits[a:b])), bits.size):
            counts += part
    return counts


def moments(weights: Tensor) -> Moments:
    """See `reference.moments`: from the pattern counts if the weights have 16 bits, else in one pass over blocks."""
    if weights.dtype in (torch.bfloat16, torch.float16):
        parts = [loops.weighted_moments(_pattern_values(weights.dtype), pattern_counts(weights))]
    else:
        parts = [
            part
            for values in _float32_runs(weights)
            for part in _in_threads(lambda a, b, values=values: loops.block_moments(values[a:b]), values.size)
        ]
    count, mean, spread, abs_max, energy = functools.reduce(loops.merge_moments, parts, (0, 0.0, 0.0, 0.0, 0.0))
    if not count:
        return Moments(0, weights.numel(), *[torch.nan] * 4)
    return Moments(count, weights.numel() - count, mean, (spread / count) ** 0.5, abs_max, energy**0.5)


def fine_histogram(weights: Tensor) -> tuple[Tensor, int]:
    """Counts (KEYS, 2) and the base key, chosen as `reference.base_key` says."""
    counts = pattern_counts(weights)
    if weights.dtype == torch.float16:
        counts = np.bincount(_pattern_values(weights.dtype).view(np.uint32) >> 16, counts, loops.PATTERNS).astype(
            np.int64
        )
    by_magnitude = counts.reshape(2, -1).T
    occupied = np.flatnonzero(by_magnitude[: reference.INFINITY_KEY].sum(1))
    base = reference.base_key(float(_key_values(occupied[-1])) if occupied.size else 0.0)
    window = by_magnitude[base : base + WINDOW]
    folded = np.zeros((KEYS, 2), np.int64)
    folded[0] = by_magnitude[:base].sum(0)
    folded[1 : 1 + WINDOW] = window
    folded[1 + WINDOW] = by_magnitude[base + WINDOW :].sum(0)
    return torch.from_numpy(folded), base


def fine_rates(counts: Tensor, base: int, atoms: int, steps: Tensor) -> Tensor:
    """Entropy, mse, zero fraction, symbols: (S, 4) float64 at every step (S,), from one fine histogram.

    Nothing finite may lie above its window. `atoms` as in `reference.key_atoms`.
    """
    edges = _key_values(np.arange(base, base + WINDOW + 1))
    near, far, inside = edges[:-1], edges[1:], counts[1 : 1 + WINDOW].numpy()
    tiny = counts[0].sum().item()
    bins = np.concatenate(
        [
            np.stack([-far, -near, inside[:, 1]], 1)[::-1],
            [[0.0, 0.0, tiny]],
            np.stack([near, far, inside[:, 0]], 1),
        ]
    )
    out = np.full((steps.numel(), 4), np.nan)
    least = 2 * edges[0] if tiny else 0.0
    loops.walk_keys(bins[bins[:, 2] > 0], atoms, steps.to("cpu", torch.float32).numpy(), least, out)
    return torch.from_numpy(out)


def exact_rates(weights: Tensor, steps: Tensor) -> Tensor:
    """The same from the sorted weights themselves: for tensors too small for a fine histogram."""
    w = np.sort(_flat(weights).to(torch.float32).numpy())
    out = np.full((steps.numel(), 4), np.nan)
    loops.walk_weights(w[np.isfinite(w)], steps.to("cpu", torch.float32).numpy(), out)
    return torch.from_numpy(out)


def quantize_dequantize(weights: Tensor, step: Tensor, write: bool) -> tuple[Tensor, QuantizedHistogram]:
    """See `reference.quantize_dequantize`; without `write` the first result is empty."""
    rows = weights.cpu().reshape(weights.shape[0] if step.numel() > 1 else 1, -1)
    step = step.to("cpu", torch.float32)
    shape = weights.shape if step.numel() > 1 else rows.shape
    steps, inverses = (s.broadcast_to(shape).reshape(rows.shape) for s in (step, 1 / step))
    out = torch.empty_like(rows) if write else rows.new_empty(0, 0)
    height, width = max(1, CHUNK // max(1, rows.shape[1])), CHUNK

    def tile(corner: tuple[int, int]) -> tuple[NDArray[np.int64], float]:
        area = tuple(slice(begin, begin + length) for begin, length in zip(corner, (height, width), strict=True))
        values = rows[area].to(torch.float32).numpy()
        held = np.empty_like(values) if write else np.empty((0, 0), np.float32)
        counts = np.zeros((4, LEVELS + 1), np.int64)  # one more for what is not finite
        error = loops.quantize(values, steps[area].numpy(), inverses[area].numpy(), held, counts)
        if write:
            out[area] = torch.from_numpy(held)
        return counts.sum(0), error

    corners = [(r, c) for r in range(0, rows.shape[0], height) for c in range(0, rows.shape[1], width)]
    counts, error = np.zeros(LEVELS + 1, np.int64), 0.0
    for part in pool(torch.get_num_threads()).map(tile, corners):
        counts, error = counts + part[0], error + part[1]
    histogram = QuantizedHistogram(torch.from_numpy(counts[:LEVELS]), error, int(counts[LEVELS]))
    return out.view(weights.shape) if write else out, histogram


def _flat(weights: Tensor) -> Tensor:
    return weights.detach().cpu().reshape(-1)


def _float32_runs(weights: Tensor) -> Iterator[NDArray[np.float32]]:
    """The weights as float32: in one piece if that is what they are, else converted a chunk at a time."""
    flat = _flat(weights)
    for run in [flat] if flat.dtype == torch.float32 else flat.split(CHUNK):
        yield run.to(torch.float32).numpy()


def _words(bits: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.uint64]]:
    """The elements before the first and after the last whole aligned 64-bit word, and those words."""
    per_word = 8 // bits.itemsize
    start = min(-bits.ctypes.data % 8 // bits.itemsize, bits.size)
    stop = bits.size - (bits.size - start) % per_word
    return np.concatenate([bits[:start], bits[stop:]]), bits[start:stop].view(np.uint64)


@functools.cache
def _pattern_values(dtype: torch.dtype) -> NDArray[np.float32]:
    """The float32 value of every pattern of a 16-bit dtype."""
    return torch.from_numpy(np.arange(loops.PATTERNS, dtype=np.uint16)).view(dtype).to(torch.float32).numpy()


def _key_values(keys: Any) -> Any:
    """The float64 magnitude at which each key begins."""
    return (np.asarray(keys, np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)


def _in_threads(function: Callable[[int, int], Result], size: int) -> list[Result]:
    """function(start, stop) over equal shares of range(size), one a thread; the caller's own if there is only one."""
    shares = max(1, min(torch.get_num_threads(), size // GRAIN))
    bounds = [size * i // shares for i in range(shares + 1)]
    if shares == 1:
        return [function(0, size)]
    return list(pool(torch.get_num_threads()).map(function, bounds[:-1], bounds[1:]))
