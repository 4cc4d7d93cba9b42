"""The other coders: the same symbols come back, and the fast one costs little more than it must."""

import hashlib
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from kolmogram.engine.codec import plain
from kolmogram.engine.codec.coders import Coder
from kolmogram.engine.errors import CodecError, KolmogramError

ANY_MATRIX = hnp.arrays(
    np.int64,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=20),
    elements=st.one_of(st.integers(-2, 2), st.integers(-(2**33), 2**33)),
)


def code(coder, matrices, splits):
    stream = coder.stream()
    for matrix, split in zip(matrices, splits, strict=True):
        stream.natural(len(matrix), 3)
        stream.matrix(matrix, split, np.full(len(matrix), -1))
    return stream.finish()


def decode(coder, data, shapes, splits):
    stream = coder.stream(data)
    for shape, split in zip(shapes, splits, strict=True):
        assert stream.natural(0, 3) == shape[0]
        yield stream.matrix(np.zeros(shape, np.int64), split, np.full(shape[0], -1))


def laplace(scale, shape=(256, 64)):
    return np.rint(np.random.default_rng(1).laplace(scale=scale, size=shape)).astype(np.int64)


@pytest.mark.parametrize("coder", Coder)
@settings(max_examples=30, deadline=None)
@given(st.lists(ANY_MATRIX, max_size=3), st.data())
def test_round_trip(coder, matrices, data):
    splits = [data.draw(st.integers(0, len(matrix) - 1)) for matrix in matrices]
    coded = code(coder, [matrix.copy() for matrix in matrices], splits)  # ANS writes over what it codes
    found = list(decode(coder, coded, [matrix.shape for matrix in matrices], splits))
    assert len(found) == len(matrices)
    assert all(map(np.array_equal, found, matrices))


@pytest.mark.parametrize("coder", Coder)
def test_outliers_come_back(coder):
    symbols = laplace(0.5, (256, 4))
    symbols[3] = 1000, -1000, 2**33, -(2**33)
    coded = code(coder, [symbols.copy()], [0])
    (found,) = decode(coder, coded, [symbols.shape], [0])
    assert np.array_equal(found, symbols)


@pytest.mark.parametrize("scale", [0.02, 0.1, 0.5, 2.0, 30.0, 1e3, 1e6])
def test_ans_costs_little_more_than_the_distribution(scale):
    """Laplace symbols against the entropy of a Laplace distribution, in closed form by its own table."""
    symbols = laplace(scale)
    centre = np.exp(-0.5 / scale)
    p_zero, ratio = 1 - centre, np.exp(-1 / scale)
    magnitude = np.abs(symbols)
    bits = np.where(
        magnitude == 0, -np.log2(p_zero), -np.log2(centre * (1 - ratio) / 2) - (magnitude - 1) * np.log2(ratio)
    )
    assert len(code(Coder.ANS, [symbols], [0])) <= 1.03 * bits.sum() / 8 + 64


def test_ans_finds_columns_of_different_scales():
    columns = np.concatenate([laplace(scale, (256, 1)) for scale in np.geomspace(0.05, 300, 64)], 1)
    mixed = np.random.default_rng(2).permuted(columns.ravel()).reshape(columns.shape)
    assert len(code(Coder.ANS, [columns], [0])) < 0.8 * len(code(Coder.ANS, [mixed], [0]))


def test_ans_tables_and_bytes_are_the_same_on_every_platform():
    """They are the format: other tables, or a library that reads them otherwise, would not decode our files."""
    assert plain.tables().sum(1).tolist() == [65536] * plain.TABLES
    assert plain.tables().min() >= 1
    assert zlib.crc32(plain.tables().astype("<i8").tobytes()) == 2793516241
    assert (
        hashlib.sha256(code(Coder.ANS, [laplace(3.0), laplace(1e3)], [0, 100])).hexdigest()[:16] == "b61ddc45c13bf1b2"
    )


def test_too_large_symbols_are_refused_and_not_bent():
    for coder in Coder:
        with pytest.raises(CodecError, match="too fine"):
            coder.stream().matrix(np.array([[1 << 40]]), 0, np.array([-1]))
        with pytest.raises(CodecError, match="too large"):
            coder.stream().natural(1 << 40, 0)


def test_coders_are_found_by_name_and_by_number():
    for coder in Coder:
        assert Coder.named(coder.label) is coder
        assert Coder.numbered(coder.number) is coder
    with pytest.raises(KolmogramError, match="mixing, ans, zstd, bzip2") as refused:
        Coder.named("gzip")
    assert not isinstance(refused.value, CodecError), "no file is damaged"
    with pytest.raises(CodecError, match="update kolmogram"):
        Coder.numbered(7)
