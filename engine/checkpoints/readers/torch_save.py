"""torch.save: the zip archive of torch ≥ 1.6 and the stream of pickles before it, each with a restricted reading.

Zip: `<name>/data.pkl` holds the structure, `<name>/data/<key>` the bytes of each storage, uncompressed. Stream: five
pickles (magic number, protocol, system, structure, storage keys), then per key an i64 element count and the bytes.
In both, tensors are read straight from where their storage lies, and what is not weights is never read.
"""

import io
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

from ..contents import Claim, Contents
from ..faults import broken, guarded
from ..pickles import WouldRunCodeError, load
from ..sources import Bytes, foreign, source
from ..torch_objects import Storage, call, contents_of, persistent

FORMAT = "torch"

LARGEST_PICKLE = 1 << 27  # bytes of structure; real ones have some 150 bytes a tensor

_NAMES = re.compile(r"\.(pt|pth|ckpt|pyth)$|\.pth\.tar$|model.*\.bin$")
_STREAM_MAGIC = 0x1950A86A20F9469CFC6C


def claim(folder: Path, names: Sequence[str]) -> Iterator[Claim]:
    """Every file named like a torch.save file."""
    for name in names:
        if _NAMES.search(name):
            yield Claim(folder / name, (folder / name,))


def read(path: Path) -> Contents:
    """List the tensors of one file."""
    with guarded(path, "reading the torch.save file"):
        file = source(path)
        head = file.read(0, min(file.size, 512))
        try:
            if head.startswith(b"PK\x03\x04"):
                return _read_archive(file)
            if head.startswith(b"\x80"):
                return _read_stream(file)
        except WouldRunCodeError as error:
            what = f"is a pickle that would run {error} when loaded (nothing was run)"
            raise broken(path, what, "do not trust where it came from") from None
        if head[257:262] == b"ustar":
            raise broken(path, "is in the tar format of torch 0.1", "load and save it again with torch 1.x")
        raise foreign(file, "a torch.save file")


def _read_archive(file: Bytes) -> Contents:
    records = Records(file)
    payload = load(io.BytesIO(records.structure()), call, persistent)
    return contents_of(payload, file, records.locate)


class Records:
    """The records of a torch zip archive, by their names below its top folder."""

    def __init__(self, file: Bytes) -> None:
        self._file = file
        try:
            with file.open() as stream, zipfile.ZipFile(stream) as archive:
                entries = {entry.filename: entry for entry in archive.infolist()}
        except zipfile.BadZipFile:
            what = "is truncated or damaged (a zip archive whose directory at the end cannot be read)"
            raise broken(file.path, what, "copy it again") from None
        structure = min((name for name in entries if name.split("/")[-1] == "data.pkl"), key=len, default=None)
        if structure is None:
            raise broken(file.path, "is a zip archive, but not of torch.save (no data.pkl)", "rename it to what it is")
        top = structure.removesuffix("data.pkl")
        self._entries = {name.removeprefix(top): entry for name, entry in entries.items() if name.startswith(top)}
        if "constants.pkl" in self._entries:
            raise broken(file.path, "is a TorchScript program", "save the module's state_dict() instead")
        if "byteorder" in self._entries and self._read("byteorder") != b"little":
            raise broken(file.path, "was written on a big-endian machine", "load and save it again with torch")

    def structure(self) -> bytes:
        """The pickle of everything but the storages."""
        return self._read("data.pkl")

    def locate(self, key: str) -> tuple[int, int]:
        """Where the bytes of a storage begin, and how many they are."""
        return self._locate(f"data/{key}")

    def _read(self, name: str) -> bytes:
        begin, length = self._locate(name)
        if length > LARGEST_PICKLE:
            raise broken(self._file.path, f"its {name} has {length} bytes, which is absurd", "do not trust it")
        data = self._file.read(begin, length)
        if self._entries[name].CRC not in (0, crc32(data)):  # 0: written with torch's set_crc32_options(False)
            raise broken(self._file.path, f"its {name} is damaged (checksum)", "copy it again")
        return data

    def _locate(self, name: str) -> tuple[int, int]:
        entry = self._entries.get(name)
        if entry is None:
            raise broken(self._file.path, f"its storage {name!r} is missing", "the file is damaged")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or entry.file_size != entry.compress_size:
            what = f"its record {name!r} is compressed or encrypted, which torch.save never does"
            raise broken(self._file.path, what, "do not trust it, or save it again with torch")
        header = self._file.read(entry.header_offset, 30)
        if not header.startswith(b"PK\x03\x04"):
            raise broken(self._file.path, f"its record {name!r} is not where the directory says", "copy it again")
        name_length, extra_length = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
        begin = entry.header_offset + 30 + name_length + extra_length
        self._file.checked(begin, entry.file_size)
        return begin, entry.file_size


def _read_stream(file: Bytes) -> Contents:
    itemsizes: dict[str, int] = {}

    def remember_itemsize(saved_id: Any) -> Any:
        storage = persistent(saved_id)
        if isinstance(storage, Storage):
            itemsizes[storage.key] = storage.dtype.itemsize
        return storage

    with file.open() as raw:
        stream = _Bounded(raw)
        if load(stream, call, persistent) != _STREAM_MAGIC:
            raise broken(file.path, "is a pickle, but not of torch.save", "save it with torch.save")
        load(stream, call, persistent)
        system = load(stream, call, persistent)
        if not system.get("little_endian", True):
            raise broken(file.path, "was written on a big-endian machine", "load and save it again with torch")
        payload = load(stream, call, remember_itemsize)
        keys = load(stream, call, persistent)
        begin = stream.tell()
    places: dict[str, tuple[int, int]] = {}
    for key in keys:
        if not isinstance(key, str):  # to hash a tuple that is a million tuples deep overflows the stack
            raise broken(file.path, "names a storage by something else than text", "do not trust it")
        length = int.from_bytes(file.read(begin, 8), "little") * itemsizes[key]
        places[key] = begin + 8, file.checked(begin + 8, length)
        begin += 8 + length
    return contents_of(payload, file, places.__getitem__)


class _Bounded(io.BufferedReader):
    """A reader of LARGEST_PICKLE bytes in all, so that no length and no number of opcodes can exhaust the memory."""

    _left = LARGEST_PICKLE

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= self._left:
            raise ValueError(f"more than {LARGEST_PICKLE} bytes of pickles")
        self._left -= size
        return super().read(size)

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(self._left)
        self._left -= len(line)
        return line
