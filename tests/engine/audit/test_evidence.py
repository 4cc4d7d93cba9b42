"""What is kept of a tensor to compare it by."""

import numpy as np
import torch
from kolmogram.engine.audit.evidence import _of_tensor, _sampled


def test_values_beyond_float32_have_finite_samples():
    assert np.isfinite(_sampled(torch.tensor([1e300, -1e300, 1.0], dtype=torch.float64))).all()


def test_one_entry_of_many_that_differs_is_not_overlooked():
    w = torch.zeros(100, 10)
    assert _of_tensor("w", w).constant
    w[0, 1] = 1.0  # between two of the entries that are looked at first
    assert not _of_tensor("w", w).constant
