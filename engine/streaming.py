"""Disk → GPU → kernels, all three at work at once.

A thread reads the next group of tensors while the kernels measure the one before. On its way to the GPU a tensor goes
through two pinned buffers: while one is being sent, the other is filled, which for a mapped file is the reading. So on
the device there are at most the group being measured and the one that arrives.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from typing import TypeVar

import torch
from torch import Tensor

BUFFER_BYTES = 16 * 2**20

Item = TypeVar("Item")


def ahead(items: Iterable[Item]) -> Iterator[Item]:
    """The same items; while one is in use, a thread makes the next, and no more than that."""
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1, thread_name_prefix="kolmogram-read") as thread:
        coming = thread.submit(next, iterator, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, iterator, end)
            yield item  # pyright: ignore[reportReturnType]
            del item


class Upload:
    """Copies host tensors to a device, each through two pinned buffers in turn, on a stream of its own.

    `arrived()` before they are used. A device "cpu" goes the same way, for tests.
    """

    def __init__(self, device: torch.device, buffer_bytes: int = BUFFER_BYTES) -> None:
        self._device = device
        self._streams = torch.get_device_module(device)
        self._stream = self._streams.Stream(device)
        pinned = device.type != "cpu"
        self._buffers = cycle(
            [(torch.empty(buffer_bytes, dtype=torch.uint8, pin_memory=pinned), self._streams.Event()) for _ in range(2)]
        )
        self._buffer_bytes = buffer_bytes

    def __call__(self, tensor: Tensor) -> Tensor:
        """The tensor on the device, contiguous; of one that is there already, itself."""
        if tensor.device.type != "cpu":
            return tensor.to(self._device)
        # Memory of this stream's own: elsewhere kernels that still run might read what is given out again.
        with self._streams.stream(self._stream):
            target = torch.empty(tensor.shape, dtype=tensor.dtype, device=self._device)
            parts = (_bytes(t).split(self._buffer_bytes) for t in (tensor.contiguous(), target))
            for source, place in zip(*parts, strict=True):
                buffer, sent = next(self._buffers)
                sent.synchronize()
                place.copy_(buffer[: len(source)].copy_(source), non_blocking=True)
                sent.record(self._stream)
        return target

    def arrived(self, group: Item) -> Item:
        """The same group, once all that was sent so far is there."""
        last = self._streams.Event()
        last.record(self._stream)
        last.synchronize()
        return group


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).view(torch.uint8)
