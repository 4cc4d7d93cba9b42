"""The symbol model: integer matrices coded column by column, each magnitude in unary under mixed contexts.

What predicts a magnitude: the column and row it stands in, its coded neighbours, and how large the same row was in an
earlier matrix (`prior`: a hidden unit that one layer does not use is not used by the next).
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from numba import njit

from .arithmetic import POSITION, SLACK, ByteArray, IntArray, code_bit, code_bits, reserve
from .mixing import ONE, Mixer, code_mixed, new_mixer

CONTEXTS = 7
LEVELS = 24  # log-spaced classes of a mean magnitude, two an octave from 1/16 on
DEPTH = 18  # unary up to here, Exp-Golomb beyond
_HALF = ONE // 2
_UNKNOWN = LEVELS  # the level of a row or prior about which nothing is known yet
_DEEP = 10  # unary positions told apart by the contexts
_SLOTS = (LEVELS + 1) * (LEVELS + 1) * _DEEP * 2


@njit(cache=True)
def level(magnitude16: int) -> int:
    """Class of a mean magnitude given in sixteenths: 0 for none, then two classes an octave."""
    if magnitude16 < 1:
        return 0
    octave = 0
    rest = magnitude16
    while rest > 1:
        rest >>= 1
        octave += 1
    half = (magnitude16 >> (octave - 1)) & 1 if octave > 0 else 0
    return min(2 * octave + half + 1, LEVELS - 1)


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
                table[0, (a * _DEEP + position) * 2 + part] = chance
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
def code_magnitude(
    encoding: bool,
    magnitude: int,
    slots: IntArray,
    scratch: IntArray,
    part: int,
    mixer: Mixer,
    beyond: IntArray,
    state: IntArray,
    buffer: ByteArray,
) -> int:
    """Code one magnitude in unary; `slots` are its contexts' slots for position 0, beside which the next ones lie."""
    reached = 0
    at = slots.copy()
    while reached < DEPTH:
        position = reached if reached < 7 else min(_DEEP - 1, 6 + (reached - 3) // 4)
        for i in range(CONTEXTS):
            at[i] = slots[i] + position * (2 if i == 0 or i == 4 else 1)
        more = code_mixed(
            encoding, 1 if magnitude > reached else 0, at, 2 * position + part, scratch, mixer, state, buffer
        )
        if more == 0:
            return reached
        reached += 1
    return DEPTH + code_rest(encoding, magnitude - DEPTH, beyond, state, buffer)


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
    slots = np.empty(CONTEXTS, np.int64)
    scratch = np.empty(CONTEXTS, np.int64)
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
            column = level((2 * previous[part] + 16 * total) // (2 + seen))
            row = level(16 * energy[i] // c) if c > 0 else _UNKNOWN
            near = level(3 * (2 * above + above2 + 2 * left + left2))
            known = level(prior[i]) if prior[i] >= 0 else _UNKNOWN
            slots[0] = column * _DEEP * 2 + part
            slots[1] = (column * (LEVELS + 1) + row) * _DEEP
            slots[2] = (column * (LEVELS + 1) + near) * _DEEP
            slots[3] = (column * 36 + 6 * min(left, 5) + min(left2, 5)) * _DEEP
            slots[4] = min(c, 60) * _DEEP * 2 + part
            slots[5] = (column * (LEVELS + 1) + known) * _DEEP
            slots[6] = (near * (LEVELS + 1) + row) * _DEEP
            if encoding:
                buffer = reserve(state, buffer, 64)
            elif state[POSITION] > buffer.size + SLACK:
                return buffer
            magnitude = abs(symbols[i, c]) if encoding else 0
            magnitude = code_magnitude(encoding, magnitude, slots, scratch, part, mixer, beyond[column], state, buffer)
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
