"""The coded stream of a .kolmo file: numbers and symbol matrices, written and read by the same calls.

A method given a value writes it when the stream encodes; when it decodes, the value is ignored and the coded one
returned. Numbers always go through the arithmetic coder; what becomes of matrices is what coders differ in.
"""

from abc import ABC, abstractmethod
from math import log2

import numpy as np

from ..errors import CodecError
from . import arithmetic
from .arithmetic import HIGH, LOW, POSITION, SLACK, IntArray
from .symbols import code_matrix, new_model

_LARGEST = 1 << 40  # what the Exp-Golomb codes reach


class Stream(ABC):
    """An encoder (without data) or a decoder (of `data`, which may be anything)."""

    def __init__(self, data: bytes | None = None) -> None:
        self.encoding = data is None
        self._state, self._buffer = arithmetic.new_encoder() if data is None else arithmetic.new_decoder(data)

    def bits(self, value: int, width: int) -> int:
        """A number below 2^width, each bit at full price."""
        self._prepare()
        value = int(value)  # numba takes its time over enumerations, and compiles the coder for each of them
        return arithmetic.code_bits(self.encoding, value, width, self._state, self._buffer)

    def natural(self, value: int, order: int) -> int:
        """A non-negative number, cheap below 2^order."""
        if value >= _LARGEST:
            raise CodecError(f"{value} is too large a number for a .kolmo file")
        self._prepare()
        return arithmetic.code_exp_golomb(self.encoding, value, order, self._state, self._buffer)

    def integer(self, value: int, order: int) -> int:
        """A signed number, cheap near 0."""
        folded = self.natural(2 * value if value >= 0 else -2 * value - 1, order)
        return folded // 2 if folded % 2 == 0 else -(folded + 1) // 2

    @abstractmethod
    def matrix(self, symbols: IntArray, split: int, prior: IntArray) -> IntArray:
        """Integers below 2^40 ([rows, columns] int64), coded column by column.

        Rows from `split` on are another factor than those above (0: one part); `prior` ([rows]) is how large each row
        was in an earlier matrix, in sixteenths (−1: unknown). When decoding, `symbols` only gives the shape.
        """

    def finish(self) -> bytes:
        """The encoded bytes."""
        return arithmetic.finish(self._state, self._buffer)

    @property
    def position(self) -> float:
        """Bytes coded so far, to a fraction of a bit."""
        width = int(self._state[HIGH]) - int(self._state[LOW]) + 1
        return int(self._state[POSITION]) + (32 - log2(width)) / 8

    def _prepare(self) -> None:
        """Make room for a number, or see whether there can be one."""
        if self.encoding:
            self._buffer = arithmetic.reserve(self._state, self._buffer, 16)
        elif self._state[POSITION] > self._buffer.size + SLACK:
            raise CodecError("the data end too early")

    def _checked(self, symbols: IntArray) -> IntArray:
        """The symbols as they will be coded: contiguous, writable, none too large."""
        symbols = np.ascontiguousarray(symbols, dtype=np.int64)
        if self.encoding and symbols.size and max(symbols.max(), -symbols.min()) >= _LARGEST:
            raise CodecError("its quantisation step is too fine: a symbol passes 2^40")
        return symbols


class MixingStream(Stream):
    """Symbols under mixed contexts, by the arithmetic coder: the smallest files, and what complexity is counted in."""

    def __init__(self, data: bytes | None = None) -> None:
        super().__init__(data)
        self._model = new_model()

    def matrix(self, symbols: IntArray, split: int, prior: IntArray) -> IntArray:
        symbols = self._checked(symbols)
        self._buffer = code_matrix(self.encoding, symbols, split, prior, self._model, self._state, self._buffer)
        self._prepare()
        return symbols
