"""torch.distributed.checkpoint: a folder that every rank wrote a part of, read without any of them.

`.metadata` is a pickle that says of every tensor into which chunks it was cut, and where each lies: at an offset of one
of the files `__RANK_N.distcp`, as a torch.save file of its own.
"""

import io
import re
import secrets
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import torch

from ..contents import Claim, Contents
from ..faults import broken, guarded, no_weights
from ..pickles import Global, Unknown, WouldRunCodeError, load, plain_key
from ..sources import Bytes, Part, source
from ..steps import EPOCH_KEYS, STEP_KEYS, count_among, numbers
from ..stored import Span, are_integers, counts, shape_of
from ..torch_objects import DTYPES, Leaf, Unreadable, View, call, leaves, located, model_part, persistent
from .torch_save import LARGEST_PICKLE, Records

FORMAT = "dcp"

METADATA = ".metadata"
TRAIN_STATE = "train_state"  # where torchtitan counts steps
COUNTERS = (*STEP_KEYS, *EPOCH_KEYS)
LARGEST_NUMBER = 1 << 14  # bytes of an object that may be a number
PRIME = (1 << 61) - 1  # for lengths that are drawn

_FILE = re.compile(r"^__\d+_\d+\.distcp$")
_CLASSES = "torch.distributed.checkpoint."


@dataclass(frozen=True, slots=True)
class Chunk:
    """A block of a tensor, from `offsets` on, in a torch.save file of its own."""

    part: Part
    offsets: tuple[int, ...]
    shape: tuple[int, ...]

    def read(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """The block; CheckpointError if the file holds something else."""
        payload, records = _unpickled(self.part)
        span = located(self.part, name, payload, records.locate) if isinstance(payload, View) else payload
        if not isinstance(span, Span) or (span.shape, span.dtype) != (self.shape, dtype):
            raise broken(self.part.path, f"tensor {name!r} is not where .metadata says", "the save was interrupted")
        return span.read()


@dataclass(frozen=True, slots=True)
class Chunked(Leaf):
    """A tensor in chunks; a `Stored`."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    chunks: tuple[Chunk, ...]

    def read(self) -> torch.Tensor:
        """The chunks put together."""
        if len(self.chunks) == 1:
            return self.chunks[0].read(self.name, self.dtype)
        whole = torch.empty(self.shape, dtype=self.dtype)
        for chunk in self.chunks:
            block = tuple(slice(begin, begin + size) for begin, size in zip(chunk.offsets, chunk.shape, strict=True))
            whole[block] = chunk.read(self.name, self.dtype)
        return whole


def claim(folder: Path, names: Sequence[str]) -> Iterator[Claim]:
    """A folder with files of at least one rank, but for an optimiser's own."""
    files = [name for name in names if _FILE.match(name)]
    if files and not folder.name.startswith("optim"):
        yield Claim(folder, tuple(folder / name for name in (METADATA, *files)))


def read(path: Path) -> Contents:
    """List the tensors of one checkpoint; no file of a rank is opened but for numbers."""
    with guarded(path, "reading the distributed checkpoint"):
        if not (path / METADATA).is_file():
            raise broken(path, "has no .metadata", "the save was interrupted, or one file was not copied")
        state = _metadata(path / METADATA)
        top, said = _Reading(path, state).structure()
        weights, skipped = model_part(top)
        found = dict(leaves(weights))
        tensors = {name: leaf for name, leaf in found.items() if isinstance(leaf, Chunked)}
        if not tensors:
            raise no_weights(path, "holds no weights")
        skipped |= {name: leaf.why for name, leaf in found.items() if isinstance(leaf, Unreadable)}
        step, epoch = count_among(said, STEP_KEYS), count_among(said, EPOCH_KEYS)
        return Contents(FORMAT, tensors, step=step, epoch=epoch, metrics=numbers(said), skipped=skipped)


def _metadata(path: Path) -> Mapping[str, Any]:
    file = source(path)
    if file.size > LARGEST_PICKLE:
        raise broken(path, f"has {file.size} bytes, which is absurd", "do not trust it")
    try:
        found = load(io.BytesIO(file.read(0, file.size)), _call, persistent, _key)
    except WouldRunCodeError as error:
        what = f"is a pickle that would run {error} when loaded (nothing was run)"
        raise broken(path, what, "do not trust where it came from") from None
    if not isinstance(found, Unknown) or not isinstance(found.state, dict):
        raise broken(path, "is not the metadata of a distributed checkpoint", "copy it again")
    return found.state


def _call(name: str, args: tuple[Any, ...]) -> Any:
    return NotImplemented if name.startswith(_CLASSES) else call(name, args)


def _key(key: Any) -> Any:
    """An index of the storage, by what torch compares: the name and where the chunk begins; None for anything else.

    Only strings and numbers: to hash a tuple that is a million tuples deep overflows the stack.
    """
    if not isinstance(key, Unknown) or not isinstance(key.state, dict):
        return plain_key(key)
    name, offset = key.state.get("fqn"), key.state.get("offset")
    if not isinstance(name, str):
        return None
    if offset is None:
        return name, None
    return (name, tuple(offset)) if are_integers(offset) else None


class _Reading:
    """A folder with its metadata."""

    def __init__(self, folder: Path, metadata: Mapping[str, Any]) -> None:
        self._folder = folder
        self._items: Mapping[str, Any] = metadata.get("state_dict_metadata") or {}
        self._storage: Mapping[Any, Any] = metadata.get("storage_data") or {}
        paths = metadata.get("planner_data")
        self._paths: Mapping[str, Any] = paths if isinstance(paths, dict) else {}
        self._files: dict[str, Bytes] = {}
        self._parts: list[tuple[str, int, int]] = []  # (file, begin, end) of all that were asked for

    def structure(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The tensors in the structure that was saved, and what it says of itself in numbers."""
        top: dict[str, Any] = {}
        said: dict[str, Any] = {}
        for name, item in self._items.items():
            *above, last = self._path(name)
            is_said = above == [TRAIN_STATE] or (not above and (last in COUNTERS or _is(item, "BytesStorageMetadata")))
            if is_said:
                said[last] = self._number(name, item)
            elif _is(item, "TensorStorageMetadata"):
                inner = top
                for key in above:
                    inner = inner.setdefault(key, {})
                inner[last] = self._tensor(name, item.state)
        self._check_apart()
        return top, {key: value for key, value in said.items() if value is not None}

    def _path(self, name: str) -> list[str]:
        """The keys that lead to an item."""
        path = self._paths.get(name)
        if not isinstance(path, list | tuple) or not path or not all(isinstance(key, str | int) for key in path):
            return [name]
        return [str(key) for key in path]

    def _tensor(self, name: str, state: Mapping[str, Any]) -> Chunked | Unreadable:
        dtype = _dtype(state["properties"])
        if isinstance(dtype, Unreadable):
            return dtype
        shape = shape_of(self._folder, name, state["size"])
        chunks: list[Chunk] = []
        for chunk in state["chunks"]:
            sizes = shape_of(self._folder, name, chunk.state["sizes"])
            offsets = counts(self._folder, name, chunk.state["offsets"])
            if 0 in sizes:
                continue
            part = self._part(name, offsets)
            if isinstance(part, Unreadable):
                return part
            if prod(sizes) * dtype.itemsize > part.size:  # memory is set aside before a chunk is read
                raise broken(self._folder, f"a part of tensor {name!r} is too short for it", "the save was interrupted")
            chunks.append(Chunk(part, offsets, sizes))
        if not _cover(shape, chunks):
            raise broken(self._folder, f"the chunks of tensor {name!r} do not make it up", "the save was interrupted")
        return Chunked(name, dtype, shape, tuple(chunks))

    def _part(self, name: str, offsets: tuple[int, ...] | None) -> Part | Unreadable:
        info = self._storage.get((name, offsets))
        if info is None:
            raise broken(self._folder, f"a part of tensor {name!r} is in no file", "the save was interrupted")
        if info.state.get("transform_descriptors"):
            return Unreadable("stored by an extension, not as plain elements")
        file, (begin, size) = info.state["relative_path"], counts(self._folder, name, _extent(info.state))
        if not isinstance(file, str) or not _FILE.match(file):
            shown = file[:80] if isinstance(file, str) else type(file).__name__
            raise broken(self._folder, f"names {shown!r}, which is no file of a rank", "do not trust it")
        if file not in self._files:
            if not (self._folder / file).is_file():
                raise broken(self._folder, f"its file {file!r} is missing", "copy it there")
            self._files[file] = source(self._folder / file)
        self._files[file].checked(begin, size)
        self._parts.append((file, begin, begin + size))
        return Part(self._files[file], begin, size)

    def _check_apart(self) -> None:
        """The same bytes again and again would make a small folder a large model."""
        for (file, _, end), (next_file, begin, _) in pairwise(sorted(self._parts)):
            if file == next_file and begin < end:
                raise broken(self._folder, f"two of its parts share bytes of {file!r}", "do not trust it")

    def _number(self, name: str, item: Any) -> Any:
        """A number that was saved as an object, or as a tensor of one element."""
        if _is(item, "TensorStorageMetadata") and tuple(item.state["size"]) == ():
            tensor = self._tensor(name, item.state)
            return tensor.read().item() if isinstance(tensor, Chunked) else None
        if not _is(item, "BytesStorageMetadata") or (name, None) not in self._storage:
            return None
        part = self._part(name, None)
        if isinstance(part, Unreadable) or part.size > LARGEST_NUMBER:
            return None
        value, _ = _unpickled(part)
        return value if isinstance(value, int | float) else None


def _extent(state: Mapping[str, Any]) -> tuple[Any, Any]:
    return state["offset"], state["length"]


def _is(item: Any, kind: str) -> bool:
    return isinstance(item, Unknown) and item.kind == f"{_CLASSES}metadata.{kind}"


def _dtype(properties: Any) -> torch.dtype | Unreadable:
    """The first of the properties (their pickled state is a tuple)."""
    kind = properties.state[0] if isinstance(properties.state, tuple) else properties.state["dtype"]
    name = kind.name if isinstance(kind, Global) else type(kind).__name__
    return DTYPES.get(name, Unreadable(f"dtype {name} is not read"))


def _unpickled(part: Part) -> tuple[Any, Records]:
    records = Records(part)
    return load(io.BytesIO(records.structure()), call, persistent), records


def _cover(shape: tuple[int, ...], chunks: Sequence[Chunk]) -> bool:
    """Whether every element of the tensor is in exactly one chunk, and the chunks have no others.

    Cut the axes wherever a chunk begins or ends. If so, the volumes of the chunks add up to the tensor's however long
    the pieces between the cuts are. If not, the difference is a polynomial in these lengths other than zero, which for
    random lengths mod p is zero with a chance of at most len(shape)/p (Schwartz and Zippel). That takes one look at
    each chunk; to hold every one against every other would take hours for a million.
    """
    if any(len(chunk.offsets) != len(shape) or len(chunk.shape) != len(shape) for chunk in chunks):
        return False
    places: defaultdict[tuple[int, int], int] = defaultdict(lambda: secrets.randbelow(PRIME))  # of the cuts, by axis

    def volume(begin: tuple[int, ...], size: tuple[int, ...]) -> int:
        axes = enumerate(zip(begin, size, strict=True))
        return prod(places[axis, start + length] - places[axis, start] for axis, (start, length) in axes)

    whole = volume((0,) * len(shape), shape)
    return (whole - sum(volume(chunk.offsets, chunk.shape) for chunk in chunks)) % PRIME == 0
