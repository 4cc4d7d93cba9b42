"""Names, shapes and types of a file's tensors, as a few dozen bytes of zstd with a dictionary of usual names."""

import re
from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

import torch
import zstandard

from ..errors import CodecError

# Part of the format: the order is the code. New types join at the end.
DTYPES = (
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.float64,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz,
    torch.complex64,
    torch.complex128,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.float8_e8m0fnu,
)

_FREE_BYTES = 1 << 20  # that a header may unfold to
_BYTES_PER_BYTE = 1 << 8  # or, per byte of file
_BLOCK = 1 << 20  # bytes unfolded at a time

# Part of the format too: text that parameter names are made of, the commonest last (zstd reaches near ends cheaply).
_USUAL = b"""conv1.weight
bn1.running_mean
bn1.running_var
bn1.num_batches_tracked
downsample.0.weight
features.0.bias
classifier.1.weight
fc1.bias
fc2.weight
transformer.wpe.weight
transformer.wte.weight
transformer.h.0.ln_1.bias
transformer.h.0.attn.c_attn.weight
transformer.h.0.attn.c_proj.bias
transformer.h.0.mlp.c_fc.weight
transformer.h.0.mlp.c_proj.bias
transformer.ln_f.weight
gpt_neox.layers.0.attention.query_key_value.weight
gpt_neox.layers.0.mlp.dense_h_to_4h.bias
gpt_neox.embed_in.weight
embed_out.weight
lm_head.weight
model.embed_tokens.weight
model.norm.weight
model.layers.0.input_layernorm.weight
model.layers.0.post_attention_layernorm.weight
model.layers.0.mlp.gate_proj.weight
model.layers.0.mlp.up_proj.weight
model.layers.0.mlp.down_proj.weight
model.layers.0.self_attn.o_proj.weight
layers.0.self_attn.out_proj.weight
layers.1.self_attn.q_proj.weight
layers.1.self_attn.k_proj.bias
layers.1.self_attn.v_proj.weight
layers.0.norm1.weight
layers.0.norm2.bias
layers.0.mlp.0.weight
layers.0.mlp.2.bias
output.weight
positional_embedding.weight
embedding.weight
layers.0.attention.q_proj.weight
layers.0.attention.q_proj.bias
layers.0.attention.k_proj.weight
layers.0.attention.k_proj.bias
layers.0.attention.v_proj.weight
layers.0.attention.v_proj.bias
layers.0.attention.out_proj.weight
layers.0.attention.out_proj.bias
"""


class Signature(NamedTuple):
    """What a tensor is before its values."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


@cache
def _dictionary() -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(_USUAL, dict_type=zstandard.DICT_TYPE_RAWCONTENT)


def varint(value: int) -> bytes:
    """A non-negative number in LEB128."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


class Reader:
    """Bytes with a position; running over the end is a CodecError."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        if self._at + count > len(self._data):
            raise CodecError("the .kolmo file ends too early: it is damaged, encode it again")
        self._at += count
        return self._data[self._at - count : self._at]

    def rest(self) -> bytes:
        """All bytes that are left."""
        return self._data[self._at :]

    def varint(self) -> int:
        """The next LEB128 number."""
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 56:
                raise CodecError("the .kolmo header holds an absurd number: the file is damaged, encode it again")


def unfold(decompressor: zstandard.ZstdDecompressor, data: bytes, limit: int) -> bytes:
    """Decompress, giving up past `limit` bytes whatever size the frame claims."""
    body = bytearray()
    try:
        with decompressor.stream_reader(data) as stream:
            # In blocks: a read of many bytes reserves them all, however few there are.
            while len(body) <= limit and (block := stream.read(_BLOCK)):
                body += block
    except zstandard.ZstdError as error:
        raise CodecError(
            f"a part of the .kolmo file does not unfold ({error}): it is damaged, encode it again"
        ) from None
    if len(body) > limit:
        raise CodecError("a part of the .kolmo file unfolds to more than it may: it is damaged, encode it again")
    return bytes(body)


def pack(signatures: Iterable[Signature]) -> bytes:
    """The header of a file; names may hold any text."""
    entries = list(signatures)
    body = bytearray(varint(len(entries)))
    for _, shape, dtype in entries:
        if dtype not in DTYPES:
            raise CodecError(f"tensors of type {dtype} cannot be written to a .kolmo file")
        body += varint(DTYPES.index(dtype) * 16 + min(len(shape), 15))
        if len(shape) >= 15:
            raise CodecError(f"a tensor of {len(shape)} dimensions cannot be written to a .kolmo file (14 at most)")
        for size in shape:
            body += varint(size)
    for name, _, _ in entries:
        raw = name.encode("utf-8", "surrogateescape")
        body += raw.replace(b"\\", b"\\\\").replace(b"\n", b"\\n") + b"\n"
    parameters = zstandard.ZstdCompressionParameters.from_level(
        19, format=zstandard.FORMAT_ZSTD1_MAGICLESS, write_content_size=False, write_dict_id=False
    )
    return zstandard.ZstdCompressor(dict_data=_dictionary(), compression_params=parameters).compress(bytes(body))


def unpack(data: bytes, file_size: int = 0) -> list[Signature]:
    """The signatures in the header of a file of so many bytes; CodecError if it is damaged."""
    decompressor = zstandard.ZstdDecompressor(
        dict_data=_dictionary(), format=zstandard.FORMAT_ZSTD1_MAGICLESS, max_window_size=1 << 27
    )
    body = unfold(decompressor, data, max(_FREE_BYTES, _BYTES_PER_BYTE * file_size))
    reader = Reader(body)
    kinds: list[tuple[tuple[int, ...], torch.dtype]] = []
    for _ in range(reader.varint()):
        code = reader.varint()
        if code // 16 >= len(DTYPES):
            raise CodecError(
                "the .kolmo header names an unknown type: it was written by a newer version, or is damaged"
            )
        kinds.append((tuple(reader.varint() for _ in range(code % 16)), DTYPES[code // 16]))
    lines = reader.rest().split(b"\n")[:-1]
    if len(lines) != len(kinds):
        raise CodecError("the .kolmo header names fewer tensors than it counts: the file is damaged, encode it again")
    names = [_unescape(line).decode("utf-8", "surrogateescape") for line in lines]
    if len(set(names)) < len(names):
        raise CodecError("the .kolmo header names a tensor twice: the file is damaged, encode it again")
    return [Signature(name, shape, dtype) for name, (shape, dtype) in zip(names, kinds, strict=True)]


def _unescape(line: bytes) -> bytes:
    return re.sub(rb"\\(.)", lambda match: b"\n" if match[1] == b"n" else match[1], line)
