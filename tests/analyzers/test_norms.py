import math

import pytest
import torch
from kolmogram.analyzers import ANALYZERS, TensorValues
from kolmogram.engine.statistics import tensor_statistics

NORMS = ANALYZERS["norms"]


def measure(*tensors):
    named = [(str(i), tensor) for i, tensor in enumerate(tensors)]
    found = [TensorValues(s.name, s.numel, NORMS.tensor(s)) for s in tensor_statistics(named, spectra=False)]
    return NORMS.columns(found)


def test_network_is_one_vector():
    columns = measure(torch.tensor([3.0, 0.0]), torch.tensor([[-4.0]]))
    assert columns == {"l2_norm": pytest.approx(5), "abs_max": 4.0, "nonfinite": 0}


def test_weights_that_are_not_finite_are_counted_and_left_out():
    columns = measure(torch.tensor([3.0, math.nan, math.inf]), torch.tensor([4.0]), torch.zeros(0))
    assert columns == {"l2_norm": pytest.approx(5), "abs_max": 4.0, "nonfinite": 2}


def test_weights_of_which_none_is_finite_have_no_norm():
    columns = measure(torch.full((3,), math.nan), torch.zeros(0), torch.tensor([-math.inf]))
    assert columns == pytest.approx({"l2_norm": math.nan, "abs_max": math.nan, "nonfinite": 4}, nan_ok=True)
    assert measure(torch.zeros(0)) == {"l2_norm": 0.0, "abs_max": 0.0, "nonfinite": 0}


def test_nothing_measured_is_a_zero_vector():
    assert NORMS.columns([]) == {"l2_norm": 0.0, "abs_max": 0.0, "nonfinite": 0}
