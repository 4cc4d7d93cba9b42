"""The authors' method, in what makes its sizes theirs."""

import torch
from kolmogram.engine.coarse.paper import _quantised


def test_no_zero_has_a_sign():
    assert not torch.signbit(_quantised(torch.tensor([-0.2, 0.2, -0.0]), 1.0)).any()
