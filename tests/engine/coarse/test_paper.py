"""The authors' method, in what makes its sizes theirs."""

import math

import torch
from kolmogram.engine.coarse import complexity, paper
from kolmogram.engine.coarse.paper import _quantised


def test_no_zero_has_a_sign():
    assert not torch.signbit(_quantised(torch.tensor([-0.2, 0.2, -0.0]), 1.0)).any()


def test_where_no_trial_is_feasible_there_is_no_size(monkeypatch):
    monkeypatch.setattr(paper, "GUIDED_TRIALS", 1)
    exact = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    found = complexity({"w": exact}, lambda p: (p["w"] != exact).float().mean(), 1e-3, method="paper")
    assert "no trial" in found.status
    assert math.isnan(found.bytes)
    assert math.isnan(found.loss)
