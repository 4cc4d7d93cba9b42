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


@pytest.mark.parametrize("solve", [spectra.singular_values, spectra._on_gpu], ids=["threads", "batched"])
def test_tall_matrices_are_taken_some_rows_at_a_time(solve, monkeypatch):
    monkeypatch.setattr(spectra, "ROWS", 100)
    monkeypatch.setattr(spectra, "GPU_ROWS", 100)
    values = torch.linspace(2, 1, 64, dtype=torch.float64)
    for shape in ((200, 64), (64, 200)):
        torch.testing.assert_close(solve([with_spectrum(*shape, values)])[0], values)


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


def symmetric(*shape: int) -> torch.Tensor:
    a = torch.randn(*shape, shape[-1], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return a + a.mT


@pytest.mark.parametrize("shapes", [[(3, 8)], [(1, 8)], [(2, 5), (1, 8), (1, 300), (2, 300)]])
def test_eigenvectors_of_several_stacks(shapes):
    stacks = [symmetric(*shape) for shape in shapes]
    for stack, (values, vectors) in zip(stacks, spectra.eigh(stacks), strict=True):
        torch.testing.assert_close(values, torch.linalg.eigvalsh(stack))
        torch.testing.assert_close(vectors * values[:, None, :] @ vectors.mT, stack)


@pytest.mark.parametrize("number", [1, 2])
def test_eigenvectors_of_what_is_not_finite_raise(number):
    with pytest.raises(torch.linalg.LinAlgError):
        spectra.eigh([torch.full((number, 4, 4), torch.nan, dtype=torch.float64)])


def test_threads_take_small_eigenproblems_and_several_on_the_cpu():
    def taken(device: str, number: int, side: int) -> bool:
        return spectra._for_threads(torch.empty(number, side, side, device=device))

    assert taken("cpu", 1, 128)
    assert taken("meta", 1, 128)  # as a GPU
    assert taken("cpu", 2, 512)
    assert not taken("cpu", 1, 512)
    assert not taken("meta", 2, 512)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_eigenvectors_come_back_to_the_gpu():
    stacks = [symmetric(3, 8).cuda(), symmetric(1, 300).cuda()]
    for stack, (values, vectors) in zip(stacks, spectra.eigh(stacks), strict=True):
        assert values.device == vectors.device == stack.device
        torch.testing.assert_close(vectors * values[:, None, :] @ vectors.mT, stack)
