"""Context mixing: several adaptive probabilities of one bit, combined by an online logistic regression.

The idea is PAQ's (Mahoney, 2005): each context keeps its own estimate, the estimates are stretched to log-odds,
weighted and squashed back, and the weights follow the coding error. Everything is an integer, so that decoding is
exact everywhere.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .arithmetic import PROBABILITY_BITS, ByteArray, IntArray, code_bit

ONE = 1 << PROBABILITY_BITS
CONTEXTS = 7  # that are mixed: a constant, so that loops over them are unrolled
_UNIT = 256  # one unit of log-odds
_LIMIT = 2047  # log-odds are kept within ±8
_FLOOR = 24  # no bit is ever cheaper than 24/65536
_CONFIDENT = 255  # observations after which an estimate adapts at its slowest rate
_LEARNING_RATE = 2


def _squash_table() -> IntArray:
    """Probability in 1/65536 of log-odds −2047…2047 in 1/256 (index 2047 is even odds)."""
    odds = np.arange(-_LIMIT, _LIMIT + 1) / _UNIT
    return np.rint(ONE / (1 + np.exp(-odds))).astype(np.int64)


def _stretch_table() -> IntArray:
    """Log-odds in 1/256 of a probability given in 1/4096."""
    probability = (np.arange(4096) + 0.5) / 4096
    return np.clip(np.rint(_UNIT * np.log(probability / (1 - probability))), -_LIMIT, _LIMIT).astype(np.int64)


# Rounded values of smooth functions, far from ties: every IEEE platform computes the same integers (a test pins them).
SQUASH = _squash_table()
STRETCH = _stretch_table()
RATE = np.array([int(ONE / (n + 1.5)) for n in range(_CONFIDENT + 1)], np.int64)


class Mixer(NamedTuple):
    """The state of a model: what decoding must follow step by step. In small types, so that it stays in the cache."""

    probability: NDArray[np.int32]  # [contexts, slots] chance of a 1, in 1/65536
    confidence: NDArray[np.uint8]  # [contexts, slots] observations so far, at most 255
    weight: IntArray  # [sets, contexts] of the logistic mix, in 1/65536


def new_mixer(initial: IntArray, sets: int, confidence: int) -> Mixer:
    """A mixer whose contexts start at the probabilities `initial` ([contexts, slots], 1/65536)."""
    contexts = initial.shape[0]
    weight = np.full((sets, contexts), 5 * ONE // (4 * contexts), np.int64)
    return Mixer(initial.astype(np.int32), np.full(initial.shape, confidence, np.uint8), weight)


@njit(cache=True, inline="always")
def _clip(x: int, low: int, high: int) -> int:
    return low if x < low else (high if x > high else x)


@njit(cache=True, inline="always")
def code_mixed(
    encoding: bool,
    bit: int,
    slots: IntArray,
    beside: int,
    chosen: int,
    odds: IntArray,
    mixer: Mixer,
    state: IntArray,
    buffer: ByteArray,
) -> int:
    """Code one bit under the contexts `beside` (how far) those in `slots` ([contexts]), with weight set `chosen`.

    `odds` ([contexts]) is scratch. Inlined, for a call passes all arrays piece by piece and took a fifth of the time;
    indexed by unsigned numbers, for those are not asked whether they count from the end.
    """
    probability, confidence, weight = mixer
    total = 0
    for i in range(CONTEXTS):
        odds[i] = STRETCH[np.uint64(probability[i, np.uint64(slots[i] + beside)] >> 4)]
        total += weight[chosen, i] * odds[i]
    mixed = SQUASH[_clip(total >> 16, -_LIMIT, _LIMIT) + _LIMIT]
    bit = code_bit(encoding, bit, _clip(mixed, _FLOOR, ONE - _FLOOR), state, buffer)
    error = ((bit << 16) - mixed) * _LEARNING_RATE
    for i in range(CONTEXTS):
        weight[chosen, i] += (odds[i] * error + (1 << 15)) >> 16
        slot = np.uint64(slots[i] + beside)
        estimate, seen = probability[i, slot], confidence[i, slot]
        estimate += (((bit << 16) - estimate) * RATE[seen]) >> 16
        probability[i, slot] = _clip(estimate, 16, ONE - 16)
        if seen < _CONFIDENT:
            confidence[i, slot] = seen + 1
    return bit
