"""Where a tensor lies in a file, and reading exactly that.

Every byte of a checkpoint comes through `File`. Nothing is mapped into memory: mapped pages count as resident memory
for as long as the mapping lives, and a file that shrinks under a mapping kills the process.
"""

import io
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Protocol

import torch

from ..errors import CheckpointError

LARGEST_COUNT = 2**62  # a hostile header can say anything; more than this is refused before it meets int64 arithmetic


def broken(path: Path, what: str, remedy: str = "") -> CheckpointError:
    """The error for a bad file, always one line: the file, what is wrong with it, what to do."""
    line = f"{path}: {what}; {remedy}" if remedy else f"{path}: {what}"
    return CheckpointError(" ".join(line.splitlines()))


class NoWeightsError(CheckpointError):
    """A sound file of a known format that holds something else: a data set, arguments, an optimiser."""


def no_weights(path: Path, what: str) -> NoWeightsError:
    """The error for such a file."""
    return NoWeightsError(str(broken(path, what, "it is no checkpoint of a model")))


@contextmanager
def guarded(path: Path, doing: str) -> Iterator[None]:
    """Turn whatever a foreign file provokes in a parser into one CheckpointError that names the file."""
    try:
        yield
    except CheckpointError:
        raise
    except OSError as error:
        what = f"{doing} failed ({error.strerror or error})"
        raise broken(path, what, "check that it exists and is readable") from error
    except Exception as error:  # what a parser raises is up to the bytes of the file, not to us
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise broken(path, f"{doing} failed ({reason})", "the file is damaged or not what its name says") from error


class Bytes(ABC):
    """Bytes on disk, `size` of them, at offsets from 0 on."""

    __slots__ = ()
    path: Path
    size: int

    @abstractmethod
    def fill(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes from `offset`."""

    @abstractmethod
    def open(self) -> AbstractContextManager[Any]:
        """A stream of them that can seek."""

    def read(self, offset: int, count: int) -> bytes:
        """`count` bytes from `offset`."""
        buffer = bytearray(self.checked(offset, count))
        self.fill(offset, memoryview(buffer))
        return bytes(buffer)

    def checked(self, offset: int, count: int) -> int:
        """`count`, after making sure that so many bytes lie at `offset`."""
        if offset < 0 or count < 0 or offset + count > self.size:
            needed = f"needs bytes {offset} to {offset + count}, the file has {self.size}"
            raise broken(self.path, f"is truncated or lies about its sizes ({needed})", "copy it again")
        return count


@dataclass(frozen=True, slots=True)
class File(Bytes):
    """A file as it was when its contents were listed; reading it after it has changed is an error."""

    path: Path
    size: int
    modified_ns: int

    @classmethod
    def at(cls, path: Path) -> "File":
        """The file at `path` as it is now; an empty one is refused."""
        status = path.stat()
        if status.st_size == 0:
            raise broken(path, "is empty (0 bytes)", "the save was interrupted; delete it or copy it again")
        return cls(path, status.st_size, status.st_mtime_ns)

    def fill(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes from `offset`."""
        self.checked(offset, len(buffer))
        with self.open() as stream:
            stream.seek(offset)
            filled = 0
            while filled < len(buffer):  # one read gives at most 2 GiB on Linux
                got = stream.readinto(buffer[filled:])
                if not got:
                    raise self.changed()
                filled += got

    @contextmanager
    def open(self) -> Iterator[Any]:
        """The unbuffered stream of the file, refused if the file is no longer the one that was listed."""
        with self.path.open("rb", buffering=0) as stream:
            status = os.fstat(stream.fileno())
            if (status.st_size, status.st_mtime_ns) != (self.size, self.modified_ns):
                raise self.changed()
            yield stream

    def changed(self) -> CheckpointError:
        """The error for a file that was rewritten since it was listed."""
        return broken(self.path, "changed while it was being read", "open the run again")


@dataclass(frozen=True, slots=True)
class Part(Bytes):
    """Bytes of a file, from `begin` on, that are a file of their own."""

    file: File
    begin: int
    size: int

    @property
    def path(self) -> Path:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Of the whole file."""
        return self.file.path

    def fill(self, offset: int, buffer: memoryview) -> None:
        self.checked(offset, len(buffer))
        self.file.fill(self.begin + offset, buffer)

    @contextmanager
    def open(self) -> Iterator[Any]:
        with self.file.open() as stream:
            yield _Window(stream, self.begin, self.size)


class _Window(io.RawIOBase):
    """A stream of some bytes of another one."""

    def __init__(self, stream: Any, begin: int, size: int) -> None:
        self._stream, self._begin, self._size, self._place = stream, begin, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        if place < 0:
            raise OSError("before the beginning")
        self._place = place
        return place

    def readinto(self, buffer: Any, /) -> int:
        count = max(0, min(len(buffer), self._size - self._place))
        self._stream.seek(self._begin + self._place)
        got = self._stream.readinto(memoryview(buffer)[:count])
        self._place += got
        return got


def foreign(file: File, wanted: str) -> CheckpointError:
    """The error for a file that is not what its name says."""
    head = file.read(0, min(file.size, 24))
    if head.startswith(b"version https://git-lfs"):
        return broken(file.path, "is a Git LFS pointer, not the weights", "run `git lfs pull`")
    return broken(file.path, f"is not {wanted} (it begins with {head!r})", "copy it again or rename it to what it is")


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


def counts(path: Path, name: str, value: object) -> tuple[int, ...]:
    """`value` as a tuple of sensible non-negative integers (offsets, strides); anything else is an error."""
    if not isinstance(value, list | tuple) or not all(type(n) is int and 0 <= n < LARGEST_COUNT for n in value):
        raise broken(path, f"tensor {name!r} has impossible sizes or offsets", "the file is damaged")
    return tuple(value)


def shape_of(path: Path, name: str, value: object) -> tuple[int, ...]:
    """`value` as a shape that torch can take; anything else is an error."""
    shape = counts(path, name, value)
    if len(shape) > 64 or prod(shape) >= LARGEST_COUNT:
        raise broken(path, f"tensor {name!r} has the impossible shape {shape}", "the file is damaged")
    return shape
