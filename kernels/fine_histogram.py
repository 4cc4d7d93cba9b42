"""Triton: the fine histograms of all tensors of one dtype in a single launch."""

# Triton infers the types of a kernel, and takes launch options that its signature does not show.
# ruff: noqa: ANN001, ANN202
# pyright: reportCallIssue=false, reportAssignmentType=false, reportGeneralTypeIssues=false

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import counters, reference
from .shares import ELEMENTS, segment, shares

WINDOW = tl.constexpr(reference.WINDOW)

BLOCK = 8192  # weights of one program at a time
WARPS = 32


@triton.jit
def _kernel(
    segment_ptr,  # int64 (segments, 4): see `shares.Shares`
    range_ptr,  # int64 (programs + 1,)
    base_ptr,  # int32 (rows,)
    out_ptr,  # int64 (rows, COUNTERS), zeroed
    DTYPE: tl.constexpr,
    BLOCK: tl.constexpr,
    THREADS: tl.constexpr,
    SHARED: tl.constexpr,
):
    program = tl.program_id(0)
    table = counters.declare(SHARED)
    offset = tl.arange(0, BLOCK)
    for i in range(tl.load(range_ptr + program), tl.load(range_ptr + program + 1)):
        weight_ptr, first, end, row = segment(segment_ptr, i, DTYPE)
        base = tl.load(base_ptr + row)
        row_ptr = out_ptr + row * counters.COUNTERS
        whole = tl.where(first > 0, 0, end // BLOCK * BLOCK)
        counters.clear(table, SHARED, THREADS)
        for start in range(0, whole, BLOCK):
            w = tl.load(weight_ptr + start + offset)
            counters.count(table, row_ptr, _counter(w, base), SHARED)
        for start in range(whole, end, BLOCK):
            inside = (start + offset >= first) & (start + offset < end)
            w = tl.load(weight_ptr + start + offset, mask=inside, other=0)
            counters.count(table, row_ptr, tl.where(inside, _counter(w, base), counters.PADDING), SHARED)
        counters.flush(table, row_ptr, SHARED, THREADS)


@triton.jit
def _counter(w, base):
    """Index of the weight's counter; bfloat16 comes as its int16 pattern."""
    key = w.to(tl.int32) if w.dtype == tl.int16 else w.to(tl.float32).to(tl.int32, bitcast=True) >> 16
    magnitude = tl.minimum(tl.maximum((key & 0x7FFF) - (base - 1), 0), WINDOW + 1)
    return magnitude * 2 + ((key >> 15) & 1)


def fine_histogram(tensors: Sequence[Tensor], bases: Tensor, programs: int, shared: bool) -> Tensor:
    """Counts (T, KEYS, 2) int64 of T contiguous bfloat16, float16 or float32 tensors, all alike; bases: (T,) int32."""
    device, dtype = tensors[0].device, tensors[0].dtype
    segments, ranges = shares(tensors, programs, BLOCK)
    out = torch.zeros(len(tensors), reference.KEYS, 2, dtype=torch.int64, device=device)
    _kernel[(programs,)](
        segments.to(device, non_blocking=True),
        ranges.to(device, non_blocking=True),
        bases.to(device, non_blocking=True),
        out,
        DTYPE=ELEMENTS[dtype],
        BLOCK=BLOCK,
        THREADS=32 * WARPS,
        SHARED=shared,
        num_warps=WARPS,
    )
    return out
