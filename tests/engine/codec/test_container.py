"""The .kolmo file: every kind of tensor comes back, bit for bit; nothing but an intact file is believed."""

import hashlib
import json
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kolmogram.engine.codec.container import MAGIC, VERSION, Entry, decode, encode, exact_code
from kolmogram.engine.codec.header import DTYPES, Signature, pack, unpack, varint
from kolmogram.engine.codec.representation import IDENTITY, ZERO, Basis, BasisKind, Kind, Representation
from kolmogram.engine.errors import CodecError

GOLDEN = Path(__file__).parents[2] / "golden" / "kolmo.json"


def laplace(shape, seed=0, scale=1.0):
    return np.rint(np.random.default_rng(seed).laplace(scale=scale, size=shape)).astype(np.int64)


def entry(name, shape, code, dtype=torch.float32):
    return Entry(Signature(name, shape, dtype), code)


def network():
    """One tensor of every kind, with every kind of basis, in the order of a file."""
    fourier, inherited = Basis(BasisKind.FOURIER, 31), Basis(BasisKind.INHERITED, 0, 1)
    direct = Representation(Kind.DIRECT, -20, 0, (fourier, IDENTITY), True, laplace((33, 24)))
    factors = Representation(Kind.FACTORS, 5, 0, (IDENTITY, inherited), False, np.maximum(laplace((64, 5), 1, 2), -3))
    factors.symbols[0] = 1  # every component has a left side
    chained = Representation(
        Kind.DIRECT, -9, 0, (inherited, Basis(BasisKind.INHERITED, 1, 0)), False, laplace((24, 40), 2)
    )
    return [
        entry("embedding.weight", (33, 24), direct),
        entry("layers.0.up.weight", (40, 24), factors, torch.bfloat16),
        entry("layers.0.down.weight", (24, 40), chained, torch.float16),
        entry("conv.weight", (8, 3, 5, 5), Representation(Kind.DIRECT, 0, symbols=laplace((8, 75), 3)), torch.float64),
        entry("norm.weight", (24,), Representation(Kind.DIRECT, -40, offset=32, symbols=laplace((24, 1), 4))),
        entry("scalar", (), Representation(Kind.DIRECT, 3, symbols=laplace((1, 1), 5))),
        entry("dead.weight", (1000, 1000), ZERO),
        entry("empty", (0, 7), ZERO),
        entry("steps", (2,), exact_code(torch.tensor([7, -1])), torch.int64),
        entry("mask", (3,), exact_code(torch.tensor([True, False, True])), torch.bool),
    ]


def test_round_trip_of_every_kind():
    entries = network()
    file = encode(entries)
    tensors = decode(file.data)
    assert list(tensors) == [e.signature.name for e in entries]
    for (name, shape, dtype), _ in entries:
        assert tensors[name].shape == shape
        assert tensors[name].dtype == dtype
    assert tensors["steps"].tolist() == [7, -1]
    assert tensors["mask"].tolist() == [True, False, True]
    norm = (laplace((24, 1), 4)[:, 0] + 32) * 2.0**-5
    np.testing.assert_allclose(tensors["norm.weight"].numpy(), norm, rtol=1e-7)
    assert not tensors["dead.weight"].any()


def test_decoding_twice_and_encoding_again_give_the_same_bytes():
    entries = network()
    data = encode(entries).data
    first, second = decode(data), decode(data)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert encode(entries).data == data


def test_tensor_bytes_add_up_to_the_stream():
    entries = network()
    file = encode(entries)
    assert sum(file.tensor_bytes.values()) <= len(file.data)
    assert len(file.data) - sum(file.tensor_bytes.values()) < 250, "frame and header"
    assert file.tensor_bytes["dead.weight"] < 0.5


def test_usual_names_cost_little():
    signatures = [e.signature for e in network()]
    assert unpack(pack(signatures)) == signatures
    usual = [Signature(f"layers.{k}.attention.q_proj.weight", (128, 128), torch.float32) for k in range(12)]
    assert len(pack(usual)) < 60


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=20), st.lists(st.integers(0, 2**40), max_size=5), st.sampled_from(DTYPES))))
def test_header_round_trip_with_any_name(items):
    signatures = [Signature(name, tuple(shape), dtype) for name, shape, dtype in items]
    assert unpack(pack(signatures)) == signatures


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damage_is_an_error_and_never_anything_else(data):
    intact = DATA
    kind = data.draw(st.sampled_from(["cut", "flip", "noise"]))
    if kind == "cut":
        damaged = intact[: data.draw(st.integers(0, len(intact) - 1))]
    elif kind == "flip":
        place = data.draw(st.integers(0, len(intact) - 1))
        damaged = intact[:place] + bytes([intact[place] ^ data.draw(st.integers(1, 255))]) + intact[place + 1 :]
    else:
        damaged = MAGIC + data.draw(st.binary(max_size=200))
    with pytest.raises(CodecError):
        decode(damaged)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_lie_with_a_good_checksum_is_an_error_or_some_weights(data):
    """Past the checksum: a hostile file may decode to nonsense, but only to tensors, and in bounded memory."""
    body = bytearray(DATA[8:])
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    forged = MAGIC + bytes([VERSION]) + zlib.crc32(bytes(body)).to_bytes(4, "big") + bytes(body)
    try:
        tensors = decode(forged, max_weights=2_000_000)
    except CodecError:
        return
    assert all(isinstance(value, torch.Tensor) for value in tensors.values())


DATA = encode([e for e in network() if e.signature.name != "dead.weight"]).data


def test_newer_formats_and_huge_claims_are_refused():
    with pytest.raises(CodecError, match="update kolmogram"):
        decode(MAGIC + bytes([VERSION + 1]) + DATA[4:])
    names = pack([Signature("huge", (1 << 20, 1 << 20), torch.float32)])
    body = varint(len(names)) + names + varint(0)
    with pytest.raises(CodecError, match="declares"):
        decode(MAGIC + bytes([VERSION]) + zlib.crc32(body).to_bytes(4, "big") + body)


def test_golden_bytes():
    """These bytes are the measure: if they change, VERSION, the golden file and the changelog change with them."""
    file = encode(network())
    digests = {
        name: hashlib.sha256(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()[:16]
        for name, value in decode(file.data).items()
        if value.numel()
    }
    found = {
        "version": VERSION,
        "bytes": len(file.data),
        "sha256": hashlib.sha256(file.data).hexdigest(),
        "weights": digests,
    }
    if os.environ.get("KOLMOGRAM_WRITE_GOLDEN"):
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
    assert json.loads(GOLDEN.read_text()) == found
