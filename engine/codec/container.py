"""The .kolmo file: names, shapes and types in a zstd header, everything else in one arithmetic-coded stream.

    "KMO" | version (1 byte) | CRC-32 of the rest (4) | header length (varint) | header | exact length (varint) |
    exact | stream

`decode(encode(...))` gives the same weights bit for bit on every platform. A change of bytes is a change of the
measure: it raises VERSION, renews tests/golden and is written down in CHANGELOG.md.
"""

import zlib
from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import numpy as np
import torch
import zstandard
from torch import Tensor

from ..errors import CodecError
from . import header
from .arithmetic import IntArray
from .header import Signature
from .representation import IDENTITY, Basis, BasisKind, Decoded, Kind, Representation, matrix_shape, reconstruct
from .stream import Stream

MAGIC = b"KMO"
VERSION = 1
"""Version of the format, and so of the measure."""

_FREE_WEIGHTS = 1 << 26  # weights that any file may declare
_WEIGHTS_PER_BYTE = 1 << 14  # and beyond them, per byte of file


class Entry(NamedTuple):
    """One tensor of a file."""

    signature: Signature
    code: Representation


class Encoded(NamedTuple):
    """A finished file, and the bytes that each tensor took of its stream (fractions: neighbours share bytes)."""

    data: bytes
    tensor_bytes: dict[str, float]


def encode(entries: Sequence[Entry], decoded: Sequence[Decoded] | None = None) -> Encoded:
    """Write tensors in the given order, in which every inherited basis must come after its source.

    `decoded` spares the encoder the reconstruction where the caller has it already.
    """
    stream = Stream()
    exact = bytearray()
    earlier: list[Decoded] = []
    tensor_bytes: dict[str, float] = {}
    step = 0
    for index, (signature, code) in enumerate(entries):
        start = stream.position
        _code_tensor(stream, code, signature.shape, earlier, step)
        tensor_bytes[signature.name] = stream.position - start
        if code.kind == Kind.EXACT:
            exact += code.raw
            earlier.append(_placeholder(signature.shape))
            continue
        step = code.step if code.kind != Kind.ZERO else step
        earlier.append(decoded[index] if decoded is not None else reconstruct(code, signature.shape, earlier))
    names = header.pack(signature for signature, _ in entries)
    packed = zstandard.ZstdCompressor(level=19).compress(bytes(exact)) if exact else b""
    body = b"".join((header.varint(len(names)), names, header.varint(len(packed)), packed, stream.finish()))
    return Encoded(MAGIC + bytes([VERSION]) + zlib.crc32(body).to_bytes(4, "big") + body, tensor_bytes)


def decode(data: bytes, max_weights: int | None = None) -> dict[str, Tensor]:
    """The tensors of a .kolmo file, in the order in which they were written.

    CodecError for anything that is not an intact file of ours. `max_weights` raises the number of weights that the
    file may declare (otherwise 2^26, or 2^14 for each of its bytes), which bounds the memory that a hostile file can
    take.
    """
    signatures, exact, body = _open(data, max_weights)
    stream = Stream(body)
    earlier: list[Decoded] = []
    result: dict[str, Tensor] = {}
    step = 0
    for name, shape, dtype in signatures:
        try:
            code = _code_tensor(stream, None, shape, earlier, step)
            if code.kind == Kind.EXACT:
                size = prod(shape) * dtype.itemsize
                raw, exact = exact[:size], exact[size:]
                result[name] = _from_raw(raw, shape, dtype)
                earlier.append(_placeholder(shape))
                continue
            earlier.append(reconstruct(code, shape, earlier))
        except (CodecError, ValueError, IndexError, OverflowError, MemoryError) as error:
            raise CodecError(
                f"tensor {name!r} of the .kolmo file does not decode ({error}): the file is damaged"
            ) from None
        step = code.step if code.kind != Kind.ZERO else step
        result[name] = to_tensor(earlier[-1], shape, dtype)
    return result


def to_tensor(decoded: Decoded, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """The decoded weights in the tensor's own shape and type (rounded to nearest, ties to even)."""
    single = torch.from_numpy(decoded.matrix.astype(np.float32)).reshape(tuple(shape))
    return single.to(dtype)


def exact_code(tensor: Tensor) -> Representation:
    """The code that keeps a tensor's very bytes."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    raw = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    return Representation(Kind.EXACT, raw=raw)


def _from_raw(raw: bytes, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    if len(raw) != prod(shape) * dtype.itemsize:
        raise CodecError("its exact bytes are missing")
    return torch.frombuffer(bytearray(raw), dtype=dtype).reshape(shape) if raw else torch.empty(shape, dtype=dtype)


def _open(data: bytes, max_weights: int | None) -> tuple[list[Signature], bytes, bytes]:
    """Check the frame of a file; its signatures, its exact bytes and its stream."""
    if data[:3] != MAGIC or len(data) < 10:
        raise CodecError("not a .kolmo file (it does not begin with KMO)")
    if data[3] != VERSION:
        raise CodecError(f"a .kolmo file of format {data[3]}; this version reads format {VERSION}: update kolmogram")
    body = data[8:]
    if zlib.crc32(body) != int.from_bytes(data[4:8], "big"):
        raise CodecError("the .kolmo file is damaged (its checksum does not fit): encode or copy it again")
    reader = header.Reader(body)
    signatures = header.unpack(reader.take(reader.varint()))
    declared = sum(prod(signature.shape) for signature in signatures)
    allowed = max(_FREE_WEIGHTS, _WEIGHTS_PER_BYTE * len(data)) if max_weights is None else max_weights
    if declared > allowed:
        raise CodecError(
            f"the .kolmo file declares {declared:,} weights, more than {allowed:,}: pass max_weights to read it"
        )
    packed = reader.take(reader.varint())
    if not packed:
        return signatures, b"", reader.rest()
    limit = sum(prod(s.shape) * s.dtype.itemsize for s in signatures)
    decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 27)
    return signatures, header.unfold(decompressor, packed, limit), reader.rest()


def _placeholder(shape: Sequence[int]) -> Decoded:
    return Decoded(Representation(Kind.EXACT), np.zeros((0, 0)), (None, None))


def _code_tensor(
    stream: Stream, code: Representation | None, shape: tuple[int, ...], earlier: Sequence[Decoded], step: int
) -> Representation:
    """Write `code`, or read one (None); `step` is the latest step index, near which the next one lies."""
    given = code or Representation(Kind.ZERO)
    kind = Kind(stream.bits(given.kind, 2))
    if kind in (Kind.ZERO, Kind.EXACT):
        return code or Representation(kind)
    if prod(shape) == 0:
        raise CodecError("it is empty and has nothing to code")
    m, n = matrix_shape(shape)
    step += stream.integer(given.step - step, 3)
    bases = (IDENTITY, IDENTITY)
    if n > 1:
        bases = (
            _code_basis(stream, given.bases[0], m, 0, earlier),
            _code_basis(stream, given.bases[1], n, 1, earlier),
        )
    if kind == Kind.FACTORS:
        rank = stream.natural(0 if given.symbols is None else given.symbols.shape[1], 4)
        if rank > min(m, n):
            raise CodecError("its rank is larger than its sides")
        symbols = np.zeros((m + n, rank), np.int64) if given.symbols is None else given.symbols
        prior = np.concatenate([_prior(m, bases[0], earlier), _prior(n, bases[1], earlier)])
        symbols = stream.matrix(symbols, m, prior)
        return code or Representation(kind, step, 0, bases, False, symbols)
    transposed = bool(stream.bits(given.transposed, 1)) if n > 1 else False
    offset = stream.integer(given.offset, 0)
    symbols = np.zeros((m, n), np.int64) if given.symbols is None else given.symbols
    prior = _prior(n, bases[1], earlier) if transposed else _prior(m, bases[0], earlier)
    symbols = stream.matrix(symbols.T if transposed else symbols, 0, prior)
    return code or Representation(kind, step, offset, bases, transposed, symbols.T if transposed else symbols)


def _code_basis(stream: Stream, basis: Basis, n: int, side: int, earlier: Sequence[Decoded]) -> Basis:
    """Write or read the basis of an axis of length `n`."""
    kind = BasisKind(stream.bits(basis.kind, 2))
    if kind == BasisKind.IDENTITY:
        return IDENTITY
    if kind == BasisKind.FOURIER:
        period = n - stream.natural(n - basis.parameter, 1)
        if not 0 < period <= n:
            raise CodecError("its Fourier period does not fit")
        return Basis(kind, period)
    source = len(earlier) - 1 - stream.natural(len(earlier) - 1 - basis.parameter, 2)
    axis = stream.bits(basis.axis, 1)
    if not 0 <= source < len(earlier) or earlier[source].representation.symbols is None:
        raise CodecError("the basis it inherits does not exist")
    if earlier[source].matrix.shape[axis] != n:
        raise CodecError("the basis it inherits has another length")
    return Basis(kind, source, axis)


def _prior(n: int, basis: Basis, earlier: Sequence[Decoded]) -> IntArray:
    """Mean magnitude, in sixteenths, of the latest earlier tensor that has the same basis on an axis of `n` (−1.

    None).
    """
    for source in reversed(earlier):
        symbols = source.representation.symbols
        if symbols is None or source.matrix.shape[1] == 1:
            continue
        for axis in (0, 1):
            if source.matrix.shape[axis] == n and source.representation.bases[axis] == basis:
                if source.representation.kind == Kind.FACTORS:
                    sides = symbols[: source.matrix.shape[0]] if axis == 0 else symbols[source.matrix.shape[0] :]
                    return 16 * np.abs(sides).sum(1) // max(symbols.shape[1], 1)
                return 16 * np.abs(symbols).sum(1 - axis) // symbols.shape[1 - axis]
    return np.full(n, -1, np.int64)
