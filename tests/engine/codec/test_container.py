"""The .kolmo file: every kind of tensor comes back, bit for bit; nothing but an intact file is believed."""

import hashlib
import json
import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from kolmogram.engine.codec.coders import Coder
from kolmogram.engine.codec.container import MAGIC, VERSION, Entry, decode, encode, exact_code, transcode
from kolmogram.engine.codec.exact import multiplicative_basis
from kolmogram.engine.codec.header import DTYPES, Signature, pack, unfold, unpack, varint
from kolmogram.engine.codec.representation import IDENTITY, ZERO, Basis, BasisKind, Kind, Representation
from kolmogram.engine.codec.stream import MixingStream
from kolmogram.engine.errors import CodecError

from .conftest import laplace

GOLDEN = Path(__file__).parents[2] / "golden" / "kolmo.json"


def forged(body, first=VERSION):
    """A file with a good checksum."""
    return MAGIC + bytes([first]) + zlib.crc32(bytes(body)).to_bytes(4, "big") + bytes(body)


def test_round_trip_of_every_kind(network):
    tensors = decode(encode(network).data)
    assert list(tensors) == [e.signature.name for e in network]
    for (name, shape, dtype), _ in network:
        assert tensors[name].shape == shape
        assert tensors[name].dtype == dtype
    assert tensors["steps"].tolist() == [7, -1]
    assert tensors["mask"].tolist() == [True, False, True]
    norm = (network[4].code.symbols[:, 0] + 32) * 2.0**-5
    np.testing.assert_allclose(tensors["norm.weight"].numpy(), norm, rtol=1e-7)
    assert not tensors["dead.weight"].any()


@pytest.mark.parametrize("coder", Coder)
def test_every_coder_gives_the_same_weights_and_says_which_it_is(network, coder):
    data = encode(network, coder=coder).data
    assert data[3] == VERSION + 32 * coder.number
    expected, found = decode(encode(network).data), decode(data)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert transcode(encode(network).data, coder).data == data
    assert transcode(data, Coder.MIXING).data == encode(network).data


@pytest.mark.parametrize("coder", Coder)
def test_the_same_bytes_every_time_and_in_every_thread(network, coder):
    data = encode(network, coder=coder).data
    assert encode(network, coder=coder).data == data
    first = decode(data)
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: encode(network, coder=coder).data, range(8))) == {data}
        for found in pool.map(decode, [data] * 8):
            assert all(torch.equal(found[name], first[name]) for name in first)


@pytest.mark.parametrize("coder", Coder)
def test_tensor_bytes_add_up_to_the_stream(network, coder):
    file = encode(network, coder=coder)
    assert sum(file.tensor_bytes.values()) <= len(file.data)
    assert len(file.data) - sum(file.tensor_bytes.values()) < 250, "frame and header"
    assert file.tensor_bytes["dead.weight"] < 0.5


def test_what_is_kept_to_the_byte_has_its_share():
    kept = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    exact = Signature("kept", (5000,), torch.float32)
    file = encode([Entry(exact, exact_code(kept)), Entry(Signature("dead", (100,), torch.float32), ZERO)])
    assert 0.85 * kept.nbytes < file.tensor_bytes["kept"] <= len(file.data) < file.tensor_bytes["kept"] + 100
    assert file.tensor_bytes["dead"] < 1


def test_a_limit_is_not_reserved():
    packed = zstandard.ZstdCompressor().compress(bytes(3_000_000))
    assert unfold(zstandard.ZstdDecompressor(), packed, 1 << 40) == bytes(3_000_000)
    with pytest.raises(CodecError, match="more than it may"):
        unfold(zstandard.ZstdDecompressor(), packed, 2_999_999)


def test_usual_names_cost_little(network):
    signatures = [e.signature for e in network]
    assert unpack(pack(signatures)) == signatures
    usual = [Signature(f"layers.{k}.attention.q_proj.weight", (128, 128), torch.float32) for k in range(12)]
    assert len(pack(usual)) < 60


def test_tensors_that_no_header_can_hold_are_refused():
    assert pack([Signature("w", (1,) * 14, torch.float32)])
    with pytest.raises(CodecError, match="15 dimensions"):
        pack([Signature("w", (1,) * 15, torch.float32)])
    with pytest.raises(CodecError, match=r"type torch\.complex32 cannot be written"):
        pack([Signature("w", (1,), torch.complex32)])


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.text(max_size=20), st.lists(st.integers(0, 2**40), max_size=5), st.sampled_from(DTYPES)),
        unique_by=lambda item: item[0],
    )
)
def test_header_round_trip_with_any_name(items):
    signatures = [Signature(name, tuple(shape), dtype) for name, shape, dtype in items]
    assert unpack(pack(signatures)) == signatures


@pytest.mark.parametrize("coder", Coder)
@settings(max_examples=100, deadline=None)
@given(st.data())
def test_damage_is_an_error_and_never_anything_else(files, coder, data):
    intact = files[coder]
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


@pytest.mark.parametrize("coder", Coder)
@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_lie_with_a_good_checksum_is_an_error_or_some_weights(files, coder, data):
    """Past the checksum: a hostile file may decode to nonsense, but only to tensors."""
    body = bytearray(files[coder][8:])
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        tensors = decode(forged(body, files[coder][3]), max_weights=2_000_000)
    except CodecError:
        return
    assert all(isinstance(value, torch.Tensor) for value in tensors.values())


def with_header(signatures, rest=b""):
    names = pack(signatures)
    return forged(varint(len(names)) + names + varint(0) + rest)


def test_newer_formats_and_coders_are_refused_in_one_line(files):
    intact = files[Coder.MIXING]
    with pytest.raises(CodecError, match="of format 2; this version reads format 1: update kolmogram"):
        decode(forged(intact[8:], VERSION + 1))
    with pytest.raises(CodecError, match="coder 7, which this version does not know: update kolmogram"):
        decode(forged(intact[8:], VERSION + 7 * 32))


def test_claims_that_would_take_memory_or_time_are_refused():
    with pytest.raises(CodecError, match="declares"):
        decode(with_header([Signature("huge", (1 << 20, 1 << 20), torch.float32)]))
    with pytest.raises(CodecError, match="twice"):
        decode(with_header([Signature("w", (2,), torch.float32)] * 2))
    many = [Signature(str(k), (2, 1024), torch.float32) for k in range(64)]
    with pytest.raises(CodecError, match="more memory than"):
        decode(with_header(many, fourier_everywhere(len(many))))
    with pytest.raises(CodecError, match="end too early"):
        decode(with_header([Signature("w", (4000, 4000), torch.float32)], beginning_of_a_matrix()))


def test_weights_and_bases_share_what_a_file_may_take():
    bases = Basis(BasisKind.FOURIER, 33), IDENTITY
    code = Representation(Kind.DIRECT, -20, 0, bases, False, laplace((33, 24)))
    data, needed = encode([Entry(Signature("w", (33, 24), torch.float32), code)]).data, 33 * 24 + 33 * 33
    assert decode(data, needed)["w"].shape == (33, 24)
    with pytest.raises(CodecError, match="more memory than"):
        decode(data, needed - 1)


def test_a_multiplicative_basis_comes_back_and_needs_a_prime():
    symbols = np.random.default_rng(0).integers(-3, 4, (33, 8))
    code = Representation(Kind.DIRECT, -20, 0, (Basis(BasisKind.MULTIPLICATIVE, 31), IDENTITY), False, symbols)
    matrix = decode(encode([Entry(Signature("w", (33, 8), torch.float64), code)]).data)["w"].numpy()
    expected = symbols * 2.0**-2.5
    expected[1:31] = multiplicative_basis(31).T @ expected[1:31]
    np.testing.assert_allclose(matrix, expected, atol=1e-12)
    stream = MixingStream()
    stream.bits(Kind.DIRECT, 2)
    stream.integer(0, 3)
    stream.bits(BasisKind.MULTIPLICATIVE, 2)
    stream.natural(0, 1)
    with pytest.raises(CodecError, match="multiplicative basis of 33, which is not a prime"):
        decode(with_header([Signature("w", (33, 8), torch.float32)], stream.finish()))


def fourier_everywhere(count):
    """A stream of `count` matrices of (2, 1024) in a Fourier basis of 1024, every symbol zero."""
    stream = MixingStream()
    for _ in range(count):
        stream.bits(Kind.DIRECT, 2)
        stream.integer(0, 3)
        stream.bits(BasisKind.IDENTITY, 2)
        stream.bits(BasisKind.FOURIER, 2)
        stream.natural(0, 1)
        stream.bits(0, 1)
        stream.integer(0, 0)
        stream.matrix(np.zeros((2, 1024), np.int64), 0, np.full(2, -1))
    return stream.finish()


def beginning_of_a_matrix():
    """A stream that promises symbols and has none."""
    stream = MixingStream()
    stream.bits(Kind.DIRECT, 2)
    stream.integer(0, 3)
    for _ in range(2):
        stream.bits(BasisKind.IDENTITY, 2)
    stream.bits(0, 1)
    stream.integer(0, 0)
    stream.matrix(np.ones((1, 1), np.int64), 0, np.full(1, -1))
    return stream.finish()


def test_golden_bytes(network):
    """These bytes are the measure: if they change, VERSION, the golden file and the changelog change with them."""
    file = encode(network)
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
