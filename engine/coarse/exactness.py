"""Which tensors are coarse-grained, and which are kept to the byte because they are no weights or fit no grid."""

from collections.abc import Collection

import torch
from torch import Tensor

STATISTICS = frozenset({"running_mean", "running_var", "num_batches_tracked"})
"""Last parts of the names by which normalisation layers save what they have seen: measured, not learnt."""


def is_coarse(name: str, value: Tensor, buffers: Collection[str] = ()) -> bool:
    """Whether a tensor of that name may be coarse-grained.

    Not: the `buffers` of the module where they are known, statistics by their names, what is not floating point
    (float8_e8m0fnu holds exponents), what is empty, and what float32 cannot hold.
    """
    if name in buffers or name.rpartition(".")[2] in STATISTICS:
        return False
    weights = value.is_floating_point() and value.dtype != torch.float8_e8m0fnu and value.numel() > 0
    return weights and bool(torch.isfinite(value.float()).all())
