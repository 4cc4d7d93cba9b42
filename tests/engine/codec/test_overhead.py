"""A file is hardly longer than the information that its models say it holds, which is counted here beside the coder."""

from math import log2

import numpy as np
import pytest
import torch
from kolmogram.engine.codec import arithmetic, mixing, plain, stream, symbols
from kolmogram.engine.codec.coders import Coder
from kolmogram.engine.codec.container import Entry, encode
from kolmogram.engine.codec.header import Signature
from kolmogram.engine.codec.representation import Kind, Representation

BIT_BY_BIT = {
    arithmetic: ("code_bits", "code_exp_golomb"),
    mixing: ("code_mixed",),
    symbols: ("code_matrix", "code_rest", "_code_adaptive"),
}


@pytest.fixture
def information(monkeypatch):
    """Bits: −log₂ of the probability of everything that is coded. The compiled functions run as plain Python."""
    bits = [0.0]
    code_bit, code_symbols = arithmetic.code_bit, plain.AnsStream._ans

    def counted_bit(encoding, bit, one, state, buffer):
        bits[0] -= log2((one if bit else 65536 - one) / 65536)
        return code_bit(encoding, bit, one, state, buffer)

    def counted_symbols(self, places, model):
        table = plain._models()[0].index(model)
        bits[0] -= np.log2(plain.tables()[table][places] / 65536).sum()
        return code_symbols(self, places, model)

    interpreted = {name: getattr(home, name).py_func for home, names in BIT_BY_BIT.items() for name in names}
    for name, function in {**interpreted, "code_bit": counted_bit}.items():
        for user in (arithmetic, mixing, symbols, stream):
            if hasattr(user, name):
                monkeypatch.setattr(user, name, function)
    monkeypatch.setattr(plain.AnsStream, "_ans", counted_symbols)
    return bits


@pytest.mark.parametrize("coder", [Coder.MIXING, Coder.ANS])
@pytest.mark.parametrize("scale", [0.1, 1.0, 8.0])
def test_at_most_two_per_cent_and_64_bytes(information, coder, scale):
    """The 64 bytes hold the frame and what the tensors are called."""
    rng = np.random.default_rng(0)
    entries = []
    for k, shape in enumerate([(60, 40), (40, 30), (30, 1)]):
        matrix = np.rint(rng.laplace(scale=scale, size=shape)).astype(np.int64)
        code = Representation(Kind.DIRECT, k - 30, symbols=matrix)
        entries.append(Entry(Signature(f"layers.{k}.weight", shape, torch.float32), code))
    coded = len(encode(entries, coder=coder).data)
    assert information[0] / 8 < coded <= 1.02 * information[0] / 8 + 64
