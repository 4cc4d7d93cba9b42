"""Work that is the same at every call, on a GPU as one CUDA graph.

The kernels of a small network take a tenth of the time that it takes to launch them one by one.
"""

import functools
import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

TOLERANCE = 1e-2  # by which a replay may differ from a call: kernels may add in another order, another batch is far off


class Replayed:
    """Calls `function`, which reads and writes the same tensors every time; on a GPU it is soon replayed instead.

    Where it cannot be (it waits for the GPU, or works on the host), it is called every time. `witness` is a scalar that
    the function writes, and nothing that it reads: then a first replay has to agree with a call, or there is no second.
    """

    def __init__(self, function: Callable[[], None], device: torch.device, witness: Tensor | None = None) -> None:
        self._function, self._witness = function, witness
        self._graph: torch.cuda.CUDAGraph | None = None
        self._warm = False
        on_gpu = self._watched if witness is not None else self._warm_up
        self._next = on_gpu if device.type == "cuda" else self._call

    def __call__(self) -> None:
        self._next()

    @property
    def is_replayed(self) -> bool:
        """Whether calls have become replays."""
        return self._graph is not None

    def _call(self) -> None:
        self._function()

    def _warm_up(self) -> None:
        """Called: libraries take their memory, and kernels are compiled."""
        self._function()
        self._next, self._warm = self._watched, True

    def _watched(self) -> None:
        """Called: whether it waits for the GPU, and not only to warm up. If it does not, it is written down."""
        self._next = self._call if self._warm else self._warm_up
        try:
            with _no_waiting():
                self._function()
        except RuntimeError:
            if self._witness is None:
                raise
            self._next()
        else:
            self._next = self._call
            self._write_down()

    def _write_down(self) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            with _capture(graph, _pool()[0]):
                self._function()
        except RuntimeError:
            return
        self._graph = graph
        self._next = graph.replay if self._witness is None else self._compared

    def _compared(self) -> None:
        """Replayed and called: whether what was written down does what a call does."""
        assert self._graph is not None
        assert self._witness is not None
        self._graph.replay()
        replayed = self._witness.clone()
        self._function()
        agree = torch.isclose(replayed, self._witness, rtol=TOLERANCE, equal_nan=True)
        if agree:
            self._next = self._graph.replay
        else:
            self._graph, self._next = None, self._call


@functools.cache
def _pool() -> tuple[torch.cuda.MemPool, torch.cuda.CUDAGraph]:
    """What all graphs compute in: one after the other, and nothing of it is kept. It outlives every one of them.

    A first graph stays in it for good: a pool that the last one has left takes in no other (an assertion of PyTorch's).
    """
    pool, first = torch.cuda.MemPool(), torch.cuda.CUDAGraph()
    with _capture(first, pool):
        torch.zeros(1, device="cuda")
    return pool, first


@functools.cache
def _stream() -> torch.cuda.Stream:
    """Graphs cannot be captured on the usual one."""
    return torch.cuda.Stream()


@contextmanager
def _capture(graph: torch.cuda.CUDAGraph, pool: torch.cuda.MemPool) -> Iterator[None]:
    """As `torch.cuda.graph`, but that gives back all free memory first, and having it again takes longer than this."""
    torch.cuda.synchronize()
    if torch.cuda.mem_get_info()[0] < torch.cuda.memory_reserved():  # a graph may need as much as calls have taken
        torch.cuda.empty_cache()
    with torch.cuda.stream(_stream()), _no_collecting():
        handle: Any = pool.id  # its type does not say that it is one
        graph.capture_begin(handle, capture_error_mode="thread_local")
        try:
            yield
        finally:
            graph.capture_end()


@contextmanager
def _no_collecting() -> Iterator[None]:
    """Garbage stays where it is: another graph in it, destroyed now, would spoil the one that is being captured."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@contextmanager
def _no_waiting() -> Iterator[None]:
    """Waiting for the GPU is an error (RuntimeError) here."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
