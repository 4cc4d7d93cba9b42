"""The syntax of one tensor: its kind, step, bases and symbols, written to a stream or read from one."""

import sys
from math import prod

import numpy as np

from ..errors import CodecError
from .arithmetic import IntArray
from .exact import is_prime
from .representation import (
    IDENTITY,
    LONGEST_BASIS,
    MAXIMUM_STEP,
    MINIMUM_STEP,
    Basis,
    BasisKind,
    Decoded,
    Kind,
    Representation,
    matrix_shape,
)
from .stream import Stream

_EXACT = Decoded(Representation(Kind.EXACT), np.zeros((0, 0)), (None, None))


class History:
    """The tensors of a file so far: what later ones can lean on.

    `room` bounds what a decoder must hold: each use of a basis takes as many entries as its matrix has.
    """

    def __init__(self, room: int = sys.maxsize) -> None:
        self.decoded: list[Decoded] = []
        self.step = 0  # of the latest tensor that has one
        self._room = room
        self._latest: dict[tuple[int, Basis], tuple[Decoded, int]] = {}

    def add(self, decoded: Decoded | None) -> None:
        """Append a tensor; None is one that is kept exactly."""
        self.decoded.append(decoded or _EXACT)
        if decoded is None or decoded.representation.symbols is None:
            return
        self.step = decoded.representation.step
        if decoded.matrix.shape[1] > 1:
            for axis in (1, 0):
                self._latest[decoded.matrix.shape[axis], decoded.representation.bases[axis]] = decoded, axis

    def take(self, entries: int) -> None:
        """Make room for that many more entries; CodecError if there is none."""
        self._room -= entries
        if self._room < 0:
            raise CodecError("it needs more memory than a file of this size may (max_weights allows more)")

    def prior(self, n: int, basis: Basis) -> IntArray:
        """Mean magnitude ([n], in sixteenths) of the latest matrix with the same basis on an axis of `n`; else −1."""
        if (n, basis) not in self._latest:
            return np.full(n, -1, np.int64)
        source, axis = self._latest[n, basis]
        symbols, m = source.representation.symbols, len(source.matrix)
        assert symbols is not None
        if source.representation.kind == Kind.FACTORS:
            sides = symbols[m:] if axis else symbols[:m]
            return 16 * np.abs(sides).sum(1) // max(symbols.shape[1], 1)
        return 16 * np.abs(symbols).sum(1 - axis) // symbols.shape[1 - axis]


def code_tensor(
    stream: Stream, code: Representation | None, shape: tuple[int, ...], history: History
) -> Representation:
    """Write `code`, or read one (None)."""
    given = code or Representation(Kind.ZERO)
    kind = Kind(stream.bits(given.kind, 2))
    if kind in (Kind.ZERO, Kind.EXACT):
        return code or Representation(kind)
    if prod(shape) == 0:
        raise CodecError("it is empty and has nothing to code")
    m, n = matrix_shape(shape)
    step = history.step + stream.integer(given.step - history.step, 3)
    if not MINIMUM_STEP <= step <= MAXIMUM_STEP:
        raise CodecError("its quantisation step is absurd")
    bases = (IDENTITY, IDENTITY)
    if n > 1:
        bases = (
            _code_basis(stream, given.bases[0], m, history),
            _code_basis(stream, given.bases[1], n, history),
        )
    symbols = given.symbols
    if kind == Kind.FACTORS:
        rank = stream.natural(0 if symbols is None else symbols.shape[1], 4)
        if rank > min(m, n):
            raise CodecError("its rank is larger than its sides")
        prior = np.concatenate([history.prior(m, bases[0]), history.prior(n, bases[1])])
        symbols = stream.matrix(np.zeros((m + n, rank), np.int64) if symbols is None else symbols, m, prior)
        return code or Representation(kind, step, 0, bases, False, symbols)
    transposed = bool(stream.bits(given.transposed, 1)) if n > 1 else False
    offset = stream.integer(given.offset, 0)
    symbols = np.zeros((m, n), np.int64) if symbols is None else symbols
    prior = history.prior(n, bases[1]) if transposed else history.prior(m, bases[0])
    symbols = stream.matrix(symbols.T if transposed else symbols, 0, prior)
    return code or Representation(kind, step, offset, bases, transposed, symbols.T if transposed else symbols)


def _code_basis(stream: Stream, basis: Basis, n: int, history: History) -> Basis:
    """Write or read the basis of an axis of length `n`."""
    number = stream.bits(basis.kind, 2)
    if number == BasisKind.IDENTITY:
        return IDENTITY
    if number not in set(BasisKind) or n > LONGEST_BASIS:
        raise CodecError(f"an axis of {n} is in a basis of kind {number}, which does not exist for it")
    history.take(n * n)
    if number in (BasisKind.FOURIER, BasisKind.MULTIPLICATIVE):
        period = n - stream.natural(n - basis.parameter, 1)
        if not 0 < period <= n:
            raise CodecError("its Fourier period does not fit")
        if number == BasisKind.MULTIPLICATIVE and not is_prime(period):
            raise CodecError(f"a multiplicative basis of {period}, which is not a prime")
        return Basis(BasisKind(number), period)
    latest = len(history.decoded) - 1
    source = latest - stream.natural(latest - basis.parameter, 2)
    axis = stream.bits(basis.axis, 1)
    if not 0 <= source <= latest or history.decoded[source].representation.symbols is None:
        raise CodecError("the basis it inherits does not exist")
    if history.decoded[source].matrix.shape[axis] != n:
        raise CodecError("the basis it inherits has another length")
    return Basis(BasisKind.INHERITED, source, axis)
