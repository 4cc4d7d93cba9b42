"""Other coders of the same symbols: fast ANS, and general-purpose compressors to compare with.

Their symbols lie before the numbers of the stream: length (varint) | symbols | numbers.
"""

import bz2
import io
from abc import abstractmethod
from functools import cache
from typing import IO, Any

import constriction
import numpy as np
import zstandard
from numpy.typing import NDArray

from ..errors import CodecError
from .arithmetic import IntArray
from .header import Reader, varint
from .stream import Stream

_stream: Any = constriction.stream  # pyright: ignore[reportAttributeAccessIssue]: it has no type stubs


class PlainStream(Stream):
    """A stream whose symbols are apart from its numbers."""

    def __init__(self, data: bytes | None = None) -> None:
        reader = Reader(data or b"\0")
        self._open(reader.take(reader.varint()))
        super().__init__(None if data is None else reader.rest())

    @abstractmethod
    def _open(self, coded: bytes) -> None:
        """Make ready to decode the symbols in `coded`; nothing when encoding."""

    @abstractmethod
    def _close(self) -> bytes:
        """The coded symbols."""

    def finish(self) -> bytes:
        coded = self._close()
        return varint(len(coded)) + coded + super().finish()


TABLES = 20  # two an octave of mean magnitude, from 1/64 to 11.3
_WIDEST_MEAN = 2.0**3.5
_LIMIT = 63  # magnitudes from here on escape
_MOST_LOW_BITS = 20


@cache
def tables() -> NDArray[np.int64]:
    """Two-sided geometric distributions of −63…63 (the ends stand for all beyond), [tables, 127] in 1/65536.

    Rounded values of smooth functions, as in `mixing`: a test pins them.
    """
    magnitude = np.abs(np.arange(-_LIMIT, _LIMIT + 1))
    mean = 2.0 ** (np.arange(TABLES) / 2 - 6)
    ratio = (np.sqrt(1 + mean * mean) - 1) / mean
    chance = ((1 - ratio) / (1 + ratio))[:, None] * ratio[:, None] ** magnitude
    counts = np.maximum(np.rint(65536 * chance), 1).astype(np.int64)
    counts[:, _LIMIT] += 65536 - counts.sum(1)
    return counts


@cache
def _models() -> tuple[list[Any], NDArray[np.float64]]:
    """The tables as models, and the bits that each symbol costs under them ([tables, 127])."""
    chances = tables() / 65536  # exact, and all that is known to a model: its integers are the same everywhere
    return [_stream.model.Categorical(row, perfect=False) for row in chances], -np.log2(chances)


class AnsStream(PlainStream):
    """Asymmetric numeral systems (Duda 2009, by `constriction`): each column under the geometric table that suits it.

    A column (each of its two parts, where it has two) names its class: 0 for none but zeros, else 1 + table + 2·(low
    bits), which are coded as they are.
    """

    def _open(self, coded: bytes) -> None:
        self._pending: list[tuple[NDArray[np.int32], Any]] = []
        self._bits = 0.0
        try:
            if len(coded) % 4:
                raise ValueError("not whole words")
            self._coder = _stream.stack.AnsCoder(np.frombuffer(coded, "<u4").astype(np.uint32))
        except ValueError as error:
            raise CodecError(f"the symbols of the .kolmo file do not unfold ({error}): it is damaged") from None

    def _close(self) -> bytes:
        coder = _stream.stack.AnsCoder()
        for symbols, model in reversed(self._pending):  # a stack: what is decoded first goes in last
            coder.encode_reverse(symbols, model)
        return coder.get_compressed().astype("<u4").tobytes()

    @property
    def position(self) -> float:
        return super().position + self._bits / 8

    def matrix(self, symbols: IntArray, split: int, prior: IntArray) -> IntArray:
        symbols = self._checked(symbols)
        latest = [0, 0]
        for column in symbols.T:
            for part, values in enumerate((column[:split], column[split:]) if split else (column,)):
                latest[part] += self.integer(_suitable(values) - latest[part], 1)
                values[:] = self._part(values, latest[part])
        return symbols

    def _part(self, values: IntArray, suit: int) -> IntArray:
        """Code the `values` of one part of a column under class `suit`."""
        if suit == 0:
            return np.zeros_like(values)
        low_bits = max(0, (suit - TABLES + 1) // 2)
        table = suit - 1 - 2 * low_bits
        if not (0 <= table < TABLES and low_bits <= _MOST_LOW_BITS):
            raise CodecError("it names a distribution that does not exist")
        models, costs = _models()
        high = values >> low_bits
        places = self._ans(np.clip(high, -_LIMIT, _LIMIT) + _LIMIT, models[table])
        self._bits += float(costs[table][places].sum()) + low_bits * len(values)
        low = self._ans(values & ((1 << low_bits) - 1), _stream.model.Uniform(1 << low_bits)) if low_bits else 0
        found = places - _LIMIT
        for index in np.flatnonzero(np.abs(found) == _LIMIT):
            beyond = self.natural(abs(int(high[index])) - _LIMIT if self.encoding else 0, 4)
            found[index] += beyond if found[index] > 0 else -beyond
        return (found << low_bits) + low

    def _ans(self, symbols: IntArray, model: Any) -> IntArray:
        if self.encoding:
            self._pending.append((symbols.astype(np.int32), model))
            return symbols
        return self._coder.decode(model, len(symbols)).astype(np.int64)


def _suitable(values: IntArray) -> int:
    """The class under which `values` cost least."""
    if not values.any():
        return 0
    excess = np.log2(np.abs(values).mean() / _WIDEST_MEAN)
    low_bits = int(np.clip(np.ceil(excess), 0, _MOST_LOW_BITS))
    histogram = np.bincount(np.clip(values >> low_bits, -_LIMIT, _LIMIT) + _LIMIT, minlength=2 * _LIMIT + 1)
    first = TABLES - 2 if low_bits else 0
    return 1 + first + int((_models()[1][first:] @ histogram).argmin()) + 2 * low_bits


_WIDTHS = ("i1", "<i2", "<i4", "<i8")


class BytesStream(PlainStream):
    """Symbols as 1 to 8 bytes each, column by column, under a general-purpose compressor."""

    def _open(self, coded: bytes) -> None:
        self._raw = bytearray()
        self._reader = self._decompressor(coded)

    def _close(self) -> bytes:
        return self._compress(bytes(self._raw))

    @property
    def position(self) -> float:
        return super().position + len(self._raw)

    def matrix(self, symbols: IntArray, split: int, prior: IntArray) -> IntArray:
        symbols = self._checked(symbols)
        largest = int(np.abs(symbols).max()) if self.encoding else 0
        width = self.bits(sum(largest >> bits > 0 for bits in (7, 15, 31)), 2)
        if self.encoding:
            self._raw += symbols.T.astype(_WIDTHS[width]).tobytes()
            return symbols
        try:
            raw = self._reader.read(symbols.size << width)
        except (zstandard.ZstdError, OSError, EOFError) as error:
            raise CodecError(f"its symbols do not unfold ({error})") from None
        if len(raw) < symbols.size << width:
            raise CodecError("the data end too early")
        return np.frombuffer(raw, _WIDTHS[width]).astype(np.int64).reshape(symbols.shape[::-1]).T

    @abstractmethod
    def _compress(self, raw: bytes) -> bytes: ...

    @abstractmethod
    def _decompressor(self, coded: bytes) -> IO[bytes]: ...


class ZstdStream(BytesStream):
    """zstd at its level 19 (RFC 8878)."""

    def _compress(self, raw: bytes) -> bytes:
        return zstandard.ZstdCompressor(level=19, write_content_size=False).compress(raw)

    def _decompressor(self, coded: bytes) -> IO[bytes]:
        return zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(coded)


class Bzip2Stream(BytesStream):
    """bzip2 at its level 9: what the authors of the measure count bytes with."""

    def _compress(self, raw: bytes) -> bytes:
        return bz2.compress(raw)

    def _decompressor(self, coded: bytes) -> IO[bytes]:
        return bz2.BZ2File(io.BytesIO(coded))
