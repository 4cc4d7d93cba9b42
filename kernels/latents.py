"""Triton: a move of all integers and steps of a network in training, in three launches instead of some two hundred.

The definition is `engine.coarse.latents.Latents.move`, in PyTorch. Sums are taken in a fixed order.
"""

# Triton infers the types of a kernel, and takes launch options that its signature does not show.
# ruff: noqa: ANN001, ANN202
# pyright: reportCallIssue=false, reportAssignmentType=false, reportGeneralTypeIssues=false, reportArgumentType=false

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 256  # symbols, or groups, at a time
WARPS = 2
SUMS = tl.constexpr(4)  # bits that coarser steps would save; Σ gradient · symbol; Σ gradient · value; Σ gradient


Averages = tuple[Tensor, Tensor, Tensor]
"""Running averages of gradients and of their squares ([n] each), and how many they are of ([], float64)."""


class Rule(NamedTuple):
    """How far a move goes: see the constants of the same names in `engine.coarse.latents`."""

    pace: float
    step_pace: float
    stretch_pace: float
    momentum: float
    memory: float
    damping: float


class Layout:
    """Which symbols and groups belong together: `group_sizes` ([G]), and groups in each tensor ([T])."""

    def __init__(self, group_sizes: Tensor, groups: Tensor, device: torch.device) -> None:
        sizes, groups = group_sizes.long().cpu(), groups.long().cpu()
        tensor_of = torch.arange(len(groups)).repeat_interleave(groups)
        self.groups = torch.stack([sizes.cumsum(0) - sizes, sizes, tensor_of], 1).to(device)
        self.tensors = torch.stack([groups.cumsum(0) - groups, groups], 1).to(device)


@triton.jit
def _sums_kernel(gradient_ptr, values_ptr, symbols_ptr, group_ptr, unit_ptr, sums_ptr, BLOCK: tl.constexpr):
    """Of one group: bits of another unit, and the four sums."""
    group = tl.program_id(0).to(tl.int64)
    first, size = tl.load(group_ptr + 3 * group), tl.load(group_ptr + 3 * group + 1)
    nothing = tl.zeros([BLOCK], tl.float32)
    total, beyond, by_symbols, by_values, gradients = nothing, nothing, nothing, nothing, nothing
    for start in range(0, size, BLOCK):
        inside = start + tl.arange(0, BLOCK) < size
        place = first + start + tl.arange(0, BLOCK)
        gradient = _finite(tl.load(gradient_ptr + place, mask=inside, other=0.0))
        symbol = tl.load(symbols_ptr + place, mask=inside, other=0.0)
        total += tl.abs(symbol)
        beyond += tl.maximum(tl.abs(symbol) - 1.0, 0.0)
        by_symbols += gradient * symbol
        by_values += gradient * tl.load(values_ptr + place, mask=inside, other=0.0)
        gradients += gradient
    count = size.to(tl.float32)
    mean = tl.maximum(tl.sum(total, 0) / count, 0.5 / count)
    unit = -tl.log2(mean / (1.0 + tl.sqrt(1.0 + mean * mean)))
    tl.store(unit_ptr + group, unit)
    sums_ptr += SUMS * group
    tl.store(sums_ptr, unit * tl.sum(beyond, 0))
    tl.store(sums_ptr + 1, tl.sum(by_symbols, 0))
    tl.store(sums_ptr + 2, tl.sum(by_values, 0))
    tl.store(sums_ptr + 3, tl.sum(gradients, 0))


@triton.jit
def _steps_kernel(
    sums_ptr,  # float32 (G, SUMS)
    tensor_ptr,  # int64 (T, 2): first group, groups
    offset_ptr,  # float64 (T,), as what follows
    log_step_ptr,
    stretch_gradient_ptr,
    stretch_square_ptr,
    stretch_seen_ptr,
    step_gradient_ptr,
    step_square_ptr,
    step_seen_ptr,
    price_ptr,
    pace_ptr,
    factor_ptr,  # float32 (T,): by how much units become finer
    STEP_PACE: tl.constexpr,
    STRETCH_PACE: tl.constexpr,
    MOMENTUM: tl.constexpr,
    MEMORY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Of one tensor: its step."""
    tensor = tl.program_id(0)
    first, groups = tl.load(tensor_ptr + 2 * tensor), tl.load(tensor_ptr + 2 * tensor + 1)
    nothing = tl.zeros([BLOCK], tl.float64)
    saved, by_symbols, by_values, gradients = nothing, nothing, nothing, nothing
    for start in range(0, groups, BLOCK):
        inside = start + tl.arange(0, BLOCK) < groups
        place = sums_ptr + SUMS * (first + start + tl.arange(0, BLOCK))
        saved += tl.load(place, mask=inside, other=0.0).to(tl.float64)
        by_symbols += tl.load(place + 1, mask=inside, other=0.0).to(tl.float64)
        by_values += tl.load(place + 2, mask=inside, other=0.0).to(tl.float64)
        gradients += tl.load(place + 3, mask=inside, other=0.0).to(tl.float64)
    offset, pace = tl.load(offset_ptr + tensor), tl.load(pace_ptr)
    slope, noise = tl.sum(by_symbols, 0), tl.sum(by_symbols, 0) - tl.sum(by_values, 0)
    stretch = _agreement(
        tl.load(price_ptr) * noise - tl.sum(saved, 0),
        stretch_gradient_ptr + tensor,
        stretch_square_ptr + tensor,
        tl.load(stretch_seen_ptr),
        MOMENTUM,
        MEMORY,
    )
    finer = tl.where(offset == 0, stretch * STRETCH_PACE * pace, 0.0)
    tl.store(factor_ptr + tensor, tl.exp(finer).to(tl.float32))
    step = _agreement(
        slope + offset * tl.sum(gradients, 0),
        step_gradient_ptr + tensor,
        step_square_ptr + tensor,
        tl.load(step_seen_ptr),
        MOMENTUM,
        MEMORY,
    )
    log_step = tl.load(log_step_ptr + tensor)
    tl.store(log_step_ptr + tensor, log_step - (step * STEP_PACE * pace + finer))


@triton.jit
def _values_kernel(
    gradient_ptr,
    values_ptr,
    symbols_ptr,
    mean_ptr,
    square_ptr,
    seen_ptr,
    group_ptr,  # int64 (G, 3): first symbol, symbols, tensor
    unit_ptr,
    factor_ptr,
    price_ptr,
    pace_ptr,
    PACE: tl.constexpr,
    MOMENTUM: tl.constexpr,
    MEMORY: tl.constexpr,
    DAMPING: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Of one group: its numbers, in units of the new step."""
    group = tl.program_id(0).to(tl.int64)
    first, size = tl.load(group_ptr + 3 * group), tl.load(group_ptr + 3 * group + 1)
    factor = tl.load(factor_ptr + tl.load(group_ptr + 3 * group + 2))
    unit, price = tl.load(unit_ptr + group), tl.load(price_ptr).to(tl.float32)
    pace = (tl.load(pace_ptr) * PACE).to(tl.float32)
    begun, remembered = _begun(tl.load(seen_ptr), MOMENTUM), _begun(tl.load(seen_ptr), MEMORY)
    begun, remembered = begun.to(tl.float32), remembered.to(tl.float32)
    for start in range(0, size, BLOCK):
        inside = start + tl.arange(0, BLOCK) < size
        place = first + start + tl.arange(0, BLOCK)
        gradient = _finite(tl.load(gradient_ptr + place, mask=inside, other=0.0))
        mean = tl.load(mean_ptr + place, mask=inside, other=0.0) / factor
        square = tl.load(square_ptr + place, mask=inside, other=0.0) / (factor * factor)
        mean += (1 - MOMENTUM) * (gradient - mean)
        square = MEMORY * square + (1 - MEMORY) * gradient * gradient
        scale = pace / (tl.sqrt(square / remembered) * price + DAMPING)
        value = tl.load(values_ptr + place, mask=inside, other=0.0) * factor
        value -= scale * price * mean / begun
        pull = scale * unit
        value -= tl.minimum(tl.maximum(value, -pull), pull)
        tl.store(mean_ptr + place, mean, mask=inside)
        tl.store(square_ptr + place, square, mask=inside)
        tl.store(values_ptr + place, value, mask=inside)
        tl.store(symbols_ptr + place, _nearest(value), mask=inside)


@triton.jit
def _agreement(gradient, mean_ptr, square_ptr, seen, MOMENTUM: tl.constexpr, MEMORY: tl.constexpr):
    """Take in another gradient (float64); mean over magnitude."""
    mean, square = tl.load(mean_ptr), tl.load(square_ptr)
    mean += (1 - MOMENTUM) * (gradient - mean)
    square = MEMORY * square + (1 - MEMORY) * gradient * gradient
    tl.store(mean_ptr, mean)
    tl.store(square_ptr, square)
    return mean / _begun(seen, MOMENTUM) / (tl.sqrt(square / _begun(seen, MEMORY)) + 1e-12)


@triton.jit
def _begun(seen, RATE: tl.constexpr):
    """1 − RATE^seen: the share that an average of so many has of the mean."""
    return 1.0 - tl.exp(seen * tl.log(seen * 0.0 + RATE))


@triton.jit
def _finite(x):
    return tl.where(tl.abs(x) < float("inf"), x, 0.0)


@triton.jit
def _nearest(x):
    """The nearest integer, ties to even: below 2²² as the sum with 1.5 · 2²³ rounds it."""
    rounded = (x + 12582912.0) - 12582912.0
    return tl.where(tl.abs(x) < 4194304.0, rounded, tl.floor(x + 0.5))


def move(
    gradient: Tensor,
    values: Tensor,
    symbols: Tensor,
    averages: Averages,
    layout: Layout,
    log_steps: Tensor,
    offsets: Tensor,
    step_averages: Averages,
    stretch_averages: Averages,
    price: Tensor,
    pace: Tensor,
    rule: Rule,
) -> None:
    """Move `values` and `symbols` ([N] float32) and `log_steps` ([T] float64) in place, with their averages.

    Needs one group and symbol at least.
    """
    for _, _, seen in (averages, step_averages, stretch_averages):
        seen.add_(1)
    groups, tensors = len(layout.groups), len(layout.tensors)
    unit, factors = values.new_empty(groups), values.new_empty(tensors)
    sums = values.new_empty(groups, int(SUMS))
    launch = {"BLOCK": BLOCK, "num_warps": WARPS}
    _sums_kernel[(groups,)](gradient, values, symbols, layout.groups, unit, sums, **launch)
    _steps_kernel[(tensors,)](
        sums,
        layout.tensors,
        offsets,
        log_steps,
        *stretch_averages,
        *step_averages,
        price,
        pace,
        factors,
        STEP_PACE=rule.step_pace,
        STRETCH_PACE=rule.stretch_pace,
        MOMENTUM=rule.momentum,
        MEMORY=rule.memory,
        **launch,
    )
    _values_kernel[(groups,)](
        gradient,
        values,
        symbols,
        *averages,
        layout.groups,
        unit,
        factors,
        price,
        pace,
        PACE=rule.pace,
        MOMENTUM=rule.momentum,
        MEMORY=rule.memory,
        DAMPING=rule.damping,
        **launch,
    )
