"""The arithmetic-coded stream of a .kolmo file: numbers and symbol matrices, written and read by the same calls.

A method given a value writes it when the stream encodes; when it decodes, the value is ignored and the coded one
returned.
"""

from math import log2

import numpy as np

from . import arithmetic
from .arithmetic import HIGH, LOW, POSITION, IntArray
from .symbols import code_matrix, new_model


class Stream:
    """An encoder (without data) or a decoder (of `data`)."""

    def __init__(self, data: bytes | None = None) -> None:
        self.encoding = data is None
        self._state, self._buffer = arithmetic.new_encoder() if data is None else arithmetic.new_decoder(data)
        self._model = new_model()

    def bits(self, value: int, width: int) -> int:
        """A number below 2^width, each bit at full price."""
        self._buffer = arithmetic.reserve(self._state, self._buffer, 16)
        return arithmetic.code_bits(self.encoding, value, width, self._state, self._buffer)

    def natural(self, value: int, order: int) -> int:
        """A non-negative number, cheap below 2^order."""
        self._buffer = arithmetic.reserve(self._state, self._buffer, 16)
        return arithmetic.code_exp_golomb(self.encoding, value, order, self._state, self._buffer)

    def integer(self, value: int, order: int) -> int:
        """A signed number, cheap near 0."""
        folded = self.natural(2 * value if value >= 0 else -2 * value - 1, order)
        return folded // 2 if folded % 2 == 0 else -(folded + 1) // 2

    def matrix(self, symbols: IntArray, split: int, prior: IntArray) -> IntArray:
        """Integers ([rows, columns] int64, overwritten when decoding); see `symbols.code_matrix`."""
        symbols = np.ascontiguousarray(symbols, dtype=np.int64)
        self._buffer = code_matrix(self.encoding, symbols, split, prior, self._model, self._state, self._buffer)
        return symbols

    def finish(self) -> bytes:
        """The encoded bytes."""
        return arithmetic.finish(self._state, self._buffer)

    @property
    def position(self) -> float:
        """Bytes coded so far, to a fraction of a bit."""
        width = int(self._state[HIGH]) - int(self._state[LOW]) + 1
        return int(self._state[POSITION]) + (32 - log2(width)) / 8
