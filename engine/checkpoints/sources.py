"""Bytes that checkpoints are read from: a file of this machine, a file somewhere else, a part of a file.

Every byte of a checkpoint comes from here. Nothing is mapped into memory: mapped pages count as resident memory for as
long as the mapping lives, and a file that shrinks under a mapping kills the process.
"""

import io
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .faults import broken
from .location import is_remote, reached

BLOCK = 1 << 18  # bytes; smaller reads over a network come in blocks of this size
BLOCKS = 64  # of them are kept

_SAMPLE = 1 << 16  # bytes at each end of a file: safetensors headers are in front, a zip's checksums at the back

# What file systems call that which changes with the contents of a file.
_VERSIONS = ("ETag", "etag", "blob_id", "md5Hash", "generation", "content_md5", "mtime", "LastModified", "created")


class Bytes(ABC):
    """Bytes, `size` of them, at offsets from 0 on."""

    __slots__ = ()
    path: Path
    size: int

    @abstractmethod
    def fill(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes from `offset`."""

    def open(self) -> AbstractContextManager[Any]:
        """A stream of them that can seek."""
        return io.BufferedReader(_Stream(self), BLOCK)

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


def source(path: Path) -> "LocalFile | RemoteFile":
    """The file at `path` as it is now; an empty one is refused."""
    file = RemoteFile.at(path) if is_remote(path) else LocalFile.at(path)
    if file.size == 0:
        raise broken(path, "is empty (0 bytes)", "the save was interrupted; delete it or copy it again")
    return file


def read_json(path: Path, limit: int) -> Any:
    """What the JSON file at `path` says; one of more than `limit` bytes is refused unread."""
    file = source(path)
    if file.size > limit:
        raise broken(path, f"has {file.size} bytes, which is absurd", "do not trust it")
    return json.loads(file.read(0, file.size))


def identity(path: Path) -> bytes:
    """What changes when the file at `path` is written again: its name, size, time or version, and both its ends."""
    return (RemoteFile.at(path) if is_remote(path) else LocalFile.at(path)).identity()


@dataclass(frozen=True, slots=True)
class LocalFile(Bytes):
    """A file as it was when its contents were listed; reading it after it has changed is an error."""

    path: Path
    size: int
    modified_ns: int

    @classmethod
    def at(cls, path: Path) -> "LocalFile":
        """The file at `path` as it is now."""
        status = path.stat()
        return cls(path, status.st_size, status.st_mtime_ns)

    def identity(self) -> bytes:
        """Its name, size, time, and both its ends."""
        ends = b"".join(self.read(at, min(_SAMPLE, self.size)) for at in (0, max(0, self.size - _SAMPLE)))
        return f"{self.path.name}\0{self.size}\0{self.modified_ns}\0".encode() + ends

    def fill(self, offset: int, buffer: memoryview) -> None:
        self.checked(offset, len(buffer))
        with self.open() as stream:
            stream.seek(offset)
            filled = 0
            while filled < len(buffer):  # one read gives at most 2 GiB on Linux
                got = stream.readinto(buffer[filled:])
                if not got:
                    raise self._changed()
                filled += got

    @contextmanager
    def open(self) -> Iterator[Any]:
        """The unbuffered stream of the file, refused if the file is no longer the one that was listed."""
        with self.path.open("rb", buffering=0) as stream:
            status = os.fstat(stream.fileno())
            if (status.st_size, status.st_mtime_ns) != (self.size, self.modified_ns):
                raise self._changed()
            yield stream

    def _changed(self) -> CheckpointError:
        return broken(self.path, "changed while it was being read", "open the run again")


@dataclass(frozen=True, slots=True)
class RemoteFile(Bytes):
    """A file behind a URL, of which only what is asked for is fetched; that it is replaced meanwhile goes unnoticed."""

    path: Path
    size: int
    version: str

    @classmethod
    def at(cls, path: Any) -> "RemoteFile":
        """The file at `path` as it is now."""
        with reached(path):
            found = path.fs.info(path.path)
        version = " ".join(f"{key}={found[key]}" for key in _VERSIONS if found.get(key) is not None)
        return cls(path, int(found["size"]), version)

    def identity(self) -> bytes:
        """Its name, size, and what its file system calls its version."""
        return f"{self.path.name}\0{self.size}\0{self.version}\0".encode()

    def fill(self, offset: int, buffer: memoryview) -> None:
        end = offset + self.checked(offset, len(buffer))
        if len(buffer) >= BLOCK:
            buffer[:] = self.fetch(offset, end)
            return
        for number in range(offset // BLOCK, -(-end // BLOCK)):
            block, begin = _block(self, number), number * BLOCK
            part = block[max(offset - begin, 0) : end - begin]
            at = max(begin - offset, 0)
            buffer[at : at + len(part)] = part

    def fetch(self, begin: int, end: int) -> bytes:
        """The bytes from `begin` to `end`, in one request."""
        system, name = self.path.fs, self.path.path  # pyright: ignore[reportAttributeAccessIssue]
        with reached(self.path):
            if getattr(system, "async_impl", False):
                data = system.cat_file(name, start=begin, end=end)
            else:  # whose cat_file would read ahead
                with system.open(name, "rb", cache_type="none") as stream:
                    stream.seek(begin)
                    data = stream.read(end - begin)
        if len(data) != end - begin:
            raise broken(self.path, f"gave {len(data)} bytes where {end - begin} were asked for", "open the run again")
        return data


@lru_cache(maxsize=BLOCKS)
def _block(file: RemoteFile, number: int) -> bytes:
    return file.fetch(number * BLOCK, min((number + 1) * BLOCK, file.size))


@dataclass(frozen=True, slots=True)
class Part(Bytes):
    """Bytes of a file, from `begin` on, that are a file of their own."""

    file: Bytes
    begin: int
    size: int

    @property
    def path(self) -> Path:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Of the whole file."""
        return self.file.path

    def fill(self, offset: int, buffer: memoryview) -> None:
        self.checked(offset, len(buffer))
        self.file.fill(self.begin + offset, buffer)


class _Stream(io.RawIOBase):
    """Bytes as a stream."""

    def __init__(self, source: Bytes) -> None:
        self._source, self._place = source, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._source.size}[whence]
        if place < 0:
            raise OSError("before the beginning")
        self._place = place
        return place

    def readinto(self, buffer: Any, /) -> int:
        count = max(0, min(len(buffer), self._source.size - self._place))
        self._source.fill(self._place, memoryview(buffer)[:count])
        self._place += count
        return count


def foreign(file: Bytes, wanted: str) -> CheckpointError:
    """The error for a file that is not what its name says."""
    head = file.read(0, min(file.size, 24))
    if head.startswith(b"version https://git-lfs"):
        return broken(file.path, "is a Git LFS pointer, not the weights", "run `git lfs pull`")
    return broken(file.path, f"is not {wanted} (it begins with {head!r})", "copy it again or rename it to what it is")
