"""safetensors: u64 header length, JSON header {name: {dtype, shape, data_offsets}}, then the tensors back to back.

https://github.com/huggingface/safetensors#format. The header is parsed here, not by the library, because the library
maps the whole file; what it refuses (holes, overlaps, bytes left over) is refused here too.
"""

import json
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch

from ..contents import Claim, Contents
from ..faults import broken, guarded
from ..sources import Bytes, foreign, source
from ..steps import EPOCH_KEYS, STEP_KEYS, count_among, numbers
from ..stored import Span, counts, shape_of

FORMAT = "safetensors"

LARGEST_HEADER = 100_000_000  # bytes, the limit of the safetensors library itself

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}


def claim(folder: Path, names: Sequence[str]) -> Iterator[Claim]:
    """Every file that ends in .safetensors."""
    for name in names:
        if name.endswith(".safetensors"):
            yield Claim(folder / name, (folder / name,))


def read(path: Path) -> Contents:
    """List the tensors of one file; step and epoch come from its `__metadata__`."""
    with guarded(path, "reading the safetensors header"):
        file = source(path)
        header, data = _header(file)
        metadata = header.pop("__metadata__", {})
        tensors, skipped = _spans(file, data, header)
        return Contents(
            FORMAT,
            tensors,
            step=count_among(metadata, STEP_KEYS),
            epoch=count_among(metadata, EPOCH_KEYS),
            metrics=numbers(metadata),
            skipped=skipped,
        )


def _header(file: Bytes) -> tuple[dict[str, Any], int]:
    """The parsed header and the offset where the tensors begin."""
    length = int.from_bytes(file.read(0, 8), "little")
    if length > LARGEST_HEADER or file.read(8, min(1, file.size - 8)) != b"{":
        raise foreign(file, "a safetensors file")
    if length + 8 > file.size:
        raise broken(file.path, f"is truncated (header of {length} bytes in a file of {file.size})", "copy it again")
    header = json.loads(file.read(8, length))
    if not isinstance(header, dict) or not isinstance(header.get("__metadata__", {}), dict):
        raise broken(file.path, "its safetensors header is not a JSON object", "the file is damaged")
    return header, 8 + length


def _spans(file: Bytes, data: int, header: dict[str, Any]) -> tuple[dict[str, Span], dict[str, str]]:
    """Every tensor as a span, in file order, after checking that together they cover the file exactly."""
    entries = sorted(
        ((*_offsets(file, name, entry), name, entry) for name, entry in header.items()), key=lambda entry: entry[:3]
    )
    spans: dict[str, Span] = {}
    skipped: dict[str, str] = {}
    end = 0
    for begin, stop, name, entry in entries:
        if begin != end or stop < begin:
            raise broken(file.path, f"tensor {name!r} overlaps another or leaves a hole", "the file is damaged")
        end = stop
        shape = shape_of(file.path, name, entry["shape"])
        dtype = _DTYPES.get(entry["dtype"])
        if dtype is None:
            skipped[name] = f"dtype {str(entry['dtype'])[:40]} has no torch equivalent"
        elif prod(shape) * dtype.itemsize != stop - begin:
            what = f"tensor {name!r} of shape {list(shape)} and dtype {entry['dtype']} has {stop - begin} bytes"
            raise broken(file.path, what, "the file is damaged")
        else:
            spans[name] = Span(file, data + begin, dtype, shape)
    if data + end != file.size:
        kind = "is truncated" if data + end > file.size else "is longer than its header says"
        raise broken(file.path, f"{kind} (header: {data + end} bytes, file: {file.size})", "copy it again")
    return spans, skipped


def _offsets(file: Bytes, name: str, entry: Any) -> tuple[int, int]:
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        raise broken(file.path, f"tensor {name!r} has no dtype", "the file is damaged")
    begin, stop = counts(file.path, name, entry.get("data_offsets"))
    return begin, stop
