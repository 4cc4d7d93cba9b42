"""A tensor that still lies in its file, and reading exactly that."""

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Protocol, TypeGuard

import torch

from .faults import broken
from .sources import Bytes

LARGEST_COUNT = 2**62  # a hostile header can say anything; more than this is refused before it meets int64 arithmetic
MOST_AXES = 64  # that torch gives a tensor


class Stored(Protocol):
    """A tensor that still lies in its file. Equal values are the same storage (a tie), so it is hashable."""

    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    def read(self) -> torch.Tensor:
        """The tensor, contiguous, on the CPU; CheckpointError when the file no longer holds it."""
        ...


@dataclass(frozen=True, slots=True)
class Span:
    """A tensor that lies in its file as plain little-endian elements, from `offset` on."""

    file: Bytes
    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...] | None = None  # in elements; None: row-major

    def read(self) -> torch.Tensor:
        """Read the bytes that the tensor covers into fresh memory; a strided view is then made contiguous."""
        raw = torch.empty(self.covered(), dtype=torch.uint8)
        if raw.numel():
            self.file.fill(self.offset, raw.numpy().data)
        flat = raw.view(self.dtype)
        if self.stride is None:
            return flat.view(self.shape)
        return flat.as_strided(self.shape, self.stride).contiguous()

    def covered(self) -> int:
        """Bytes from the first to the last element."""
        if 0 in self.shape:
            return 0
        if self.stride is None:
            return prod(self.shape) * self.dtype.itemsize
        last = sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))
        return (last + 1) * self.dtype.itemsize


def are_integers(value: object) -> TypeGuard[list[int] | tuple[int, ...]]:
    """Whether `value` is a number for each axis of a tensor, of no other kind than int."""
    return isinstance(value, list | tuple) and len(value) <= MOST_AXES and all(type(n) is int for n in value)


def counts(path: Path, name: str, value: object) -> tuple[int, ...]:
    """`value` as a tuple of sensible non-negative integers (offsets, strides); anything else is an error."""
    if not are_integers(value) or not all(0 <= n < LARGEST_COUNT for n in value):
        raise broken(path, f"tensor {name!r} has impossible sizes or offsets", "the file is damaged")
    return tuple(value)


def shape_of(path: Path, name: str, value: object) -> tuple[int, ...]:
    """`value` as a shape that torch can take; anything else is an error."""
    shape = counts(path, name, value)
    if prod(shape) >= LARGEST_COUNT:
        raise broken(path, f"tensor {name!r} has the impossible shape {shape}", "the file is damaged")
    return shape
