"""npz: a zip archive of .npy members, plain or deflated. Arrays of objects are pickles and are not read."""

import io
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import torch
from numpy.lib import format as npy

from ..contents import Claim, Contents
from ..faults import broken, guarded, no_weights
from ..sources import Bytes, foreign, source
from ..stored import Span, Stored, shape_of

FORMAT = "npz"

LARGEST_HEADER = 1 << 16  # bytes; headers of arrays that can be read have about 100
SUSPICIOUS_SIZE, SUSPICIOUS_RATIO = 1 << 30, 100  # a member larger than 1 GiB deflated more than 100-fold is a zip bomb

_DTYPES = {
    **{"f8": torch.float64, "f4": torch.float32, "f2": torch.float16, "c8": torch.complex64, "c16": torch.complex128},
    **{"i8": torch.int64, "i4": torch.int32, "i2": torch.int16, "i1": torch.int8, "b1": torch.bool},
    **{"u8": torch.uint64, "u4": torch.uint32, "u2": torch.uint16, "u1": torch.uint8},
}


def claim(folder: Path, names: Sequence[str]) -> Iterator[Claim]:
    """Every file that ends in .npz."""
    for name in names:
        if name.endswith(".npz"):
            yield Claim(folder / name, (folder / name,))


def read(path: Path) -> Contents:
    """List the arrays of one file by the names they were saved under."""
    with guarded(path, "reading the npz archive"):
        file = source(path)
        tensors: dict[str, Stored] = {}
        skipped: dict[str, str] = {}
        try:
            with file.open() as stream, zipfile.ZipFile(stream) as archive:
                for entry in archive.infolist():
                    name = entry.filename.removesuffix(".npy")
                    stored = _stored(file, archive, entry)
                    if isinstance(stored, str):
                        skipped[name] = stored
                    else:
                        tensors[name] = stored
        except zipfile.BadZipFile as error:
            if file.read(0, 2) == b"PK":
                raise broken(path, f"is truncated or damaged ({error})", "copy it again") from None
            raise foreign(file, "an npz archive") from None
        if not tensors:
            reasons = "; ".join(f"{name}: {why}" for name, why in list(skipped.items())[:1]) or "it is empty"
            raise no_weights(path, f"holds no numeric array ({reasons})")
        return Contents(FORMAT, tensors, skipped=skipped)


@dataclass(frozen=True, slots=True)
class Member:
    """An array that must be inflated or turned from big-endian to be read."""

    file: Bytes
    member: str
    header: int  # bytes before the elements
    array: str  # numpy's name of the dtype, with its byte order
    dtype: torch.dtype
    shape: tuple[int, ...]
    fortran: bool

    def read(self) -> torch.Tensor:
        """Inflate the elements into fresh memory; numpy's zip reader checks the checksum on the way."""
        array = np.empty(self.shape, dtype=self.array, order="F" if self.fortran else "C")
        buffer = array.reshape(-1, order="A").view(np.uint8).data
        with self.file.open() as stream, zipfile.ZipFile(stream) as archive, archive.open(self.member) as member:
            member.read(self.header)
            filled = 0
            while filled < len(buffer):
                block = member.read(min(1 << 20, len(buffer) - filled))
                if not block:
                    raise broken(self.file.path, f"array {self.member!r} is truncated", "copy it again")
                buffer[filled : filled + len(block)] = block
                filled += len(block)
            member.read(1)  # the checksum is compared at the end of the member
        return torch.from_numpy(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")).reshape(self.shape))


def _stored(file: Bytes, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Stored | str:
    """Where the array of one archive member lies, or why it is not given."""
    if not entry.filename.endswith(".npy"):
        return "not an .npy member"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or entry.flag_bits & 1:
        return "compressed or encrypted in a way that numpy does not write"
    if entry.file_size > SUSPICIOUS_SIZE and entry.file_size > SUSPICIOUS_RATIO * entry.compress_size:
        what = f"array {entry.filename!r} claims {entry.file_size} bytes from {entry.compress_size} (a zip bomb)"
        raise broken(file.path, what, "do not trust it")
    header, shape, fortran, dtype = _header(file, archive, entry)
    if dtype.hasobject:
        return "an array of objects is a pickle, never read"
    element = _DTYPES.get(dtype.str[1:])
    if element is None:
        return f"dtype {dtype.str[:40]!r} has no torch equivalent"
    shape = shape_of(file.path, entry.filename, shape)
    if header + prod(shape) * dtype.itemsize != entry.file_size:
        what = f"array {entry.filename!r} of shape {list(shape)} and dtype {dtype} has {entry.file_size - header} bytes"
        raise broken(file.path, what, "the file is damaged")
    if entry.compress_type == zipfile.ZIP_STORED and dtype.newbyteorder("<") == dtype:
        return _span(file, entry, header, element, shape, fortran)
    return Member(file, entry.filename, header, dtype.str, element, shape, fortran)


def _header(
    file: Bytes, archive: zipfile.ZipFile, entry: zipfile.ZipInfo
) -> tuple[int, tuple[int, ...], bool, np.dtype]:
    """Length of the .npy header in bytes, shape, whether in Fortran order, dtype."""
    with archive.open(entry) as member:
        start = member.read(12)
        version = npy.read_magic(io.BytesIO(start))
        wide = version != (1, 0)
        length = int.from_bytes(start[8:12] if wide else start[8:10], "little") + (12 if wide else 10)
        if length > LARGEST_HEADER:
            raise broken(file.path, f"array {entry.filename!r} has a header of {length} bytes", "the file is damaged")
        stream = io.BytesIO(start + member.read(length - len(start)))
    npy.read_magic(stream)
    parse = npy.read_array_header_2_0 if wide else npy.read_array_header_1_0
    return length, *parse(stream)


def _span(
    file: Bytes, entry: zipfile.ZipInfo, header: int, dtype: torch.dtype, shape: tuple[int, ...], fortran: bool
) -> Span:
    local = file.read(entry.header_offset, 30)
    name_length, extra_length = (int.from_bytes(local[at : at + 2], "little") for at in (26, 28))
    begin = entry.header_offset + 30 + name_length + extra_length + header
    file.checked(begin, entry.file_size - header)
    columns = tuple(prod(shape[:axis]) for axis in range(len(shape)))
    return Span(file, begin, dtype, shape, columns if fortran and len(shape) > 1 else None)
