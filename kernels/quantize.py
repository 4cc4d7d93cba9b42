"""Triton: quantise, count the symbols, sum the squared error and, if wanted, write ŵ: one pass over the weights."""

# Triton infers the types of a kernel, and takes launch options that its signature does not show.
# ruff: noqa: ANN001, ANN201, ANN202
# pyright: reportCallIssue=false, reportAssignmentType=false, reportGeneralTypeIssues=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import counters, reference
from .reference import QuantizedHistogram

LARGEST_SYMBOL = tl.constexpr(reference.LARGEST_SYMBOL)
NONFINITE = tl.constexpr(reference.LEVELS)  # the counter after the symbols'
SYMBOL_LIMIT = tl.constexpr(reference.SYMBOL_LIMIT)

BLOCK = 4096  # weights of one program at a time
WARPS = 16
LONGEST = 1 << 30  # weights of one program: offsets in it, and counters, are 32 bits wide


@triton.jit
def _kernel(
    weight_ptr,  # (n,) float32, float16 or bfloat16
    step_ptr,  # float32: one, one per row or one per column
    inverse_ptr,  # float32, 1/step, correctly rounded (a division here might not be)
    dequantized_ptr,  # (n,) as the weights
    count_ptr,  # int64 (COUNTERS,), zeroed
    error_ptr,  # float64 (programs,)
    n,
    chunk,  # weights per program, a multiple of BLOCK, at most LONGEST
    columns,
    AXIS: tl.constexpr,  # -1: one step, 0: one per row, 1: one per column
    WRITE: tl.constexpr,
    BLOCK: tl.constexpr,
    THREADS: tl.constexpr,
    SHARED: tl.constexpr,
):
    program = tl.program_id(0)
    begin = program.to(tl.int64) * chunk
    length = tl.minimum(n - begin, chunk).to(tl.int32)
    weight_ptr += begin
    dequantized_ptr += begin
    table = counters.declare(SHARED)
    counters.clear(table, SHARED, THREADS)
    error = tl.zeros([BLOCK], tl.float32)
    offset = tl.arange(0, BLOCK)
    whole = length // BLOCK * BLOCK
    for start in range(0, whole, BLOCK):
        w = tl.load(weight_ptr + start + offset).to(tl.float32)
        step, inverse = _steps(step_ptr, inverse_ptr, begin, start + offset, columns, AXIS)
        held, index, squared = _quantize(w, step, inverse)
        if WRITE:
            tl.store(dequantized_ptr + start + offset, held)
        counters.count(table, count_ptr, index, SHARED)
        error += squared
    if whole < length:
        inside = whole + offset < length
        w = tl.load(weight_ptr + whole + offset, mask=inside, other=0).to(tl.float32)
        step, inverse = _steps(step_ptr, inverse_ptr, begin, tl.where(inside, whole + offset, 0), columns, AXIS)
        held, index, squared = _quantize(w, step, inverse)
        if WRITE:
            tl.store(dequantized_ptr + whole + offset, held, mask=inside)
        counters.count(table, count_ptr, tl.where(inside, index, counters.PADDING), SHARED)
        error += squared
    counters.flush(table, count_ptr, SHARED, THREADS)
    tl.store(error_ptr + program, tl.sum(error.to(tl.float64), 0))


@triton.jit
def _steps(step_ptr, inverse_ptr, begin, offset, columns, AXIS: tl.constexpr):
    """The step of the weight at begin + offset, and its reciprocal; only `begin` needs a 64-bit division."""
    column = (begin % columns).to(tl.int32) + offset
    if AXIS == 0:
        index = begin // columns + column // columns
    elif AXIS == 1:
        index = column % columns
    else:
        index = 0
    return tl.load(step_ptr + index), tl.load(inverse_ptr + index)


@triton.jit
def _quantize(w, step, inverse):
    """ŵ, the index of the counter, and (w − ŵ)², as `reference.quantize`; the launch forbids fused multiply-adds."""
    q, index = symbol(w, inverse)
    held = tl.where(tl.abs(w * inverse) < SYMBOL_LIMIT, q * step, w)
    difference = tl.where(tl.abs(w) < float("inf"), w - held, 0.0)
    return held, index, difference * difference


@triton.jit
def symbol(w, inverse):
    """The symbol of a float32 weight, as a float32, and the index of its counter; no multiply-add may be fused."""
    x = w * inverse
    floor = tl.floor(x)
    q = floor + tl.where(x - floor >= 0.5, 1.0, 0.0)
    level = tl.minimum(tl.maximum(q, -LARGEST_SYMBOL), LARGEST_SYMBOL).to(tl.int32) + LARGEST_SYMBOL
    return q, tl.where(tl.abs(w) < float("inf"), level, NONFINITE)


def quantize(
    weights: Tensor, steps: Tensor, axis: int, write: bool, programs: int, shared: bool
) -> tuple[Tensor, QuantizedHistogram]:
    """See `reference.quantize_dequantize`, for contiguous float32, float16 or bfloat16 weights (n,) or (rows, columns).

    steps: float32 on the same device; one (axis −1), one per row (0) or one per column (1).
    """
    dequantized, counts, errors = launch(weights, steps, axis, write, programs, shared)
    counts = counts.cpu()
    histogram = QuantizedHistogram(counts[: reference.LEVELS], errors.sum().item(), int(counts[reference.LEVELS]))
    return dequantized, histogram


def launch(
    weights: Tensor, steps: Tensor, axis: int, write: bool, programs: int, shared: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The same without waiting: ŵ, counts (COUNTERS,) int64 and each program's part of the squared error, float64."""
    n, device = weights.numel(), weights.device
    if axis >= 0 and weights.shape[1] >= LONGEST:
        raise ValueError(f"rows of {weights.shape[1]} weights with steps of their own: at most {LONGEST - 1}")
    programs = max(1, min(-(-n // BLOCK), programs), -(-n // LONGEST))
    chunk = -(-n // (programs * BLOCK)) * BLOCK
    programs = max(1, -(-n // max(chunk, 1)))
    dequantized = torch.empty_like(weights) if write else weights
    counts = torch.zeros(int(counters.COUNTERS), dtype=torch.int64, device=device)
    errors = torch.empty(programs, dtype=torch.float64, device=device)
    _kernel[(programs,)](
        weights,
        steps,
        1 / steps,
        dequantized,
        counts,
        errors,
        n,
        chunk,
        weights.shape[1] if axis >= 0 else 1,
        AXIS=axis,
        WRITE=write,
        BLOCK=BLOCK,
        THREADS=32 * WARPS,
        SHARED=shared,
        num_warps=WARPS,
        enable_fp_fusion=False,
    )
    return dequantized, counts, errors
