"""The arithmetic coder returns what went in, at the price that the probabilities say."""

from math import log2

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from kolmogram.engine.codec import arithmetic
from kolmogram.engine.codec.stream import MixingStream


def write(bits, chances):
    state, buffer = arithmetic.new_encoder()
    for bit, chance in zip(bits, chances, strict=True):
        buffer = arithmetic.reserve(state, buffer, 8)
        arithmetic.code_bit(True, bit, chance, state, buffer)
    return arithmetic.finish(state, buffer)


def read(data, chances):
    state, buffer = arithmetic.new_decoder(data)
    return [int(arithmetic.code_bit(False, 0, chance, state, buffer)) for chance in chances]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(16, 65520)), max_size=400))
def test_round_trip(pairs):
    bits, chances = [b for b, _ in pairs], [c for _, c in pairs]
    assert read(write(bits, chances), chances) == bits


def test_size_is_the_information_content():
    rng = np.random.default_rng(0)
    chances = rng.integers(200, 65000, 20_000)
    bits = (rng.integers(0, 65536, chances.size) < chances).astype(int)
    information = -sum(log2(c / 65536) if b else log2(1 - c / 65536) for b, c in zip(bits, chances, strict=True))
    assert information / 8 - 1 <= len(write(bits, chances)) <= 1.001 * information / 8 + 4


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2**40 - 1), st.integers(0, 6)), max_size=50))
def test_exp_golomb_round_trip(pairs):
    state, buffer = arithmetic.new_encoder()
    for value, order in pairs:
        buffer = arithmetic.reserve(state, buffer, 32)
        arithmetic.code_exp_golomb(True, value, order, state, buffer)
    state, buffer = arithmetic.new_decoder(arithmetic.finish(state, buffer))
    assert [arithmetic.code_exp_golomb(False, 0, order, state, buffer) for _, order in pairs] == [v for v, _ in pairs]


def test_empty_and_exhausted_streams_decode_to_something():
    assert write([], []) == b""
    assert len(read(b"", [32768] * 1000)) == 1000


def test_zeros_at_the_end_are_left_off_only_as_far_as_a_decoder_goes_without_them():
    stream = MixingStream()
    for _ in range(100):
        stream.bits(0xFFFF, 16)  # the low end of the interval: zero bytes
    data = stream.finish()
    assert not any(data)
    again = MixingStream(data)
    assert [again.bits(0, 16) for _ in range(100)] == [0xFFFF] * 100
