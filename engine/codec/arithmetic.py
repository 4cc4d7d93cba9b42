"""Binary arithmetic coding with 16-bit probabilities: exact integers, so that every platform decodes the same bits.

A coder is an int64 array `[low, high, code, position]` and a growing byte buffer; the interval is 32 bits wide (a
carryless range coder after Martin, 1979). The same function encodes and decodes, so the two cannot drift apart.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
ByteArray = NDArray[np.uint8]

LOW, HIGH, CODE, POSITION = 0, 1, 2, 3
PROBABILITY_BITS = 16
SLACK = 64
"""Zero bytes that an encoder may leave off at the end. Who reads further past the end has a damaged file."""
_TOP = 0xFF000000
_MASK = 0xFFFFFFFF
_HALF = 1 << (PROBABILITY_BITS - 1)


def new_encoder() -> tuple[IntArray, ByteArray]:
    """An empty encoder: its state and its buffer."""
    return np.array([0, _MASK, 0, 0], np.int64), np.zeros(1 << 12, np.uint8)


def new_decoder(data: bytes) -> tuple[IntArray, ByteArray]:
    """A decoder at the first bit of `data`; bits past the end read as zero."""
    code = int.from_bytes((data + bytes(4))[:4], "big")
    return np.array([0, _MASK, code, 4], np.int64), np.frombuffer(data, np.uint8).copy()


def finish(state: IntArray, buffer: ByteArray) -> bytes:
    """The encoded bytes, closed by the fewest that lie in the last interval, zeros at the end left off."""
    low, high, body = int(state[LOW]), int(state[HIGH]), buffer[: state[POSITION]].tobytes()
    for count in range(5):
        unit = 1 << (32 - 8 * count)
        value = -(-low // unit) * unit
        if value <= high:
            data = body + (value >> (32 - 8 * count)).to_bytes(count, "big")
            return data[: max(len(data.rstrip(b"\0")), len(data) - SLACK // 2)]
    raise AssertionError("four bytes always name a point of the interval")


@njit(cache=True, inline="always")
def code_bit(encoding: bool, bit: int, one: int, state: IntArray, buffer: ByteArray) -> int:
    """Code `bit` with probability `one`/65536 of being 1; returns the bit, also when decoding.

    The buffer must have eight free bytes when encoding (`reserve`).
    """
    low, high = state[LOW], state[HIGH]
    width = high - low
    middle = low + (width >> 16) * one + (((width & 0xFFFF) * one) >> 16)
    if not encoding:
        bit = 1 if state[CODE] <= middle else 0
    if bit:
        high = middle
    else:
        low = middle + 1
    while ((low ^ high) & _TOP) == 0:
        position = state[POSITION]
        if encoding:
            buffer[position] = high >> 24
        else:
            byte = buffer[position] if position < buffer.size else 0
            state[CODE] = ((state[CODE] << 8) & _MASK) | byte
        state[POSITION] = position + 1
        low = (low << 8) & _MASK
        high = ((high << 8) & _MASK) | 255
    state[LOW] = low
    state[HIGH] = high
    return bit


@njit(cache=True)
def reserve(state: IntArray, buffer: ByteArray, count: int) -> ByteArray:
    """The buffer, or a copy twice as large, with at least `count` free bytes."""
    if state[POSITION] + count <= buffer.size:
        return buffer
    larger = np.zeros(2 * buffer.size + count, np.uint8)
    larger[: buffer.size] = buffer
    return larger


@njit(cache=True)
def code_bits(encoding: bool, value: int, width: int, state: IntArray, buffer: ByteArray) -> int:
    """Code the `width` low bits of `value`, most significant first, each at one half."""
    result = 0
    for shift in range(width - 1, -1, -1):
        result = (result << 1) | code_bit(encoding, (value >> shift) & 1, _HALF, state, buffer)
    return result


@njit(cache=True)
def code_exp_golomb(encoding: bool, value: int, order: int, state: IntArray, buffer: ByteArray) -> int:
    """Code a non-negative integer below 2^40 by the Exp-Golomb code of `order` (Teuhola, 1978)."""
    shifted = value + (1 << order)
    extra = 0
    if encoding:
        while (shifted >> (order + extra + 1)) > 0:
            extra += 1
    length = 0
    while length < 40 and code_bit(encoding, 1 if length < extra else 0, _HALF, state, buffer):
        length += 1
    tail = code_bits(encoding, shifted & ((1 << (order + length)) - 1), order + length, state, buffer)
    return ((1 << (order + length)) | tail) - (1 << order)
