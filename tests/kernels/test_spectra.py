"""Singular values by shape, as close as promised, whatever the shape or the spectrum."""

import pytest
import torch
from kolmogram.kernels import spectra


def with_spectrum(m: int, n: int, values: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    u = torch.linalg.qr(torch.randn(m, values.numel(), dtype=torch.float64, generator=generator))[0]
    v = torch.linalg.qr(torch.randn(n, values.numel(), dtype=torch.float64, generator=generator))[0]
    return (u * values) @ v.T


@pytest.mark.parametrize("shape", [(64, 64), (200, 64), (64, 200)])
@pytest.mark.parametrize("decades", [0, 4, 6, 9])
@pytest.mark.parametrize("solve", [spectra.singular_values, spectra._on_gpu], ids=["threads", "batched"])
def test_relative_precision(shape, decades, solve):
    values = torch.logspace(0, -decades, 64, dtype=torch.float64)
    found = solve([with_spectrum(*shape, values)])[0]
    resolved = values > 1e-8
    assert ((found / values - 1).abs()[resolved] < 1e-5).all()


def test_batches_keep_their_order():
    generator = torch.Generator().manual_seed(0)
    shapes = [(5, 3), (8, 8), (5, 3), (1, 7), (3, 5), (8, 8), (0, 4), (5, 3)]
    matrices = [torch.randn(*shape, generator=generator) for shape in shapes]
    matrices[5] = matrices[5].bfloat16()
    found = spectra.singular_values(matrices)
    for matrix, values in zip(matrices, found, strict=True):
        expected = torch.linalg.svdvals(matrix.double())
        assert torch.allclose(values, expected, rtol=1e-7)
        assert values.dtype == torch.float64


@pytest.mark.parametrize("solve", [spectra.singular_values, spectra._on_gpu], ids=["threads", "batched"])
def test_rank_deficient_and_not_finite(solve):
    low_rank = torch.outer(torch.arange(1.0, 7.0), torch.arange(1.0, 5.0))
    spoiled = low_rank.clone()
    spoiled[0, 0] = torch.nan
    zero, first, second = solve([torch.zeros(6, 4), low_rank, spoiled])
    assert torch.equal(zero, torch.zeros(4, dtype=torch.float64))
    assert first[1] < 1e-12 * first[0]
    assert second.isnan().all()
