"""Triton: count, mean, spread, largest magnitude and energy of all tensors of one dtype, in float64, in one pass."""

# Triton infers the types of a kernel, and takes launch options that its signature does not show.
# ruff: noqa: ANN001, ANN202
# pyright: reportCallIssue=false, reportAssignmentType=false, reportGeneralTypeIssues=false

from collections.abc import Sequence

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from .reference import Moments
from .shares import ELEMENTS, segment, shares, values

BLOCK = 2048  # weights of one program at a time
WARPS = 8
COLUMNS = tl.constexpr(5)  # count, mean, Σ(w − mean)², max|w|, Σw²


@triton.jit
def _kernel(
    segment_ptr,  # int64 (segments, 4): see `shares.Shares`
    range_ptr,  # int64 (programs + 1,)
    out_ptr,  # float64 (segments, COLUMNS)
    DTYPE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    offset = tl.arange(0, BLOCK)
    for i in range(tl.load(range_ptr + program), tl.load(range_ptr + program + 1)):
        weight_ptr, first, end, _ = segment(segment_ptr, i, DTYPE)
        # Differences from a weight of the segment, unlike the weights themselves, are not all mean and no spread.
        shift = _some_weight(weight_ptr, first, end)
        nothing = tl.zeros([BLOCK], tl.float64)
        sums = (tl.zeros([BLOCK], tl.int32), nothing, nothing, nothing, nothing)
        whole = tl.where(first > 0, 0, end // BLOCK * BLOCK)
        for start in range(0, whole, BLOCK):
            sums = _add(sums, values(tl.load(weight_ptr + start + offset)), shift)
        for start in range(whole, end, BLOCK):
            inside = (start + offset >= first) & (start + offset < end)
            w = values(tl.load(weight_ptr + start + offset, mask=inside, other=0))
            sums = _add(sums, tl.where(inside, w, float("inf")), shift)
        count, sum_, square, largest, energy = sums
        n = tl.sum(count, 0).to(tl.float64)
        total, shifted = tl.sum(sum_, 0), tl.sum(square, 0)
        some = tl.maximum(n, 1.0)
        out = out_ptr + COLUMNS * i
        tl.store(out, n)
        tl.store(out + 1, shift + total / some)
        tl.store(out + 2, tl.maximum(shifted - total * total / some, 0.0))
        tl.store(out + 3, tl.max(largest, 0))
        tl.store(out + 4, tl.sum(energy, 0))


@triton.jit
def _some_weight(weight_ptr, first, end):
    """A finite one of the first 32, float64; 0 if there is none."""
    index = first + tl.arange(0, 32)
    w = values(tl.load(weight_ptr + index, mask=index < end, other=0)).to(tl.float64)
    largest = tl.max(tl.where((index < end) & (tl.abs(w) < float("inf")), w, -float("inf")), 0)
    return tl.where(largest > -float("inf"), largest, 0.0)


@triton.jit
def _add(sums, w, shift):
    """One more block; what is not finite is left out."""
    count, sum_, square, largest, energy = sums
    w = w.to(tl.float64)
    finite = tl.abs(w) < float("inf")
    w = tl.where(finite, w, 0.0)
    difference = tl.where(finite, w - shift, 0.0)
    return (
        count + finite.to(tl.int32),
        sum_ + difference,
        square + difference * difference,
        tl.maximum(largest, tl.abs(w)),
        energy + w * w,
    )


def moments(tensors: Sequence[Tensor], programs: int) -> list[Moments]:
    """See `reference.moments`, of contiguous tensors of one dtype in `shares.ELEMENTS`."""
    device, dtype = tensors[0].device, tensors[0].dtype
    segments, ranges = shares(tensors, programs, BLOCK)
    out = torch.zeros(len(segments), int(COLUMNS), dtype=torch.float64, device=device)
    _kernel[(programs,)](
        segments.to(device, non_blocking=True),
        ranges.to(device, non_blocking=True),
        out,
        DTYPE=ELEMENTS[dtype],
        BLOCK=BLOCK,
        num_warps=WARPS,
    )
    return _merged([tensor.numel() for tensor in tensors], segments[:, 3].numpy(), out.cpu().numpy())


def _merged(numels: list[int], rows: np.ndarray, parts: np.ndarray) -> list[Moments]:
    """Of each tensor from those of its segments (Chan, Golub, LeVeque 1979); `rows` ascend."""
    found = [Moments(0, numel, *[torch.nan] * 4) for numel in numels]
    if not len(rows):
        return found
    first = np.flatnonzero(np.diff(rows, prepend=-1))
    counts, means, spreads, largest, energies = parts.T
    n = np.add.reduceat(counts, first)
    some, reference = np.maximum(n, 1), means[first]
    number = np.repeat(np.arange(len(first)), np.diff(first, append=len(rows)))  # each segment's tensor
    mean = reference + np.add.reduceat(counts * (means - reference[number]), first) / some
    spread = np.add.reduceat(spreads + counts * (means - mean[number]) ** 2, first)
    frobenius = np.sqrt(np.add.reduceat(energies, first))
    columns = (mean, np.sqrt(spread / some), np.maximum.reduceat(largest, first), frobenius)
    for row, count, figures in zip(rows[first].tolist(), n.astype(int).tolist(), np.stack(columns, 1), strict=True):
        if count:
            found[row] = Moments(count, numels[row] - count, *figures.tolist())
    return found
