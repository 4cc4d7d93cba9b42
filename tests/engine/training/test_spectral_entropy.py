"""Values and gradients against float64 autograd through svdvals, on the matrices that break it or us."""

import math
import threading

import pytest
import torch
from kolmogram.engine.training import spectral_entropy as module
from kolmogram.engine.training.spectral_entropy import batches_by_shape, spectral_entropies


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
    entropies, (gradient,) = spectral_entropies([weight], power)
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
    (above, below), _ = spectral_entropies([weight + h * direction, weight - h * direction], power)
    _, (gradient,) = spectral_entropies([weight], power)
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
        (torch.diag(torch.tensor([1e-42, 2e-42, 0.0])), None),
        (torch.tensor([[2.0]]), 0.0),
    ],
    ids=["zero", "rank one", "identity", "denormal rank one", "denormal", "scalar"],
)
def test_degenerate_matrices_are_finite(weight, entropy, power):
    entropies, (gradient,) = spectral_entropies([weight], power)
    assert gradient.isfinite().all()
    if entropy is None:
        p = torch.tensor([1.0, 2.0], dtype=torch.float64) ** power
        p /= p.sum()
        assert entropies[0] == pytest.approx(-(p * p.log()).sum().item(), rel=1e-2)  # 1e-42 is 714 denormal units
        assert gradient[0, 0] > 1e37  # the slope goes as 1/σ
    else:
        assert entropies[0] == pytest.approx(entropy, abs=1e-12)
        assert gradient.abs().max() * weight.abs().max() < 1e-12  # a maximum or a minimum


def test_bfloat16_weights_are_read_exactly():
    weight = torch.randn(30, 40).bfloat16()
    entropies, (gradient,) = spectral_entropies([weight])
    exact_entropies, (exact,) = spectral_entropies([weight.double()])
    assert torch.equal(entropies, exact_entropies)
    assert gradient.dtype == torch.bfloat16
    torch.testing.assert_close(gradient, exact.bfloat16(), rtol=0, atol=0)


def test_low_rank_stays_low_rank():
    weight = with_spectrum([3.0, 2.0, 1.0], 20, 30)
    _, (gradient,) = spectral_entropies([weight])
    assert torch.linalg.matrix_rank(torch.cat([weight, gradient]), rtol=1e-9) == 3
    assert torch.linalg.matrix_rank(torch.cat([weight.T, gradient.T]), rtol=1e-9) == 3


def test_scale_does_not_matter():
    weight = torch.randn(20, 30, dtype=torch.float64)
    (one, big), (gradient, of_big) = spectral_entropies([weight, weight * 1e200])
    assert one == pytest.approx(big.item(), rel=1e-12)
    torch.testing.assert_close(of_big * 1e200, gradient)
    assert abs((gradient * weight).sum()) < 1e-10 * gradient.norm() * weight.norm()


def test_batches_equal_single_matrices(monkeypatch):
    weights = [torch.randn(shape) for shape in [(5, 7), (7, 5), (5, 7), (6, 6), (5, 7), (7, 5)]]
    shapes = [tuple(w.shape) for w in weights]
    monkeypatch.setattr(module, "_BATCH_ELEMENTS", 3 * 35)
    batches = list(batches_by_shape(shapes))
    assert batches == [[0, 1, 2], [4, 5], [3]]
    for batch in batches:
        entropies, gradients = spectral_entropies([weights[i] for i in batch])
        for i, entropy, gradient in zip(batch, entropies, gradients, strict=True):
            single, (single_gradient,) = spectral_entropies([weights[i]])
            assert entropy == pytest.approx(single[0].item(), rel=1e-12)
            assert gradient.shape == weights[i].shape
            torch.testing.assert_close(gradient, single_gradient)


def test_large_matrices_go_alone():
    assert list(batches_by_shape([(4096, 4096)] * 3)) == [[0], [1], [2]]


def test_threads_change_nothing(monkeypatch):
    weights = [torch.randn(20, 30) for _ in range(5)]
    where = []

    def solve(stack, power, solve=module._solve):
        where.append(threading.current_thread() is threading.main_thread())
        return solve(stack, power)

    monkeypatch.setattr(module, "_solve", solve)
    results = {}
    for threads in (1, 2):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        where.clear()
        results[threads] = spectral_entropies(weights)
        assert where == [threads == 1] * 5
    assert torch.equal(results[1][0], results[2][0])
    for one, two in zip(results[1][1], results[2][1], strict=True):
        assert torch.equal(one, two)


def test_a_stack_as_on_a_gpu_equals_its_matrices():
    stack = torch.stack([torch.randn(5, 7), torch.zeros(5, 7), torch.ones(5, 7), 1e20 * torch.randn(5, 7)])
    entropies, gradients = module._solve(stack, power=1)
    for matrix, entropy, gradient in zip(stack, entropies, gradients, strict=True):
        (single,), (single_gradient,) = spectral_entropies([matrix.double()])
        assert entropy == pytest.approx(single.item(), rel=1e-12, abs=1e-12)
        torch.testing.assert_close(gradient, single_gradient)


def test_infinite_weights_raise():
    with pytest.raises(torch.linalg.LinAlgError):
        spectral_entropies([torch.full((3, 4), math.nan)])
