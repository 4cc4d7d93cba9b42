"""Disk → GPU → kernels, all three at work at once.

Several threads read pieces of tensors, each into pinned memory of its own, from where they go to the GPU, while the
kernels measure what has arrived. On the device there are at most three groups of tensors: the one being measured, one
that has arrived or is about to, and one whose pieces are being read.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from .checkpoints import Unread

PIECE_BYTES = 32 * 2**20  # each costs 0.2 ms of Python
THREADS = min(12, os.cpu_count() or 1)  # one alone copies a seventh of what a GPU takes

ALIGNMENT = 256  # bytes, of a tensor in a group: as what torch gives out on a GPU

Item = TypeVar("Item")
Source = Tensor | Unread
Named = tuple[str, Tensor]


def streamed(groups: Iterable[list[tuple[str, Source]]], device: torch.device) -> Iterator[list[Named]]:
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


def _arriving(groups: Iterable[list[tuple[str, Source]]], device: torch.device) -> Iterator[list[Named]]:
    """Each group when all of it is there, and the next has been sent for."""
    with Upload(device) as upload:
        before: tuple[list[Named], Callable[[], None]] | None = None
        for group in groups:
            sent = upload(group), upload.arrival()
            if before:
                before[1]()
                yield before[0]
            before = sent
        if before:
            before[1]()
            yield before[0]


class Part(NamedTuple):
    """A tensor's place among the bytes of a group, and what reads its bytes from an offset on."""

    begin: int
    end: int
    fill: Callable[[int, memoryview], None]


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

    def __call__(self, group: Sequence[tuple[str, Source]]) -> list[Named]:
        """Where the tensors are going to be on the device, contiguous; those that are there already, themselves.

        The others lie one behind the other, so that many small ones go in one piece.
        """
        # Memory of this stream's own: elsewhere kernels that still run might read what is given out again.
        with self._streams.stream(self._stream):
            found = [self._direct(source) for _, source in group]
            sizes = [source.nbytes if there is None else 0 for (_, source), there in zip(group, found, strict=True)]
            begins = [0, *accumulate(-(-size // ALIGNMENT) * ALIGNMENT for size in sizes)]
            place = torch.empty(begins[-1], dtype=torch.uint8, device=self._device)
        parts = []
        for i, (_, source) in enumerate(group):
            if found[i] is None:
                begin, end = begins[i], begins[i] + sizes[i]
                found[i] = place[begin:end].view(source.dtype).view(tuple(source.shape))
                fill = source.fill if isinstance(source, Unread) and source.is_plain else _copier(source)
                parts.append(Part(begin, end, fill))
        for begin in range(0, len(place), self._piece_bytes):
            piece = place[begin : begin + self._piece_bytes]
            inside = [part for part in parts if part.begin < begin + len(piece) and begin < part.end]
            self._sent.append(self._threads.submit(self._send, piece, begin, inside))
        return [(name, tensor) for (name, _), tensor in zip(group, found, strict=True) if tensor is not None]

    def arrival(self) -> Callable[[], None]:
        """What waits until all that was sent for so far is there; raises what went wrong on the way."""
        sent, self._sent = self._sent, []

        def wait() -> None:
            for future in sent:
                future.result()
            last = self._streams.Event()
            last.record(self._stream)
            last.synchronize()

        return wait

    def _direct(self, source: Source) -> Tensor | None:
        """A tensor that needs no buffer: it is on a device, or in pinned memory."""
        if not isinstance(source, Tensor):
            return None
        if source.device.type != "cpu" or (source.is_contiguous() and source.is_pinned()):
            return source.to(self._device, non_blocking=True)
        return None

    def _prepare(self) -> None:
        """A thread's own buffer, and what says that it is free; all that the thread sends goes on the one stream."""
        self._own.buffer = torch.empty(self._piece_bytes, dtype=torch.uint8, pin_memory=self._device.type != "cpu")
        self._own.free = self._streams.Event()
        self._streams.stream(self._stream).__enter__()

    def _send(self, piece: Tensor, begin: int, parts: Sequence[Part]) -> None:
        """The bytes of a group from `begin` on, through this thread's buffer, once that is free."""
        self._own.free.synchronize()
        buffer = self._own.buffer[: len(piece)]
        memory = buffer.numpy().data
        for part in parts:
            first, end = max(part.begin, begin), min(part.end, begin + len(piece))
            part.fill(first - part.begin, memory[first - begin : end - begin])
        piece.copy_(buffer, non_blocking=True)
        self._own.free.record(self._stream)


def _copier(source: Source) -> Callable[[int, memoryview], None]:
    """What copies the tensor's bytes from an offset on."""
    data = (source if isinstance(source, Tensor) else source.read()).contiguous().reshape(-1).view(torch.uint8).numpy()

    def fill(offset: int, buffer: memoryview) -> None:
        np.copyto(np.frombuffer(buffer, np.uint8), data[offset : offset + len(buffer)])  # one thread, without the GIL

    return fill
