"""Disk → GPU → kernels, all three at work at once.

Several threads read pieces of tensors, each into pinned memory of its own, from where they go to the GPU, while the
kernels measure what has arrived. On the device there are at most three groups of tensors: the one being measured, one
that has arrived or is about to, and one whose pieces are being read.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from .checkpoints import Unread

PIECE_BYTES = 32 * 2**20  # each costs 0.2 ms of Python
THREADS = min(12, os.cpu_count() or 1)  # one alone copies a seventh of what a GPU takes

Item = TypeVar("Item")
Named = tuple[str, Tensor]


def streamed(groups: Iterable[list[tuple[str, Tensor | Unread]]], device: torch.device) -> Iterator[list[Named]]:
    """The same groups with their tensors on the device; while one is in use, the next two are on their way."""
    return ahead(_arriving(groups, device))


def ahead(items: Iterable[Item]) -> Iterator[Item]:
    """The same items; while one is in use, a thread makes the next, and no more than that."""
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1, thread_name_prefix="kolmogram-read") as thread:
        coming = thread.submit(next, iterator, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, iterator, end)
            yield item  # pyright: ignore[reportReturnType]
            del item


def _arriving(groups: Iterable[list[tuple[str, Tensor | Unread]]], device: torch.device) -> Iterator[list[Named]]:
    """Each group when all of it is there, and the next has been sent for."""
    with Upload(device) as upload:
        before: tuple[list[Named], Callable[[], None]] | None = None
        for group in groups:
            sent = [(name, upload(source)) for name, source in group], upload.arrival()
            if before:
                before[1]()
                yield before[0]
            before = sent
        if before:
            before[1]()
            yield before[0]


class Upload:
    """Copies tensors to a device; `arrival()` before they are used. A device "cpu" goes the same way, for tests."""

    def __init__(self, device: torch.device, threads: int = THREADS, piece_bytes: int = PIECE_BYTES) -> None:
        self._device = device
        self._streams = torch.get_device_module(device)
        self._stream = self._streams.Stream(device)
        self._piece_bytes = piece_bytes
        self._own = threading.local()
        self._threads = ThreadPoolExecutor(threads, "kolmogram-upload", self._prepare)
        self._sent: list[Future[None]] = []

    def __enter__(self) -> "Upload":
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)

    def __call__(self, source: Tensor | Unread) -> Tensor:
        """Where the tensor is going to be on the device, contiguous; of one that is there already, itself."""
        if isinstance(source, Tensor) and source.device.type != "cpu":
            return source.to(self._device)
        # Memory of this stream's own: elsewhere kernels that still run might read what is given out again.
        with self._streams.stream(self._stream):
            target = torch.empty(tuple(source.shape), dtype=source.dtype, device=self._device)
        if isinstance(source, Tensor) and source.is_contiguous() and source.is_pinned():
            with self._streams.stream(self._stream):
                return target.copy_(source, non_blocking=True)
        fill = source.fill if isinstance(source, Unread) and source.is_plain else _copier(source)
        for start, place in enumerate(_bytes(target).split(self._piece_bytes) if target.numel() else ()):
            self._sent.append(self._threads.submit(self._send, partial(fill, start * self._piece_bytes), place))
        return target

    def arrival(self) -> Callable[[], None]:
        """What waits until all that was sent for so far is there; raises what went wrong on the way."""
        sent, self._sent = self._sent, []

        def wait() -> None:
            for future in sent:
                future.result()
            # A thread's pieces go one after the other, on one stream: this event comes after all of them.
            last = self._streams.Event()
            last.record(self._stream)
            last.synchronize()

        return wait

    def _prepare(self) -> None:
        """A thread's own buffer, and what says that it is free; all that the thread sends goes on the one stream."""
        self._own.buffer = torch.empty(self._piece_bytes, dtype=torch.uint8, pin_memory=self._device.type != "cpu")
        self._own.free = self._streams.Event()
        self._streams.stream(self._stream).__enter__()

    def _send(self, fill: Callable[[memoryview], None], place: Tensor) -> None:
        """One piece, through this thread's buffer, once that is free."""
        self._own.free.synchronize()
        piece = self._own.buffer[: len(place)]
        fill(piece.numpy().data)
        place.copy_(piece, non_blocking=True)
        self._own.free.record(self._stream)


def _copier(source: Tensor | Unread) -> Callable[[int, memoryview], None]:
    """What copies the tensor's bytes from an offset on."""
    data = _bytes((source if isinstance(source, Tensor) else source.read()).contiguous()).numpy()

    def fill(offset: int, buffer: memoryview) -> None:
        np.copyto(np.frombuffer(buffer, np.uint8), data[offset : offset + len(buffer)])  # one thread, without the GIL

    return fill


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).view(torch.uint8)
