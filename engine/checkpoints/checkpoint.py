"""One saved state of a run. Listing it reads headers only; a tensor is read when it is asked for, and only that one."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path

import torch

from ..errors import CheckpointError
from .contents import Claim, Contents, tidied
from .faults import guarded
from .readers import readers
from .sources import identity
from .stored import Span, Stored


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What is known of a tensor without reading it."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    nbytes: int


class Checkpoint:
    """The weights and buffers saved at one step, by the names the module itself uses.

    A checkpoint that cannot be listed (truncated, hostile, lying) has `broken` set; asking it for names or tensors
    raises that error, and everything else about it still works.
    """

    def __init__(self, claim: Claim, reader: str, name: str) -> None:
        self.path: Path = claim.path
        self.name: str = name
        self.step: int | None = None
        self.epoch: int | None = None
        self.metrics: dict[str, float] = {}
        self.format: str = readers()[reader].FORMAT
        self.broken: CheckpointError | None = None
        self._files = claim.files
        self._reader = reader
        self._list()

    def __repr__(self) -> str:
        return f"Checkpoint({self.name!r}, step={self.step}, format={self.format!r}, broken={self.broken is not None})"

    def names(self) -> tuple[str, ...]:
        """Weights and buffers in file order; of tied tensors only the first (see `aliases`)."""
        return tuple(self._contents().tensors)

    def info(self, name: str) -> TensorInfo:
        """Shape, dtype and size in bytes of one tensor."""
        stored = self._stored(name)
        return TensorInfo(name, stored.shape, stored.dtype, prod(stored.shape) * stored.dtype.itemsize)

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor, contiguous, on the CPU, in the dtype it was saved in; nothing else is read."""
        stored = self._stored(name)
        with guarded(self.path, f"reading tensor {name!r}"):
            return stored.read()

    def items(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Name and tensor, one at a time."""
        for name in self.names():
            yield name, self.tensor(name)

    def unread(self) -> Iterator[tuple[str, "Unread"]]:
        """Name and tensor, one at a time, none of them read yet."""
        for name, stored in self._contents().tensors.items():
            yield name, Unread(self, name, stored)

    @property
    def aliases(self) -> Mapping[str, str]:
        """Tied name → the name that holds the storage."""
        return self._contents().aliases

    @property
    def skipped(self) -> Mapping[str, str]:
        """Stored name → why it is not given (optimiser state, a dtype torch does not have, …)."""
        return self._contents().skipped

    def fingerprint(self) -> str:
        """32 hex digits that change when one of its files is written again: see `identity`."""
        digest = hashlib.blake2b(digest_size=16)
        for path in self._files:
            with guarded(path, "reading"):
                digest.update(identity(path))
        return digest.hexdigest()

    def _list(self) -> None:
        try:
            contents = _contents_of(self)
        except CheckpointError as error:
            self.broken = error
        else:
            self.format, self.step, self.epoch = contents.format, contents.step, contents.epoch
            self.metrics = dict(contents.metrics)
            self._files = tuple(dict.fromkeys((*self._files, *contents.files)))

    def _contents(self) -> Contents:
        if self.broken is not None:
            raise self.broken
        return _contents_of(self)

    def _stored(self, name: str) -> Stored:
        tensors = self._contents().tensors
        if name not in tensors:
            raise CheckpointError(f"{self.path}: has no tensor {name!r}; names() lists what it has")
        return tensors[name]


@dataclass(frozen=True, slots=True)
class Unread:
    """A tensor of a checkpoint that can be read, all of it or in pieces."""

    checkpoint: Checkpoint
    name: str
    stored: Stored

    @property
    def dtype(self) -> torch.dtype:
        """The dtype it was saved in."""
        return self.stored.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self.stored.shape

    @property
    def nbytes(self) -> int:
        """Its size in memory."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def is_plain(self) -> bool:
        """Whether it lies in its file as it will in memory, so that pieces of it can be read."""
        return isinstance(self.stored, Span) and self.stored.stride is None

    def read(self) -> torch.Tensor:
        """All of it: see `Checkpoint.tensor`."""
        return self.checkpoint.tensor(self.name)

    def fill(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with its bytes from `offset`; only if it `is_plain`."""
        assert isinstance(self.stored, Span)
        with guarded(self.checkpoint.path, f"reading tensor {self.name!r}"):
            self.stored.file.fill(self.stored.offset + offset, buffer)


@lru_cache(maxsize=16)
def _contents_of(checkpoint: Checkpoint) -> Contents:
    """The listing of a checkpoint. Few are kept: a run may have thousands, with thousands of tensors each."""
    with guarded(checkpoint.path, "listing the tensors"):
        return tidied(readers()[checkpoint._reader].read(checkpoint.path))
