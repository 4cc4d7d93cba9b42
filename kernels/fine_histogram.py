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

WINDOW = tl.constexpr(reference.WINDOW)

BLOCK = 8192  # weights of one program at a time
WARPS = 16
ALIGNMENT = 16  # bytes of one load
LONGEST = 1 << 30  # weights a program counts before it flushes: counters are 32 bits wide


@triton.jit
def _kernel(
    segment_ptr,  # int64 (segments, 4): aligned address, first weight, end, row
    range_ptr,  # int32 (programs + 1,): each program's segments
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
    for segment in range(tl.load(range_ptr + program), tl.load(range_ptr + program + 1)):
        # The alignment must be stated on the pointer: on the address it is lost, and with it the 128-bit loads.
        address = tl.load(segment_ptr + 4 * segment).to(tl.pointer_type(DTYPE))
        weight_ptr = tl.multiple_of(address, 16)
        first = tl.load(segment_ptr + 4 * segment + 1).to(tl.int32)
        end = tl.load(segment_ptr + 4 * segment + 2).to(tl.int32)
        row = tl.load(segment_ptr + 4 * segment + 3)
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
    """Counts (T, KEYS, 2) int64 of T contiguous tensors of one dtype: bfloat16, float16 or float32; `bases` (T,) int32.

    Every program takes an equal part of all weights laid end to end, so that neither one huge nor many tiny tensors
    leave it idle.
    """
    device, dtype = tensors[0].device, tensors[0].dtype
    segments, ranges = _segments(tensors, programs)
    out = torch.zeros(len(tensors), reference.KEYS, 2, dtype=torch.int64, device=device)
    _kernel[(programs,)](
        torch.tensor(segments, dtype=torch.int64).to(device, non_blocking=True),
        torch.tensor(ranges, dtype=torch.int32).to(device, non_blocking=True),
        bases.to(device, non_blocking=True),
        out,
        DTYPE={torch.bfloat16: tl.int16, torch.float16: tl.float16, torch.float32: tl.float32}[dtype],
        BLOCK=BLOCK,
        THREADS=32 * WARPS,
        SHARED=shared,
        num_warps=WARPS,
    )
    return out


def _segments(tensors: Sequence[Tensor], programs: int) -> tuple[list[tuple[int, int, int, int]], list[int]]:
    """Cut tensors into segments (aligned address, first weight, end, row), and share these out among programs.

    A segment begins on an aligned address. Where a tensor does not, its first block is a segment of its own that skips
    the weights before it.
    """
    share = -(-sum(t.numel() for t in tensors) // programs)
    share = -(-share // BLOCK) * BLOCK
    segments, ranges, room = [], [0], share
    for row, tensor in enumerate(tensors):
        size = tensor.element_size()
        skip = tensor.data_ptr() % ALIGNMENT // size
        address, left = tensor.data_ptr() - skip * size, tensor.numel()
        while left:
            if room <= 0 and len(ranges) < programs:
                ranges.append(len(segments))
                room += share
            end = min(skip + left, BLOCK if skip else min(max(room, BLOCK), LONGEST) // BLOCK * BLOCK)
            segments.append((address, skip, end, row))
            left, room, address, skip = left - (end - skip), room - (end - skip), address + end * size, 0
    return segments or [(0, 0, 0, 0)], ranges + [len(segments)] * (programs + 1 - len(ranges))
