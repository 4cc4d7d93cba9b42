"""From tensors to the small arrays that measures work on: every tensor is read once, and its statistics are shared."""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..analyzers import RELATIVE_STEPS, TensorStatistics
from ..analyzers.spectrum import as_matrix
from ..kernels import dispatch
from .streaming import Source, streamed

GROUP_BYTES, STREAMED_GROUP_BYTES = 32 * 2**20, 256 * 2**20
"""Tensors go to the kernels in groups of about this size, so that small ones share launches."""

STREAMED = ("cuda",)
"""Types of device whose next groups are read while one is measured: they have their own memory, and work alone."""


def measurable(tensor: Source) -> bool:
    """Whether a tensor holds weights: floating point of any width; integer, bool and complex are not measured."""
    return tensor.dtype.is_floating_point


def tensor_statistics(
    items: Iterable[tuple[str, Source]], *, device: str = "cpu", spectra: bool = True
) -> Iterator[TensorStatistics]:
    """Statistics of every measurable tensor, in order; holds one group of tensors at a time, on a GPU three.

    `spectra=False` leaves out the singular values, by far the most expensive part.
    """
    # filter and map, unlike loops, let go of a tensor before they ask for the next one
    weights = filter(lambda item: measurable(item[1]), items)
    for group in _on_device(weights, torch.device(device)):
        yield from _group_statistics(group, spectra)  # all on the host: no kernel is still reading
        group.clear()


def _on_device(items: Iterable[tuple[str, Source]], device: torch.device) -> Iterable[list[tuple[str, Tensor]]]:
    """Groups of tensors on the device."""
    if device.type in STREAMED:
        return streamed(_groups(items, STREAMED_GROUP_BYTES), device)
    return _groups(map(partial(_read, device), items), GROUP_BYTES)


def _read(device: torch.device, item: tuple[str, Source]) -> tuple[str, Tensor]:
    name, source = item
    return name, (source if isinstance(source, Tensor) else source.read()).to(device)


def _groups(items: Iterable[tuple[str, Any]], least: int) -> Iterator[list[tuple[str, Any]]]:
    """Groups of at least so many bytes, without reading ahead: while one is worked on, nothing else is in memory."""
    group: list[tuple[str, Any]] = []
    size = 0
    for item in items:
        group.append(item)
        size += item[1].nbytes
        del item
        if size >= least:
            yield group
            group, size = [], 0
    if group:
        yield group


def _group_statistics(group: list[tuple[str, Tensor]], spectra: bool) -> list[TensorStatistics]:
    tensors = [_widened(tensor) for _, tensor in group]
    moments = dispatch.moments(tensors)
    sigma = torch.tensor([[m.std] for m in moments], dtype=torch.float64)
    rates = dispatch.fine_histogram(tensors).rates(sigma * torch.tensor(RELATIVE_STEPS, dtype=torch.float64))
    finite = [i for i, tensor in enumerate(tensors) if tensor.numel() and not moments[i].nonfinite]
    matrices = [i for i in finite if spectra and tensors[i].ndim >= 2]
    values = dict(zip(matrices, dispatch.singular_values([as_matrix(tensors[i]) for i in matrices]), strict=True))
    return [
        TensorStatistics(
            name=name,
            shape=tuple(tensor.shape),
            numel=tensor.numel(),
            moments=moments[i],
            entropy_bits=rates.entropy_bits[i].numpy(),
            mse=rates.mse[i].numpy(),
            singular_values=values[i].numpy() if i in values else None,
        )
        for i, (name, tensor) in enumerate(group)
    ]


def _widened(tensor: Tensor) -> Tensor:
    """8-bit floats as bfloat16, which holds them exactly and is counted value by value; the kernels read all others."""
    return tensor.to(torch.bfloat16) if tensor.dtype.itemsize == 1 else tensor
