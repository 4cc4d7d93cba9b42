"""Triton: quantise and take the entropy in one program, for tensors that are too small for a fine histogram.

One program for each tensor and step: it counts every symbol in shared memory and never writes them out.
"""

# Triton infers the types of a kernel, and takes launch options that its signature does not show.
# ruff: noqa: ANN001, ANN202
# pyright: reportArgumentType=false, reportCallIssue=false, reportAssignmentType=false, reportGeneralTypeIssues=false

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import counters
from .quantize import LARGEST_SYMBOL, NONFINITE, symbol
from .shares import ELEMENTS, values

BLOCK = 2048  # weights at a time
WARPS = 8


@triton.jit
def _kernel(
    tensor_ptr,  # int64 (rows, 2): address, weights
    step_ptr,  # float32 (rows, steps)
    inverse_ptr,  # float32 (rows, steps): 1/step, correctly rounded
    out_ptr,  # float64 (rows, steps, 4): entropy, mse, zero fraction, symbols
    steps,
    DTYPE: tl.constexpr,
    BLOCK: tl.constexpr,
    THREADS: tl.constexpr,
):
    row, s = tl.program_id(0).to(tl.int64), tl.program_id(1)
    weight_ptr = tl.load(tensor_ptr + 2 * row).to(tl.pointer_type(DTYPE))
    n = tl.load(tensor_ptr + 2 * row + 1).to(tl.int32)
    step, inverse = tl.load(step_ptr + row * steps + s), tl.load(inverse_ptr + row * steps + s)
    table = counters.declare(True)
    counters.clear(table, True, THREADS)
    error = tl.zeros([BLOCK], tl.float64)
    for start in range(0, n, BLOCK):
        inside = start + tl.arange(0, BLOCK) < n
        w = values(tl.load(weight_ptr + start + tl.arange(0, BLOCK), mask=inside, other=0)).to(tl.float32)
        q, index = symbol(w, inverse)
        counters.count(table, out_ptr, tl.where(inside, index, counters.PADDING), True)
        difference = w.to(tl.float64) - q.to(tl.float64) * step.to(tl.float64)
        error += tl.where(inside & (index != NONFINITE), difference * difference, 0.0)
    tl.debug_barrier()
    log = tl.zeros([THREADS], tl.float64)
    weights, symbols, zeros, beyond = log, log, log, log
    for i in tl.static_range(counters.COUNTERS // THREADS):
        index, n = counters.read(table, i, THREADS)
        c = tl.where(index < NONFINITE, n, 0).to(tl.float64)
        weights += c
        log += c * tl.log2(tl.maximum(c, 1.0))
        symbols += tl.where(c > 0, 1.0, 0.0)
        zeros += tl.where(index == LARGEST_SYMBOL, c, 0.0)
        beyond += tl.where((index == 0) | (index == NONFINITE - 1), c, 0.0)
    total = tl.sum(weights, 0)
    valid = (total > 0) & (tl.sum(beyond, 0) == 0) & (step > 0) & (step < float("inf")) & (inverse < float("inf"))
    entropy = tl.maximum(tl.log2(total) - tl.sum(log, 0) / total, 0.0)
    out_ptr += (row * steps + s) * 4
    nan = float("nan")
    tl.store(out_ptr, tl.where(valid, entropy, nan))
    tl.store(out_ptr + 1, tl.where(valid, tl.sum(error, 0) / total, nan))
    tl.store(out_ptr + 2, tl.where(valid, tl.sum(zeros, 0) / total, nan))
    tl.store(out_ptr + 3, tl.where(valid, tl.sum(symbols, 0), nan))


def exact_rates(tensors: Sequence[Tensor], steps: Tensor) -> Tensor:
    """Entropy, mse, zero fraction, symbols: (T, S, 4) float64 on their device, of contiguous tensors of one dtype.

    steps: (T, S) float32. NaN as in `reference.Rates`, and also where symbols lie beyond ±LARGEST_SYMBOL.
    """
    device = tensors[0].device
    table = torch.tensor([(tensor.data_ptr(), tensor.numel()) for tensor in tensors]).to(device, non_blocking=True)
    steps = steps.to(device, torch.float32).contiguous()
    out = torch.empty(*steps.shape, 4, dtype=torch.float64, device=device)
    if out.numel():
        _kernel[steps.shape](
            table,
            steps,
            1 / steps,
            out,
            steps.shape[1],
            DTYPE=ELEMENTS[tensors[0].dtype],
            BLOCK=BLOCK,
            THREADS=32 * WARPS,
            num_warps=WARPS,
            enable_fp_fusion=False,
        )
    return out
