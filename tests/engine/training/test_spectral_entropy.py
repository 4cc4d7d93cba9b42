"""Values and gradients against float64 autograd through svdvals, on the matrices that break it or us."""

import math

import pytest
import torch
from kolmogram.engine.training import spectral_entropy as module
from kolmogram.engine.training.spectral_entropy import batches_by_shape, spectra


def entropy_by_svd(matrix, power):
    """The definition, differentiable; singular values below the resolution that we promise count as zero."""
    sigma = torch.linalg.svdvals(matrix)
    sigma = sigma[sigma > 2e-7 * sigma[0]] ** power
    p = sigma / sigma.sum()
    return -(p * p.log()).sum()


def with_spectrum(sigma, m, n):
    u = torch.linalg.qr(torch.randn(m, len(sigma), dtype=torch.float64))[0]
    v = torch.linalg.qr(torch.randn(n, len(sigma), dtype=torch.float64))[0]
    return u * torch.as_tensor(sigma, dtype=torch.float64) @ v.mT


MATRICES = {
    "random": lambda: torch.randn(40, 40),
    "tall": lambda: torch.randn(90, 30),
    "wide": lambda: torch.randn(30, 90),
    "one row": lambda: torch.randn(1, 7),
    "rank deficient": lambda: with_spectrum(torch.rand(9) + 0.1, 40, 50),
    "zero rows": lambda: torch.cat([torch.randn(20, 40), torch.zeros(20, 40)]),
    "repeated values": lambda: with_spectrum([3.0] * 10 + [1.0] * 10 + [0.1] * 10, 30, 35),
    "repeated and rank deficient": lambda: with_spectrum([2.0] * 5 + [1.0] * 5, 30, 35),
    "graded": lambda: with_spectrum(torch.logspace(0, -5, 40), 40, 60),
    "tiny tail": lambda: with_spectrum([1.0] * 5 + [1e-5] * 30, 40, 40),
    "very small": lambda: torch.randn(20, 30) * 1e-30,
    "very large": lambda: torch.randn(20, 30) * 1e30,
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("name", MATRICES)
def test_value_and_gradient_of_float32_weights(name, power):
    weight = MATRICES[name]().float()
    exact = weight.double().requires_grad_()
    expected = entropy_by_svd(exact, power)
    (expected_gradient,) = torch.autograd.grad(expected, exact)
    entropies, (gradient,), _ = spectra([weight], power)
    assert gradient.dtype == torch.float32
    assert entropies[0].item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-12)
    error = (gradient.double() - expected_gradient).norm()
    assert error <= 1e-4 * expected_gradient.norm() + 1e-12 / weight.abs().max()


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("name", ["random", "tall", "wide", "repeated values"])
def test_gradient_equals_finite_differences(name, power):
    weight = MATRICES[name]().double()
    direction = torch.randn_like(weight)
    h = 1e-5 * weight.norm() / direction.norm()
    (above, below), _, _ = spectra([weight + h * direction, weight - h * direction], power)
    _, (gradient,), _ = spectra([weight], power)
    slope = (gradient * direction).sum().item()
    assert (above - below).item() / (2 * h.item()) == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize(
    ("weight", "entropy"),
    [
        (torch.zeros(4, 6), 0.0),
        (torch.outer(torch.arange(1.0, 5), torch.arange(1.0, 7)), 0.0),
        (torch.eye(5), math.log(5)),
        (torch.full((3, 3), 1e-45), 0.0),  # denormal
        (torch.diag(torch.tensor([1e-42, 2e-42, 0.0])), 0.0),
        (torch.tensor([[2.0]]), 0.0),
    ],
    ids=["zero", "rank one", "identity", "denormal rank one", "denormal", "scalar"],
)
def test_degenerate_matrices_are_finite(weight, entropy, power):
    bases = None
    for _ in range(2):  # the second time in a held basis
        entropies, (gradient,), bases = spectra([weight], power, bases)
        assert entropies[0] == pytest.approx(entropy, abs=1e-6)
        assert gradient.abs().max() * weight.abs().max() < 1e-6  # a maximum or a minimum
        bases = bases.float()


def test_bfloat16_weights_are_read_exactly():
    weight = torch.randn(30, 40).bfloat16()
    entropies, (gradient,), _ = spectra([weight])
    exact_entropies, (exact,), _ = spectra([weight.double()])
    assert torch.equal(entropies, exact_entropies)
    assert gradient.dtype == torch.bfloat16
    torch.testing.assert_close(gradient, exact.bfloat16(), rtol=0, atol=0)


def test_low_rank_stays_low_rank():
    weight = with_spectrum([3.0, 2.0, 1.0], 20, 30)
    _, (gradient,), _ = spectra([weight])
    assert torch.linalg.matrix_rank(torch.cat([weight, gradient]), rtol=1e-9) == 3
    assert torch.linalg.matrix_rank(torch.cat([weight.T, gradient.T]), rtol=1e-9) == 3


def test_scale_does_not_matter():
    weight = torch.randn(20, 30, dtype=torch.float64)
    (one, big), (gradient, of_big), _ = spectra([weight, weight * 1e100])
    assert one == pytest.approx(big.item(), rel=1e-12)
    torch.testing.assert_close(of_big * 1e100, gradient)
    assert abs((gradient * weight).sum()) < 1e-10 * gradient.norm() * weight.norm()


def test_batches_equal_single_matrices(monkeypatch):
    weights = [torch.randn(shape) for shape in [(5, 7), (7, 5), (5, 7), (6, 6), (5, 7), (7, 5)]]
    shapes = [tuple(w.shape) for w in weights]
    monkeypatch.setattr(module, "_BATCH_ELEMENTS", 3 * 35)
    batches = list(batches_by_shape(shapes))
    assert batches == [[0, 1, 2], [4, 5], [3]]
    for batch in batches:
        entropies, gradients, _ = spectra([weights[i] for i in batch])
        for i, entropy, gradient in zip(batch, entropies, gradients, strict=True):
            single, (single_gradient,), _ = spectra([weights[i]])
            assert entropy == pytest.approx(single[0].item(), rel=1e-12)
            assert gradient.shape == weights[i].shape
            torch.testing.assert_close(gradient, single_gradient)


def test_large_matrices_go_alone():
    assert list(batches_by_shape([(4096, 4096)] * 3)) == [[0], [1], [2]]


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("name", MATRICES)
def test_a_held_basis_is_exact_while_the_weights_are_unchanged(name, power):
    weight = MATRICES[name]().float()
    entropies, (gradient,), bases = spectra([weight], power)
    again, (gradient_again,), same = spectra([weight], power, bases.float())
    assert same.dtype == torch.float32
    assert again[0].item() == pytest.approx(entropies[0].item(), rel=1e-5, abs=1e-5)
    tail = 0.1 if name in ("graded", "tiny tail") else 1e-3  # float32 products blur what is below 10⁻⁴ σ₁
    assert (gradient_again - gradient).norm() <= tail * gradient.norm() + 1e-12 / weight.abs().max()


def drifted(distance):
    """A matrix some way from where its basis was computed: errors of value and gradient in the held basis."""
    weight = torch.randn(30, 50, dtype=torch.float64)
    bases = spectra([weight]).bases
    weight = weight + distance * torch.randn(30, 50, dtype=torch.float64)
    exact_entropy, (exact,), _ = spectra([weight])
    entropy, (gradient,), _ = spectra([weight], 1, bases)
    return abs(entropy - exact_entropy).item(), ((gradient - exact).norm() / exact.norm()).item()


def test_drift_changes_the_value_in_second_order_and_the_gradient_in_first():
    (value, gradient), (value_near, gradient_near) = drifted(1e-4), drifted(1e-5)
    assert value_near < 0.03 * value < 1e-6
    assert gradient_near < 0.3 * gradient < 1e-3


def test_in_a_held_basis_the_gradient_is_that_of_the_value():
    basis = torch.linalg.qr(torch.randn(20, 20, dtype=torch.float64))[0]
    weight = torch.randn(20, 30, dtype=torch.float64, requires_grad=True)
    norms = (basis @ weight).norm(dim=1)
    p = norms / norms.sum()
    expected = -(p * p.log()).sum()
    entropies, (gradient,), _ = spectra([weight.detach()], 1, basis[None])
    assert entropies[0].item() == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, weight)[0])


def test_infinite_weights_raise():
    with pytest.raises(torch.linalg.LinAlgError):
        spectra([torch.full((3, 4), math.nan)])
