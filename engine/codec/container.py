"""The .kolmo file: names, shapes and types in a zstd header, everything else in one coded stream.

    "KMO" | version and coder (1 byte) | CRC-32 of the rest (4) | header length (varint) | header |
    exact length (varint) | exact | stream

`decode(encode(...))` gives the same weights bit for bit on every platform. A change of bytes is a change of the
measure: it raises VERSION, renews tests/golden and is written down in CHANGELOG.md.
"""

import sys
import zlib
from collections.abc import Iterator, Sequence
from math import prod
from typing import NamedTuple

import numpy as np
import torch
import zstandard
from torch import Tensor

from ..errors import CodecError
from . import header
from .coders import Coder
from .header import Signature
from .representation import Decoded, Kind, Representation, reconstruct
from .stream import Stream
from .tensors import History, code_tensor

MAGIC = b"KMO"
VERSION = 1
"""Version of the format, and so of the measure: below 32, the rest of its byte is the coder."""

_FREE_WEIGHTS = 1 << 24  # weights that any file may declare
_WEIGHTS_PER_BYTE = 1 << 10  # or, per byte of file


class Entry(NamedTuple):
    """One tensor of a file."""

    signature: Signature
    code: Representation


class Encoded(NamedTuple):
    """A finished file, and the bytes that each tensor took of its stream (fractions: neighbours share bytes)."""

    data: bytes
    tensor_bytes: dict[str, float]


def encode(entries: Sequence[Entry], decoded: Sequence[Decoded] | None = None, coder: Coder = Coder.MIXING) -> Encoded:
    """Write tensors in the given order, in which every inherited basis must come after its source.

    `decoded` spares the encoder the reconstruction where the caller has it already. Complexity counts the bytes of
    the default coder.
    """
    stream = coder.stream()
    exact = bytearray()
    history = History()
    positions = [stream.position]
    for index, (signature, code) in enumerate(entries):
        code_tensor(stream, code, signature.shape, history)
        positions.append(stream.position)
        exact += code.raw
        if code.kind == Kind.EXACT:
            history.add(None)
        else:
            history.add(decoded[index] if decoded else reconstruct(code, signature.shape, history.decoded))
    names = header.pack(signature for signature, _ in entries)
    packed = zstandard.ZstdCompressor(level=19).compress(bytes(exact)) if exact else b""
    coded = stream.finish()
    body = b"".join((header.varint(len(names)), names, header.varint(len(packed)), packed, coded))
    unit = len(coded) / max(positions[-1], 1.0)  # a general-purpose compressor does not say what it spent where
    kept = len(packed) / max(len(exact), 1)  # bytes of the file for a byte that is kept
    shares = {
        e.signature.name: (positions[i + 1] - positions[i]) * unit + len(e.code.raw) * kept
        for i, e in enumerate(entries)
    }
    frame = MAGIC + bytes([coder.number << 5 | VERSION]) + zlib.crc32(body).to_bytes(4, "big")
    return Encoded(frame + body, shares)


def decode(data: bytes, max_weights: int | None = None) -> dict[str, Tensor]:
    """The tensors of a .kolmo file, in the order in which they were written.

    CodecError for anything that is not an intact file of ours. The weights that a file may declare, and so the memory
    that a hostile one can take, are bounded by 2^24 or 2^10 for each of its bytes, whichever is more; `max_weights` is
    another bound.
    """
    return {signature.name: tensor for (signature, _), _, tensor in _tensors(data, max_weights)}


def transcode(data: bytes, coder: Coder) -> Encoded:
    """The same weights by another coder (`data` is trusted to be a file of our own)."""
    found = list(_tensors(data, sys.maxsize))
    return encode([entry for entry, _, _ in found], [decoded for _, decoded, _ in found], coder)


def _tensors(data: bytes, max_weights: int | None) -> Iterator[tuple[Entry, Decoded, Tensor]]:
    """Every tensor of a file: its code, what the code stands for, and the tensor itself."""
    allowed = max(_FREE_WEIGHTS, _WEIGHTS_PER_BYTE * len(data)) if max_weights is None else max_weights
    coder, signatures, exact, body = _open(data, allowed)
    history = History(allowed)
    stream: Stream | None = None
    for signature in signatures:
        name, shape, dtype = signature
        try:
            history.take(prod(shape))
            stream = stream or coder.stream(body)
            code = code_tensor(stream, None, shape, history)
            if code.kind == Kind.EXACT:
                raw = exact.take(prod(shape) * dtype.itemsize)
                code = Representation(Kind.EXACT, raw=raw)
                history.add(None)
                tensor = _from_raw(raw, shape, dtype)
            else:
                history.add(reconstruct(code, shape, history.decoded))
                tensor = to_tensor(history.decoded[-1], shape, dtype)
        except (CodecError, ValueError, IndexError, OverflowError, MemoryError, RuntimeError) as error:
            raise CodecError(
                f"tensor {name!r} of the .kolmo file does not decode: {error}; is the file damaged?"
            ) from None
        yield Entry(signature, code), history.decoded[-1], tensor


def to_tensor(decoded: Decoded, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """The decoded weights in the tensor's own shape and type (rounded to nearest, ties to even)."""
    single = torch.from_numpy(np.ascontiguousarray(decoded.matrix, np.float32)).reshape(tuple(shape))
    return single.to(dtype)


def exact_code(tensor: Tensor) -> Representation:
    """The code that keeps a tensor's very bytes."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    raw = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    return Representation(Kind.EXACT, raw=raw)


def _from_raw(raw: bytes, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(bytearray(raw), dtype=dtype).reshape(shape) if raw else torch.empty(shape, dtype=dtype)


def _open(data: bytes, allowed: int) -> tuple[Coder, list[Signature], header.Reader, bytes]:
    """Check the frame of a file; its coder, signatures, exact bytes and stream."""
    if data[:3] != MAGIC or len(data) < 10:
        raise CodecError("not a .kolmo file (it does not begin with KMO)")
    if data[3] % 32 != VERSION:
        raise CodecError(
            f"a .kolmo file of format {data[3] % 32}; this version reads format {VERSION}: update kolmogram"
        )
    coder = Coder.numbered(data[3] // 32)
    body = data[8:]
    if zlib.crc32(body) != int.from_bytes(data[4:8], "big"):
        raise CodecError("the .kolmo file is damaged (its checksum does not fit): encode or copy it again")
    reader = header.Reader(body)
    signatures = header.unpack(reader.take(reader.varint()), len(data))
    declared = sum(prod(signature.shape) for signature in signatures)
    if declared > allowed:
        raise CodecError(
            f"the .kolmo file declares {declared:,} weights, more than {allowed:,}: pass max_weights to read it"
        )
    packed = reader.take(reader.varint())
    limit = sum(prod(s.shape) * s.dtype.itemsize for s in signatures)
    exact = header.unfold(zstandard.ZstdDecompressor(max_window_size=1 << 27), packed, limit) if packed else b""
    return coder, signatures, header.Reader(exact), reader.rest()
