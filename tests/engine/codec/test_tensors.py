"""The syntax of one tensor: what those before it tell of it, and what a hostile file may say."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from kolmogram.engine.codec.container import decode
from kolmogram.engine.codec.header import Signature
from kolmogram.engine.codec.representation import (
    IDENTITY,
    MAXIMUM_STEP,
    Basis,
    BasisKind,
    Kind,
    Representation,
    reconstruct,
)
from kolmogram.engine.codec.stream import MixingStream
from kolmogram.engine.codec.tensors import History, code_tensor
from kolmogram.engine.errors import CodecError

from .conftest import laplace
from .test_container import with_header


def test_of_a_square_matrix_the_rows_are_the_prior():
    """In the same basis on both sides; the bytes of later tensors depend on it."""
    history = History()
    history.add(reconstruct(Representation(Kind.DIRECT, symbols=np.array([[2, 2], [0, 0]])), (2, 2), []))
    assert history.prior(2, IDENTITY).tolist() == [32, 0]


def test_the_prior_is_of_the_axis_that_the_coded_rows_are_on():
    seen = []

    class Watched(MixingStream):
        def matrix(self, symbols, split, prior):
            seen.append(prior.tolist())
            return super().matrix(symbols, split, prior)

    symbols = laplace((6, 24))
    first = Representation(Kind.DIRECT, 0, 0, (IDENTITY, Basis(BasisKind.FOURIER, 24)), False, symbols)
    stream, history = Watched(), History()
    for each in (first, first, replace(first, transposed=True)):
        code_tensor(stream, each, (6, 24), history)
        history.add(reconstruct(each, (6, 24), history.decoded))
    rows, columns = (16 * np.abs(symbols).sum(1 - axis) // symbols.shape[1 - axis] for axis in (0, 1))
    assert seen == [[-1] * 6, rows.tolist(), columns.tolist()]


def beginning(*tensors):
    """A file of tensors of which only the syntax is written: (shape, function of the stream) each."""
    stream = MixingStream()
    for _, write in tensors:
        write(stream)
    return with_header(
        [Signature(str(k), shape, torch.float32) for k, (shape, _) in enumerate(tensors)], stream.finish()
    )


def direct(stream, step=0):
    stream.bits(Kind.DIRECT, 2)
    stream.integer(step, 3)


def ones(stream):
    """A tensor of (4, 6) in its own coordinates."""
    direct(stream)
    for _ in range(2):
        stream.bits(BasisKind.IDENTITY, 2)
    stream.bits(0, 1)
    stream.integer(0, 0)
    stream.matrix(np.ones((4, 6), np.int64), 0, np.full(4, -1))


def zero(stream):
    stream.bits(Kind.ZERO, 2)


def inherits(source, axis):
    def write(stream):
        direct(stream)
        stream.bits(BasisKind.INHERITED, 2)
        stream.natural(source, 2)  # places before the latest
        stream.bits(axis, 1)

    return write


def factors(stream):
    """Five of them."""
    stream.bits(Kind.FACTORS, 2)
    stream.integer(0, 3)
    for _ in range(2):
        stream.bits(BasisKind.IDENTITY, 2)
    stream.natural(5, 4)


def far_step(stream):
    direct(stream, MAXIMUM_STEP + 1)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ([((4, 6), ones), ((5, 6), inherits(0, 0))], "inherits has another length"),
        ([((4, 6), ones), ((4, 6), inherits(1, 0))], "inherits does not exist"),
        ([((4, 6), zero), ((4, 6), inherits(0, 0))], "inherits does not exist"),
        ([((3, 4), factors)], "rank is larger than its sides"),
        ([((3, 4), far_step)], "quantisation step is absurd"),
        ([((0, 4), direct)], "nothing to code"),
    ],
    ids=["length", "no such tensor", "no symbols", "rank", "step", "empty"],
)
def test_what_a_file_says_of_a_tensor_is_checked_before_it_is_used(tensors, words):
    with pytest.raises(CodecError, match=words):
        decode(beginning(*tensors))
