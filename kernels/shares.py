"""How the weights of many tensors are shared out among the programs of one launch.

Every program takes an equal part of all weights laid end to end, so that neither one huge nor many tiny tensors leave
it idle. It walks segments: runs of weights of one tensor, each from an aligned address.
"""

# Triton infers the types of a kernel.
# ruff: noqa: ANN001, ANN201
# pyright: reportArgumentType=false

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

ALIGNMENT = 16  # bytes of one load
LONGEST = 1 << 30  # weights of a segment: offsets and counters in it are 32 bits wide
ELEMENTS = {
    torch.float64: tl.float64,
    torch.float32: tl.float32,
    torch.float16: tl.float16,
    torch.bfloat16: tl.int16,  # its pattern
}
"""What the kernels read a dtype as."""


class Shares(NamedTuple):
    """What each program has to do; on the host."""

    segments: Tensor  # int64 (n, 4): aligned address, first weight, end, row of the tensor
    ranges: Tensor  # int64 (programs + 1,): which segments are whose


def shares(tensors: Sequence[Tensor], programs: int, block: int) -> Shares:
    """Cut contiguous tensors of one dtype into segments of whole `block`s, as far as there are, for so many programs.

    Where a tensor does not begin on an aligned address, its first block is a segment that skips the weights before it.
    """
    size = tensors[0].element_size()
    pointers = np.array([tensor.data_ptr() for tensor in tensors])
    skips = pointers % ALIGNMENT // size
    lengths = skips + np.array([tensor.numel() for tensor in tensors])
    blocks = np.where(lengths > skips, -(-lengths // block), 0)
    starts = np.cumsum(blocks) - blocks  # of each tensor among all blocks
    total = int(blocks.sum())
    share = max(1, -(-total // programs))
    program_starts = np.minimum(np.arange(programs + 1) * share, total)
    longest = np.arange(0, total, LONGEST // block)
    cuts = np.unique(np.concatenate([starts, starts[skips > 0] + 1, program_starts, longest, [total]]))
    begins, ends = cuts[:-1], cuts[1:]
    rows = np.searchsorted(starts, begins, side="right") - 1  # the last that begins there: those before it are empty
    within = (begins - starts[rows]) * block
    segments = np.stack(
        [
            (pointers - skips * size)[rows] + within * size,
            np.where(within == 0, skips[rows], 0),
            np.minimum((ends - begins) * block, lengths[rows] - within),
            rows,
        ],
        1,
    )
    return Shares(torch.from_numpy(segments), torch.from_numpy(np.searchsorted(cuts, program_starts)))


@triton.jit
def segment(segment_ptr, i, DTYPE: tl.constexpr):
    """The i-th segment: pointer to DTYPE, first weight, end, row."""
    # The alignment must be stated on the pointer: on the address it is lost, and with it the 128-bit loads.
    address = tl.load(segment_ptr + 4 * i).to(tl.pointer_type(DTYPE))
    first = tl.load(segment_ptr + 4 * i + 1).to(tl.int32)
    end = tl.load(segment_ptr + 4 * i + 2).to(tl.int32)
    return tl.multiple_of(address, 16), first, end, tl.load(segment_ptr + 4 * i + 3)


@triton.jit
def values(w):
    """What was read as one of ELEMENTS: float64 as it is, all else as float32."""
    if w.dtype == tl.int16:
        return (w.to(tl.int32) << 16).to(tl.float32, bitcast=True)
    return w if w.dtype == tl.float64 else w.to(tl.float32)
