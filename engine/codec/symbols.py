"""The symbol model: integer matrices coded column by column, each magnitude in unary under mixed contexts.

What predicts a magnitude: the column and row it stands in, its coded neighbours, and how large the same row was in an
earlier matrix (`prior`: a hidden unit that one layer does not use is not used by the next).
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from numba import njit

from .arithmetic import POSITION, SLACK, ByteArray, IntArray, code_bit, code_bits, reserve
from .mixing import CONTEXTS, ONE, Mixer, code_mixed, new_mixer

LEVELS = 24  # log-spaced classes of a mean magnitude, two an octave from 1/16 on
DEPTH = 18  # unary up to here, Exp-Golomb beyond
_HALF = ONE // 2
_UNKNOWN = LEVELS  # the level of a row or prior about which nothing is known yet
_DEEP = 10  # unary positions told apart by the contexts
_POSITION = np.array([r if r < 7 else min(_DEEP - 1, 6 + (r - 3) // 4) for r in range(DEPTH)], np.int64)
_TOGETHER = 1024  # symbols that room is made for at once, 64 bytes each at most
_SLOTS = (LEVELS + 1) * (LEVELS + 1) * _DEEP * 2


def _level(magnitude16: int) -> int:
    octave = magnitude16.bit_length() - 1
    half = magnitude16 >> (octave - 1) & 1 if octave > 0 else 0
    return min(2 * octave + half + 1, LEVELS - 1)


_LEVELS = np.array([0] + [_level(magnitude16) for magnitude16 in range(1, 1 << LEVELS // 2)], np.int64)


@njit(cache=True, inline="always")
def level(magnitude16: int) -> int:
    """Class of a mean magnitude given in sixteenths: 0 for none, then two classes an octave."""
    if magnitude16 >= _LEVELS.size:
        return LEVELS - 1
    return _LEVELS[max(magnitude16, 0)]


@njit(cache=True, inline="always")
def _level_of_mean(total16: int, count: int) -> int:
    """Class of total16 / count; most are below 1, and a division takes as long as coding a bit."""
    return level(total16 // count) if total16 >= count else 0


def _expected(mean: float, position: int) -> int:
    """Chance, in 1/65536, that a two-sided geometric magnitude of that mean goes past `position` once it is there."""
    mean = max(mean, 1 / 64)
    ratio = (np.sqrt(1 + mean * mean) - 1) / mean
    return int(ONE * (2 * ratio / (1 + ratio) if position == 0 else ratio))


@cache
def _initial() -> IntArray:
    """Starting probabilities: a geometric guess at the context's mean magnitude if it has one, else even odds."""
    table = np.full((CONTEXTS, _SLOTS), _HALF, np.int64)
    means = [0.02] + [(2 ** ((k - 1) // 2) * (1.25 if k % 2 else 1.75)) / 16 for k in range(1, LEVELS)]
    for a, mean in enumerate(means):
        for position in range(_DEEP):
            chance = _expected(mean, position)
            for part in range(2):
                table[0, (2 * a + part) * _DEEP + position] = chance
            for b in range(LEVELS + 1):
                row = means[b] if b < LEVELS else mean
                joint = _expected(float(np.sqrt(mean * row)), position)
                for context in (1, 2, 5, 6):
                    table[context, (a * (LEVELS + 1) + b) * _DEEP + position] = joint
            for near in range(36):
                table[3, (a * 36 + near) * _DEEP + position] = chance
    return table


class Model(NamedTuple):
    """What the coder has learnt so far in this file."""

    magnitudes: Mixer
    beyond: IntArray  # [levels, 40 · 2] how far past the unary depth, and the first bit below that, in 1/65536
    empty: IntArray  # [2] chance of a column of zeros, in 1/65536, after a full and after an empty one


def new_model() -> Model:
    """The model at the start of a file."""
    mixer = new_mixer(_initial(), sets=2 * _DEEP, confidence=3)
    return Model(mixer, np.full((LEVELS + 1, 80), _HALF, np.int64), np.array([ONE // 16, ONE - ONE // 16], np.int64))


@njit(cache=True)
def _code_adaptive(encoding: bool, bit: int, chances: IntArray, slot: int, state: IntArray, buffer: ByteArray) -> int:
    bit = code_bit(encoding, bit, chances[slot], state, buffer)
    chances[slot] += ((bit << 16) - chances[slot]) >> 4
    chances[slot] = min(max(chances[slot], 64), ONE - 64)
    return bit


@njit(cache=True)
def code_rest(encoding: bool, rest: int, chances: IntArray, state: IntArray, buffer: ByteArray) -> int:
    """Code what lies beyond the unary depth (below 2^40): an Exp-Golomb code whose leading bits adapt."""
    shifted = rest + 4
    extra = 0
    if encoding:
        while (shifted >> (extra + 3)) > 0:
            extra += 1
    length = 0
    while length < 38 and _code_adaptive(encoding, 1 if length < extra else 0, chances, length, state, buffer):
        length += 1
    below = length + 1
    first = _code_adaptive(encoding, (shifted >> below) & 1, chances, 40 + length, state, buffer)
    tail = code_bits(encoding, shifted & ((1 << below) - 1), below, state, buffer)
    return (((2 | first) << below) | tail) - 4


@njit(cache=True)
def code_matrix(
    encoding: bool,
    symbols: IntArray,
    split: int,
    prior: IntArray,
    model: Model,
    state: IntArray,
    buffer: ByteArray,
) -> ByteArray:
    """Code `symbols` ([rows, columns], written when decoding) column by column; returns the buffer, maybe a larger one.

    Rows from `split` on are the other factor of each column and keep statistics of their own (0: one part).
    `prior` ([rows]) is each row's mean magnitude in an earlier matrix, in sixteenths (−1: unknown). Decoding stops
    where it has left the data behind.
    """
    mixer, beyond, empty = model
    rows, columns = symbols.shape
    after = 0
    energy = np.zeros(rows, np.int64)
    known = np.array([level(magnitude) if magnitude >= 0 else _UNKNOWN for magnitude in prior])
    slots, odds = np.empty(CONTEXTS, np.int64), np.empty(CONTEXTS, np.int64)
    previous = np.array([24, 24])
    for c in range(columns):
        if encoding:
            buffer = reserve(state, buffer, 64)
        zeros = 1 if encoding and not symbols[:, c].any() else 0
        zeros = code_bit(encoding, zeros, empty[after], state, buffer)
        empty[after] += ((zeros << 16) - empty[after]) >> 4
        after = zeros
        if zeros:
            if not encoding:
                symbols[:, c] = 0
            continue
        part, total, seen = 0, 0, 0
        for i in range(rows):
            if split > 0 and i == split:
                previous[0] = (16 * total + 8) // max(seen, 1)
                part, total, seen = 1, 0, 0
            above = abs(symbols[i - 1, c]) if i > 0 else 0
            above2 = abs(symbols[i - 2, c]) if i > 1 else 0
            left = abs(symbols[i, c - 1]) if c > 0 else 0
            left2 = abs(symbols[i, c - 2]) if c > 1 else 0
            column = _level_of_mean(2 * previous[part] + 16 * total, 2 + seen)
            row = _level_of_mean(16 * energy[i], c) if c > 0 else _UNKNOWN
            near = level(3 * (2 * above + above2 + 2 * left + left2))
            slots[0] = (2 * column + part) * _DEEP
            slots[1] = (column * (LEVELS + 1) + row) * _DEEP
            slots[2] = (column * (LEVELS + 1) + near) * _DEEP
            slots[3] = (column * 36 + 6 * min(left, 5) + min(left2, 5)) * _DEEP
            slots[4] = (2 * min(c, 60) + part) * _DEEP
            slots[5] = (column * (LEVELS + 1) + known[i]) * _DEEP
            slots[6] = (near * (LEVELS + 1) + row) * _DEEP
            if encoding and i % _TOGETHER == 0:
                buffer = reserve(state, buffer, 64 * _TOGETHER)
            elif not encoding and state[POSITION] > buffer.size + SLACK:
                return buffer
            magnitude = abs(symbols[i, c]) if encoding else 0
            # In unary, and here: as a function of its own it takes three times as long.
            reached = 0
            while reached < DEPTH:
                bit, position = 1 if magnitude > reached else 0, _POSITION[reached]
                if not code_mixed(encoding, bit, slots, position, 2 * position + part, odds, mixer, state, buffer):
                    break
                reached += 1
            if reached == DEPTH:
                reached += code_rest(encoding, magnitude - DEPTH, beyond[column], state, buffer)
            magnitude = reached
            if magnitude > 0:
                negative = code_bit(encoding, 1 if symbols[i, c] < 0 else 0, _HALF, state, buffer)
                if not encoding:
                    symbols[i, c] = -magnitude if negative else magnitude
            elif not encoding:
                symbols[i, c] = 0
            energy[i] += magnitude
            total += magnitude
            seen += 1
        previous[part] = (16 * total + 8) // max(seen, 1)
    return buffer
