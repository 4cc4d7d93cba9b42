"""The Triton moments are the reference's, all tensors in one launch."""

import pytest
import torch
from kolmogram.kernels import reference
from kolmogram.kernels.moments import moments


def assert_same(found, weights, name):
    expected = reference.moments(weights)
    assert (found.count, found.nonfinite) == (expected.count, expected.nonfinite), name
    # Sums of float64 in another order; of a spread, what is lost where the mean is large.
    for field in ("mean", "std", "abs_max", "frobenius"):
        a, b = getattr(found, field), getattr(expected, field)
        assert a == pytest.approx(b, rel=1e-10, abs=1e-14 * expected.abs_max, nan_ok=True), (name, field)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("programs", [1, 5])
def test_equal_the_reference(dtype, programs, device, cases):
    named = cases(dtype)
    for name, w, found in zip(
        named, named.values(), moments([w.to(device) for w in named.values()], programs), strict=True
    ):
        assert_same(found, w, name)


def test_a_small_spread_far_from_zero(device):
    noise = torch.randn(30_000, generator=torch.Generator().manual_seed(0))
    far, constant = 1e4 + noise, torch.full((30_000,), 0.3)
    far[0] = torch.nan
    found = moments([far.to(device), constant.to(device)], 3)
    assert_same(found[0], far, "far")
    assert found[1].std == 0.0
