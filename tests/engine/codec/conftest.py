import numpy as np
import pytest
import torch
from kolmogram.engine.codec.coders import Coder
from kolmogram.engine.codec.container import Entry, encode, exact_code
from kolmogram.engine.codec.header import Signature
from kolmogram.engine.codec.representation import IDENTITY, ZERO, Basis, BasisKind, Kind, Representation


def laplace(shape, seed=0, scale=1.0):
    return np.rint(np.random.default_rng(seed).laplace(scale=scale, size=shape)).astype(np.int64)


def entry(name, shape, code, dtype=torch.float32):
    return Entry(Signature(name, shape, dtype), code)


@pytest.fixture(scope="session")
def network():
    """One tensor of every kind, with every kind of basis, in the order of a file."""
    fourier, inherited = Basis(BasisKind.FOURIER, 31), Basis(BasisKind.INHERITED, 0, 1)
    direct = Representation(Kind.DIRECT, -20, 0, (fourier, IDENTITY), True, laplace((33, 24)))
    factors = Representation(Kind.FACTORS, 5, 0, (IDENTITY, inherited), False, np.maximum(laplace((64, 5), 1, 2), -3))
    factors.symbols[0] = 1  # every component has a left side
    chained = Representation(
        Kind.DIRECT, -9, 0, (inherited, Basis(BasisKind.INHERITED, 1, 0)), False, laplace((24, 40), 2)
    )
    return [
        entry("embedding.weight", (33, 24), direct),
        entry("layers.0.up.weight", (40, 24), factors, torch.bfloat16),
        entry("layers.0.down.weight", (24, 40), chained, torch.float16),
        entry("conv.weight", (8, 3, 5, 5), Representation(Kind.DIRECT, 0, symbols=laplace((8, 75), 3)), torch.float64),
        entry("norm.weight", (24,), Representation(Kind.DIRECT, -40, offset=32, symbols=laplace((24, 1), 4))),
        entry("scalar", (), Representation(Kind.DIRECT, 3, symbols=laplace((1, 1), 5))),
        entry("dead.weight", (1000, 1000), ZERO),
        entry("empty", (0, 7), ZERO),
        entry("steps", (2,), exact_code(torch.tensor([7, -1])), torch.int64),
        entry("mask", (3,), exact_code(torch.tensor([True, False, True])), torch.bool),
    ]


@pytest.fixture(scope="session")
def files(network):
    """The same small network by every coder."""
    small = [e for e in network if e.signature.name != "dead.weight"]
    return {coder: encode(small, coder=coder).data for coder in Coder}
