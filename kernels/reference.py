"""The definition of every op, in plain PyTorch: slow, obvious, and what all other backends are compared with.

Weights are any shape and any real dtype; they are taken as float32 (exact for bfloat16 and float16, float64 is rounded
first). NaN and infinities are never symbols: they are counted as `nonfinite` and left out of every figure.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

LARGEST_SYMBOL = 4094
LEVELS = 2 * LARGEST_SYMBOL + 1  # counters of an exact histogram; the first and the last pool everything beyond
SYMBOL_LIMIT = 2.0**31  # |w/Δ| from here on has no symbol

KEYS = 4096  # counters per sign of a fine histogram
WINDOW = (
    KEYS - 3
)  # of which: one below the window (±0 too), one above (NaN and Inf too), one for a kernel's padding lanes
INFINITY_KEY = 0x7F80
DEFAULT_BASE = (127 - 24) << 7  # the window [2⁻²⁴, 2⁸)


@dataclass(frozen=True)
class Moments:
    """Of the finite entries, in float64; `std` divides by the count. All NaN when there is none."""

    count: int  # finite entries
    nonfinite: int
    mean: float
    std: float
    abs_max: float
    frobenius: float


@dataclass(frozen=True)
class QuantizedHistogram:
    """How often each symbol occurs at one step: counts[i] of q = i − LARGEST_SYMBOL, (LEVELS,) int64, on the CPU."""

    counts: Tensor
    squared_error: float  # Σ(w − ŵ)² over the finite entries, ŵ as float32
    nonfinite: int

    @property
    def overflow(self) -> int:
        """Entries whose symbol may lie beyond the counters; the counts are exact where this is 0."""
        return int(self.counts[0] + self.counts[-1])


class Rates(NamedTuple):
    """What quantising at each step costs; each (T, S) float64 on the CPU: tensors × steps.

    NaN where there is nothing finite to quantise, or the step is not positive or too small for the data.
    """

    entropy_bits: Tensor  # order-0 Shannon entropy of the symbols, bits per finite weight
    mse: Tensor  # mean (w − ŵ)²
    zero_fraction: Tensor
    symbols: Tensor  # how many different symbols occur


def quantize(weights: Tensor, step: float | Tensor) -> tuple[Tensor, Tensor]:
    """Symbols q = ⌊w/Δ⌉ with ties upwards, and ŵ = qΔ; both float32, shape of `weights`.

    Exactly: x = w · (1/Δ), the reciprocal rounded to float32 and so the product; q = ⌊x⌋ + [x − ⌊x⌋ ≥ ½]. The
    difference is exact, so no "+½" can round and no fused multiply-add may change the outcome. Entries that are not
    finite, or with |x| ≥ 2³¹, have no symbol: q is NaN and ŵ the weight itself. `step` broadcasts against `weights`.
    """
    w = weights.to(torch.float32)
    step = torch.as_tensor(step, dtype=torch.float64).to(torch.float32).to(w.device)
    x = w * (1 / step)
    floor = torch.floor(x)
    q = floor + (x - floor >= 0.5)
    symbol = x.abs() < SYMBOL_LIMIT
    return torch.where(symbol, q, torch.nan), torch.where(symbol, q * step, w)


def moments(weights: Tensor) -> Moments:
    """Count, mean, standard deviation, largest magnitude and Frobenius norm of the finite entries."""
    w = weights.reshape(-1).to(torch.float32).to(torch.float64)
    w = w[torch.isfinite(w)]
    nonfinite = weights.numel() - w.numel()
    if not w.numel():
        return Moments(0, nonfinite, *[torch.nan] * 4)
    std, mean = torch.std_mean(w, correction=0)
    return Moments(w.numel(), nonfinite, mean.item(), std.item(), w.abs().max().item(), w.norm().item())


def quantize_histogram(weights: Tensor, step: float | Tensor) -> QuantizedHistogram:
    """Exact counts of every symbol at one step (or one broadcast step per row or column), and the squared error."""
    w = weights.to(torch.float32)
    q, dequantized = quantize(w, step)
    finite = torch.isfinite(w)
    q = torch.where(q.isnan(), w * torch.inf, q)[finite]  # a symbol out of all bounds is pooled on its weight's side
    index = q.clamp(-LARGEST_SYMBOL, LARGEST_SYMBOL).to(torch.int64) + LARGEST_SYMBOL
    error = w[finite].to(torch.float64) - dequantized[finite].to(torch.float64)
    return QuantizedHistogram(
        torch.bincount(index, minlength=LEVELS).cpu(), error.square().sum().item(), int((~finite).sum())
    )


def quantize_dequantize(weights: Tensor, step: float | Tensor) -> tuple[Tensor, QuantizedHistogram]:
    """ŵ in the dtype of `weights`, and the histogram of its symbols."""
    return quantize(weights, step)[1].to(weights.dtype), quantize_histogram(weights, step)


def rates(weights: Tensor, steps: Tensor) -> Rates:
    """Entropy, squared error, zeros and symbols at every step, one exact pass each; (1, S)."""
    finite = weights.reshape(-1).to(torch.float32)
    finite = finite[torch.isfinite(finite)]
    rows = [_rate(finite, step) for step in steps.tolist()]
    return Rates(*torch.tensor(rows, dtype=torch.float64).reshape(1, -1, 4).unbind(-1))


def _rate(w: Tensor, step: float) -> tuple[float, ...]:
    step = torch.tensor(step, dtype=torch.float32).item()
    if not (w.numel() and 0 < step < torch.inf):
        return (torch.nan,) * 4
    q, _ = quantize(w, step)
    if q.isnan().any():
        return (torch.nan,) * 4
    q = q.to(torch.float64)
    counts = torch.unique(q, return_counts=True)[1].to(torch.float64)
    n = w.numel()
    entropy = max(0.0, (counts / n * torch.log2(n / counts)).sum().item())
    mse = (w.to(torch.float64) - q * step).square().mean().item()
    return entropy, mse, (q == 0).sum().item() / n, counts.numel()


def key(weights: Tensor) -> Tensor:
    """Sign, exponent and 7 bits of mantissa: the upper half of the float32 pattern; int32. A bfloat16 is its key."""
    return (weights.to(torch.float32).contiguous().view(torch.int32) >> 16) & 0xFFFF


def key_atoms(dtype: torch.dtype) -> int:
    """How many different weights share a key: 1 if the key is the weight, 0 if there is no telling."""
    if dtype == torch.float16:
        return 8
    return 1 if dtype == torch.bfloat16 or dtype.itemsize == 1 else 0


def base_key(abs_max: float) -> int:
    """Where the window of a fine histogram begins: 2⁻²⁴ by default, else such that it ends just above `abs_max`.

    The default holds every largest magnitude in [2⁻⁸, 2⁸), so that ordinary checkpoints need no pass to find it.
    """
    top = int(key(torch.tensor(abs_max)))
    if abs_max == 0 or DEFAULT_BASE + KEYS // 2 <= top < DEFAULT_BASE + WINDOW:
        return DEFAULT_BASE
    return min(max(top + 1 - WINDOW, 1), INFINITY_KEY - WINDOW)


def fine_histogram(weights: Tensor, base: int = DEFAULT_BASE) -> Tensor:
    """Counts per key; (KEYS, 2) int64, second column the negative ones.

    Row 0 holds what lies below the window (±0 too), row 1+i the key base+i, row WINDOW+1 everything above, with NaN
    and infinities; the last row stays empty.
    """
    k = key(weights.reshape(-1))
    magnitude = ((k & 0x7FFF) - (base - 1)).clamp(0, WINDOW + 1)
    return torch.bincount(2 * magnitude + (k >> 15), minlength=2 * KEYS).view(KEYS, 2)


def singular_values(matrix: Tensor) -> Tensor:
    """(min(m, n),) float64 on the CPU, descending."""
    return torch.linalg.svdvals(matrix.to("cpu", torch.float64))
