"""The symbol model: exact, adaptive, and close to the information it claims."""

import math
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from kolmogram.engine.codec import mixing, symbols
from kolmogram.engine.codec.stream import MixingStream

UNKNOWN = {n: np.full(n, -1, np.int64) for n in range(600)}


def code(matrices, splits=None, priors=None):
    stream = MixingStream()
    for k, matrix in enumerate(matrices):
        prior = priors[k] if priors else UNKNOWN[len(matrix)]
        stream.matrix(matrix, splits[k] if splits else 0, prior)
    return stream.finish()


def decode(data, shapes, splits=None, priors=None):
    stream = MixingStream(data)
    return [
        stream.matrix(np.zeros(shape, np.int64), splits[k] if splits else 0, priors[k] if priors else UNKNOWN[shape[0]])
        for k, shape in enumerate(shapes)
    ]


@settings(max_examples=50, deadline=None)
@given(
    hnp.arrays(
        np.int64,
        hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=20),
        elements=st.one_of(st.integers(-2, 2), st.integers(-(2**33), 2**33)),
    ),
    st.data(),
)
def test_round_trip(matrix, data):
    split = data.draw(st.integers(0, len(matrix) - 1))
    prior = data.draw(hnp.arrays(np.int64, len(matrix), elements=st.integers(-1, 1000)))
    (decoded,) = decode(code([matrix], [split], [prior]), [matrix.shape], [split], [prior])
    assert np.array_equal(decoded, matrix)


@pytest.mark.parametrize("scale", [0.05, 0.5, 2.0, 30.0])
def test_laplace_symbols_cost_little_more_than_their_entropy(scale):
    symbols = np.rint(np.random.default_rng(1).laplace(scale=scale, size=(256, 64))).astype(np.int64)
    _, counts = np.unique(symbols, return_counts=True)
    share = counts / counts.sum()
    entropy = -(share * np.log2(share)).sum() * symbols.size / 8
    assert len(code([symbols])) <= 1.04 * entropy + 64


def test_structure_is_found():
    """Rows of different scales, and columns of zeros, cost less than one scale for all."""
    rng = np.random.default_rng(2)
    rows = np.rint(rng.laplace(size=(256, 32)) * np.geomspace(8, 0.05, 256)[:, None]).astype(np.int64)
    assert len(code([rows])) < 0.95 * len(code([rng.permuted(rows.ravel()).reshape(rows.shape)]))
    padded = np.concatenate([rows[:, :8], np.zeros((256, 120), np.int64)], 1)
    assert len(code([padded])) <= len(code([rows[:, :8]])) + 8


def test_a_prior_from_an_earlier_matrix_helps():
    rng = np.random.default_rng(3)
    scales = rng.permutation(np.geomspace(6, 0.02, 400))
    first, second = (np.rint(rng.laplace(size=(400, 6)) * scales[:, None]).astype(np.int64) for _ in range(2))
    known = 16 * np.abs(first).sum(1) // 6
    assert len(code([first, second], priors=[UNKNOWN[400], known])) < 0.97 * len(code([first, second]))


def test_tables_are_the_same_on_every_platform():
    """They decide the bytes: a platform whose exp rounds otherwise must not pass."""
    assert zlib.crc32(mixing.SQUASH.tobytes()) == 3685188899
    assert zlib.crc32(mixing.STRETCH.tobytes()) == 3980857335
    assert zlib.crc32(mixing.RATE.tobytes()) == 927400641


def test_a_class_is_two_to_an_octave_up_to_the_last():
    for magnitude in [*range(5000), 2**39, 2**62]:
        octave = math.floor(math.log2(magnitude)) if magnitude else 0
        upper = octave > 0 and magnitude >= 1.5 * 2**octave
        expected = min(2 * octave + upper + 1, symbols.LEVELS - 1) if magnitude else 0
        assert symbols.level(magnitude) == expected
    assert symbols.level(-1) == 0


def test_room_is_made_for_what_is_coded_and_not_for_what_a_tall_column_could_take():
    column = np.zeros((1 << 20, 1), np.int64)
    column[0] = 1
    stream = MixingStream()
    stream.matrix(column, 0, np.full(len(column), -1))
    assert len(stream.finish()) < 1 << 10
    assert stream._buffer.size < 1 << 18
