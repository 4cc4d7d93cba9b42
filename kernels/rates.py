"""Triton: from fine histograms to entropy, squared error, zeros and symbols, for every tensor and step, on the device.

Each sign is walked from zero outwards, all keys in parallel. Squared error and zeros are sums over keys. Entropy needs
the count of each cell (the weights of one symbol): the key with which a cell ends takes it from two prefix sums, with a
fraction of a key's weights where an end falls inside the key. `loops.walk_keys` does the same one key after the other.
"""

# Triton infers the types of a kernel, and takes launch options that its signature does not show.
# ruff: noqa: ANN001, ANN202
# pyright: reportCallIssue=false, reportAssignmentType=false, reportGeneralTypeIssues=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import reference

KEYS = tl.constexpr(reference.KEYS)
WINDOW = tl.constexpr(reference.WINDOW)
INFINITY_KEY = tl.constexpr(reference.INFINITY_KEY)
SYMBOL_LIMIT = tl.constexpr(reference.SYMBOL_LIMIT)

BLOCK = 128  # keys at a time
WARPS = 2


@triton.jit
def _kernel(
    count_ptr,  # int64 (rows, KEYS, 2)
    prefix_ptr,  # int64 (rows, KEYS, 2): counts of the window's keys before each
    base_ptr,  # int32 (rows,)
    step_ptr,  # float32 (rows, steps)
    inverse_ptr,  # float32 (rows, steps): 1/step, correctly rounded
    out_ptr,  # float64 (rows, steps, 4): entropy, mse, zero fraction, symbols
    steps,
    ATOMS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row, s = tl.program_id(0).to(tl.int64), tl.program_id(1)
    count_ptr += row * 2 * KEYS
    prefix_ptr += row * 2 * KEYS
    base = tl.load(base_ptr + row)
    step32, inverse = tl.load(step_ptr + row * steps + s), tl.load(inverse_ptr + row * steps + s)
    step, width = step32.to(tl.float64), 1 / inverse.to(tl.float64)
    PARTS: tl.constexpr = ATOMS if ATOMS > 0 else 1
    tiny = (tl.load(count_ptr) + tl.load(count_ptr + 1)).to(tl.float64)
    total = tl.zeros([BLOCK], tl.float64)
    highest = tl.zeros([BLOCK], tl.float64)
    sums = (total, total, total, total, total)  # Σ c log₂ c, symbols, squared error; mass and variance of the zero cell
    for sign in tl.static_range(2):
        signed_ptr = count_ptr + sign, prefix_ptr + sign
        for start in range(0, WINDOW * PARTS, BLOCK):
            part = start + tl.arange(0, BLOCK)
            live = part < WINDOW * PARTS
            part = tl.minimum(part, WINDOW * PARTS - 1)
            k = part // PARTS + 1
            n = tl.load(count_ptr + 2 * k + sign, mask=live, other=0).to(tl.float64)
            total += n / PARTS
            highest = tl.where(n > 0, tl.maximum(highest, _edge(k + 1, base)), highest)
            if ATOMS > 0:
                sums = _atoms(sums, live, part, k, n, signed_ptr, base, step, inverse, width, sign, ATOMS)
            else:
                sums = _spread(sums, live, k, n, signed_ptr, base, step, width)
    log, symbols, error, zeros, variance = sums
    weights = tl.sum(total, 0) + tiny
    zero = tl.sum(zeros, 0) + tiny
    zero_log, zero_occupied = _expected(zero, tl.sum(variance, 0))
    entropy = tl.log2(weights) - (tl.sum(log, 0) + zero_log) / weights
    valid = (weights > 0) & (step > 0) & (step < float("inf")) & (inverse < float("inf"))
    valid = valid & (tl.max(highest, 0) <= width * SYMBOL_LIMIT) & ((tiny == 0) | (step >= 2 * _edge(1, base)))
    out_ptr += (row * steps + s) * 4
    nan = float("nan")
    tl.store(out_ptr, tl.where(valid, tl.maximum(entropy, 0.0), nan))
    tl.store(out_ptr + 1, tl.where(valid, tl.sum(error, 0) / weights, nan))
    tl.store(out_ptr + 2, tl.where(valid, zero / weights, nan))
    tl.store(out_ptr + 3, tl.where(valid, tl.sum(symbols, 0) + zero_occupied, nan))


@triton.jit
def _edge(k, base):
    """The magnitude at which counter k begins, float64."""
    key = k + base - 1
    value = (key << 16).to(tl.float32, bitcast=True).to(tl.float64)
    return tl.where(key < INFINITY_KEY, value, 3.402823669209385e38)


@triton.jit
def _expected(mass, variance):
    """E[c log₂ c] and the chance that c > 0, as `loops._expected`."""
    positive = tl.maximum(mass, 1e-300)
    certain = variance == 0
    log = mass * tl.log2(positive) + variance / (2 * 0.6931471805599453 * positive)
    log = tl.where((mass > 0) & (certain | (mass >= 0.5)), log, 0.0)
    return log, tl.where(certain, tl.where(mass > 0, 1.0, 0.0), 1 - tl.exp(-mass))


@triton.jit
def _close(sums, q, on, k, share, n, lower_k, lower_share, signed_ptr):
    """Where `on`, the cell q ends after a share of key k's n weights, having begun after lower_share of lower_k's."""
    count_ptr, prefix_ptr = signed_ptr
    log, symbols, error, zeros, zero_variance = sums
    lower_n = tl.load(count_ptr + 2 * lower_k).to(tl.float64)
    upper = tl.load(prefix_ptr + 2 * k).to(tl.float64) + n * share
    lower = tl.load(prefix_ptr + 2 * lower_k).to(tl.float64) + lower_n * lower_share
    inside = share - lower_share
    apart = n * share * (1 - share) + lower_n * lower_share * (1 - lower_share)
    variance = tl.where(k == lower_k, n * inside * (1 - inside), apart)
    cell_log, occupied = _expected(upper - lower, variance)
    log += tl.where(on & (q > 0), cell_log, 0.0)
    symbols += tl.where(on & (q > 0), occupied, 0.0)
    zeros += tl.where(on & (q == 0), upper, 0.0)
    zero_variance += tl.where(on & (q == 0), n * share * (1 - share), 0.0)
    return log, symbols, error, zeros, zero_variance


@triton.jit
def _key_of(boundary, base):
    """The counter within which a magnitude lies."""
    pattern = boundary.to(tl.float32).to(tl.int32, bitcast=True) >> 16
    return tl.minimum(tl.maximum(pattern - (base - 1), 1), WINDOW)


@triton.jit
def _magnitude(v, inverse, sign: tl.constexpr):
    """|q| of ±v for a float32 in float64: ties go up, so away from zero for +v and towards it for −v."""
    x = v.to(tl.float32) * inverse
    floor = tl.floor(x)
    up = x - floor > 0.5 if sign else x - floor >= 0.5
    return floor.to(tl.float64) + tl.where(up, 1.0, 0.0)


@triton.jit
def _atom(t, base, ATOMS: tl.constexpr):
    """The t-th representable magnitude of the window: ATOMS to a key."""
    k = t // ATOMS + 1
    low = _edge(k, base)
    return low + (t % ATOMS) * ((_edge(k + 1, base) - low) / ATOMS)


@triton.jit
def _atoms(sums, live, t, k, n, signed_ptr, base, step, inverse, width, sign: tl.constexpr, ATOMS: tl.constexpr):
    """The t-th atom, one of ATOMS equally likely values of key k."""
    v = _atom(t, base, ATOMS)
    q, following = _magnitude(v, inverse, sign), _magnitude(_atom(t + 1, base, ATOMS), inverse, sign)
    log, symbols, error, zeros, zero_variance = sums
    difference = v - q * step
    error += n * difference * difference / ATOMS
    sums = (log, symbols, error, zeros, zero_variance)
    # The atom with which cell q begins: close to its edge in real numbers; which one, the quantiser itself decides.
    begin = tl.maximum((q - 0.5) * width, 0.0)
    begin_k = _key_of(begin, base)
    low = _edge(begin_k, base)
    inner = ((begin - low) / (_edge(begin_k + 1, base) - low) * ATOMS).to(tl.int32)
    guess = tl.maximum((begin_k - 1) * ATOMS + tl.minimum(tl.maximum(inner, 0), ATOMS - 1) - 1, 0)
    first = guess
    for i in tl.static_range(3):
        first += tl.where(_magnitude(_atom(guess + i, base, ATOMS), inverse, sign) < q, 1, 0)
    first = tl.minimum(first, t)
    ends = (q != following) | (t == WINDOW * ATOMS - 1)
    share, lower_share = (t % ATOMS + 1) / ATOMS, (first % ATOMS) / ATOMS
    return _close(sums, q, live & ends, k, share, n, first // ATOMS + 1, lower_share, signed_ptr)


@triton.jit
def _spread(sums, live, k, n, signed_ptr, base, step, width):
    """Keys whose weights are spread evenly from edge to edge."""
    low, high = _edge(k, base), _edge(k + 1, base)
    first = tl.floor(low / width + 0.5)
    last = tl.ceil(high / width + 0.5) - 1
    split = first != last
    head_end = tl.where(split, (first + 0.5) * width, high)
    tail_begin = tl.where(split, (last - 0.5) * width, high)
    inner = tl.maximum(last - first - 1, 0.0)
    density = 1 / (high - low)
    log, symbols, error, zeros, zero_variance = sums
    cell = width * density
    inner_log, occupied = _expected(n * cell, n * cell * (1 - cell))
    log += tl.where(inner > 0, inner * inner_log, 0.0)
    symbols += tl.where(inner > 0, inner * occupied, 0.0)
    error += n * density * (_piece(low, head_end, first * step) + _piece(tail_begin, high, last * step))
    error += n * cell * inner * width * width / 12
    sums = (log, symbols, error, zeros, zero_variance)
    head = (head_end - low) * density
    sums = _close_spread(sums, first, live & split, k, head, n, base, width, signed_ptr)
    ends = (tl.floor(high / width + 0.5) != last) | (k == WINDOW)
    return _close_spread(sums, last, live & ends, k, 1.0, n, base, width, signed_ptr)


@triton.jit
def _piece(begin, end, centre):
    """∫ (w − centre)² dw from begin to end."""
    offset, length = (begin + end) / 2 - centre, end - begin
    return length * (offset * offset + length * length / 12)


@triton.jit
def _close_spread(sums, q, on, k, share, n, base, width, signed_ptr):
    begin = tl.maximum((q - 0.5) * width, 0.0)
    lower_k = tl.minimum(_key_of(begin, base), k)
    low = _edge(lower_k, base)
    lower_share = tl.minimum(tl.maximum((begin - low) / (_edge(lower_k + 1, base) - low), 0.0), 1.0)
    return _close(sums, q, on, k, share, n, lower_k, lower_share, signed_ptr)


def fine_rates(counts: Tensor, bases: Tensor, atoms: int, steps: Tensor) -> Tensor:
    """Entropy, mse, zero fraction, symbols: (T, S, 4) float64 on the device of `counts` (T, KEYS, 2); nothing waits.

    bases: (T,) int32; steps: (T, S) float32; atoms: as `reference.key_atoms`.
    """
    counts = counts.contiguous()
    inside = counts.clone()
    inside[:, 0] = 0
    prefix = inside.cumsum(1) - inside
    steps = steps.to(counts.device, torch.float32).contiguous()
    out = torch.empty(*steps.shape, 4, dtype=torch.float64, device=counts.device)
    if out.numel():
        _kernel[steps.shape](
            counts,
            prefix,
            bases.to(counts.device),
            steps,
            1 / steps,
            out,
            steps.shape[1],
            ATOMS=atoms,
            BLOCK=BLOCK,
            num_warps=WARPS,
            enable_fp_fusion=False,
        )
    return out
