"""The Triton Gram matrix is the float64 product."""

import pytest
import torch
from kolmogram.kernels.gram import gram


@pytest.mark.parametrize(("m", "n"), [(100, 70), (3000, 33), (64, 64), (2, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_equals_float64(m, n, dtype, device):
    a = torch.randn(m, n, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    expected = a.double().T @ a.double()
    assert torch.allclose(gram(a, 3), expected, rtol=1e-13, atol=1e-12)


def test_transposed_view(device):
    a = torch.randn(40, 130, generator=torch.Generator().manual_seed(0)).to(device).T
    assert torch.allclose(gram(a, 3), a.double().T @ a.double(), rtol=1e-13, atol=1e-12)
