"""Values and gradients against float64 autograd through svdvals, on the matrices that break it or us."""

import copy
import math

import pytest
import torch
from kolmogram.engine.training import spectral_entropy as module
from kolmogram.engine.training.spectral_entropy import batches, quadratics, spectra
from torch.utils._python_dispatch import TorchDispatchMode


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
    entropies, (gradient,) = spectra([weight], power)
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
    (above, below), _ = spectra([weight + h * direction, weight - h * direction], power)
    _, (gradient,) = spectra([weight], power)
    slope = (gradient * direction).sum().item()
    assert (above - below).item() / (2 * h.item()) == pytest.approx(slope, rel=1e-5)


DEGENERATE = {
    "zero": (torch.zeros(4, 6), 0.0),
    "rank one": (torch.outer(torch.arange(1.0, 5), torch.arange(1.0, 7)), 0.0),
    "identity": (torch.eye(5), math.log(5)),
    "denormal rank one": (torch.full((3, 3), 1e-45), 0.0),
    "denormal": (torch.diag(torch.tensor([1e-42, 2e-42, 0.0])), 0.0),
    "scalar": (torch.tensor([[2.0]]), 0.0),
}


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_matrices_are_finite(name, power):
    weight, entropy = DEGENERATE[name]
    (exact,), (gradient,) = spectra([weight], power)
    (approximate,), (approximate_gradient,) = quadratics([weight], power)([weight])
    for value, slope in ((exact, gradient), (approximate, approximate_gradient)):
        assert value == pytest.approx(entropy, abs=1e-6)
        assert slope.abs().max() * weight.abs().max() < 1e-5  # a maximum or a minimum


def test_bfloat16_weights_are_read_exactly():
    weight = torch.randn(30, 40).bfloat16()
    entropies, (gradient,) = spectra([weight])
    exact_entropies, (exact,) = spectra([weight.double()])
    assert torch.equal(entropies, exact_entropies)
    assert gradient.dtype == torch.bfloat16
    torch.testing.assert_close(gradient, exact.bfloat16(), rtol=0, atol=0)


def test_low_rank_stays_low_rank():
    weight = with_spectrum([3.0, 2.0, 1.0], 20, 30)
    _, (gradient,) = spectra([weight])
    assert torch.linalg.matrix_rank(torch.cat([weight, gradient]), rtol=1e-9) == 3
    assert torch.linalg.matrix_rank(torch.cat([weight.T, gradient.T]), rtol=1e-9) == 3


def test_scale_does_not_matter():
    weight = torch.randn(20, 30, dtype=torch.float64)
    (one, big), (gradient, of_big) = spectra([weight, weight * 1e100])
    assert one == pytest.approx(big.item(), rel=1e-12)
    torch.testing.assert_close(of_big * 1e100, gradient)
    assert abs((gradient * weight).sum()) < 1e-10 * gradient.norm() * weight.norm()


MIXED = [(5, 7), (7, 5), (5, 7), (6, 6), (5, 7), (7, 5)]


def mixed():
    """Several of some shapes, one of another, one of another dtype."""
    return [*(torch.randn(shape) for shape in MIXED), torch.randn(5, 7, dtype=torch.float64)]


def test_batches_have_equal_shapes_together_and_are_limited(monkeypatch):
    assert list(batches(mixed())) == [[0, 2, 4, 1, 5, 3, 6]]
    monkeypatch.setattr(module, "_BATCH_ELEMENTS", 2 * 35 + 36)
    assert list(batches(mixed())) == [[0, 2, 4], [1, 5, 3], [6]]
    monkeypatch.setattr(module, "_BATCH_ELEMENTS", 10)
    assert list(batches(mixed())) == [[i] for i in (0, 2, 4, 1, 5, 3, 6)]


@pytest.mark.parametrize("order", [[0, 2, 4, 1, 5, 3, 6], range(7)], ids=["stacked", "as they come"])
@pytest.mark.parametrize("solve", [spectra, lambda given: quadratics(given)(given)], ids=["spectra", "quadratics"])
def test_together_equals_one_by_one(solve, order):
    weights = mixed()
    weights = [weights[i] for i in order]
    before = copy.deepcopy(weights)
    entropies, gradients = solve(weights)
    for weight, entropy, gradient, unchanged in zip(weights, entropies, gradients, before, strict=True):
        (single,), (single_gradient,) = solve([weight])
        assert entropy == pytest.approx(single.item(), rel=1e-6)
        assert (gradient.shape, gradient.dtype) == (weight.shape, weight.dtype)
        torch.testing.assert_close(gradient, single_gradient)
        assert torch.equal(weight, unchanged)


class Operations(TorchDispatchMode):
    """Counts what is launched: no views."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def test_more_matrices_of_a_shape_take_no_more_operations_and_one_alone_is_not_copied():
    counts = []
    for number in (2, 9):
        weights = [torch.randn(6, 8) for _ in range(number)]
        quadratic = quadratics(weights)
        with Operations() as operations:
            quadratic(weights)
        counts.append(operations.count)
    assert counts[0] == counts[1] <= 6
    (stack,) = module._stacks([weights[0]])
    assert stack.data_ptr() == weights[0].data_ptr()


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("name", MATRICES)
def test_the_quadratic_has_the_value_of_the_weights_it_was_made_at(name, power):
    weight = MATRICES[name]().float()
    (expected,), _ = spectra([weight], power)
    (entropy,), (gradient,) = quadratics([weight], power)([weight])
    assert entropy.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
    assert (gradient.dtype, gradient.shape) == (torch.float32, weight.shape)
    assert gradient.isfinite().all()


SPREAD = [3.0, 2.0, 2.0, 1.0, 0.5, 0.3]  # none below a tenth of the mean


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("shape", [(6, 6), (6, 20), (20, 6)])
def test_the_quadratics_gradient_is_exact_where_no_value_is_small(shape, power):
    weight = with_spectrum(SPREAD, *shape)
    _, (expected,) = spectra([weight], power)
    torch.testing.assert_close(quadratics([weight], power)([weight])[1], [expected])
    (single,) = quadratics([weight.float()], power)([weight.float()])[1]
    assert (single - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize("power", [1, 2])
def test_a_small_value_is_pulled_in_proportion_to_its_size(power):
    """As its quadratic has it: with the slope dH/dσ / σ that a tenth of the mean would have, to first order."""
    pulls = []
    for smallest in (1e-3, 1e-5):
        weight = torch.diag(torch.tensor([*SPREAD, smallest], dtype=torch.float64))
        _, exact = spectra([weight], power)
        _, (gradient,) = quadratics([weight], power)([weight])
        torch.testing.assert_close(gradient[:6, :6], exact[0][:6, :6])
        cap = weight.diagonal().mean() / 10
        mass = weight.diagonal() ** power
        p = mass / mass.sum()
        slope = -power * cap ** (power - 2) * ((cap**power / mass.sum()).log() - torch.xlogy(p, p).sum()) / mass.sum()
        pulls.append(gradient[6, 6].item())
        assert pulls[-1] == pytest.approx(slope.item() * smallest)
        assert 0 < pulls[-1] < exact[0][6, 6].item()
    assert pulls[1] == pytest.approx(pulls[0] / 100, rel=0.05)


def test_the_quadratics_gradient_is_that_of_its_value():
    quadratic = quadratics([torch.randn(20, 30, dtype=torch.float64)])
    weight, direction = torch.randn(2, 20, 30, dtype=torch.float64)
    _, (gradient,) = quadratic([weight])
    above, below = quadratic([weight + direction])[0], quadratic([weight - direction])[0]
    assert (above - below).item() / 2 == pytest.approx((gradient * direction).sum().item())


def drifted(distance):
    """Errors of a quadratic's value and gradient some way from the weights it was made at."""
    torch.manual_seed(1)
    weight, direction = with_spectrum(SPREAD, 6, 10), torch.randn(6, 10, dtype=torch.float64)
    there = weight + distance * direction
    (exact,), (exact_gradient,) = spectra([there])
    (entropy,), (gradient,) = quadratics([weight])([there])
    return abs(entropy - exact).item(), ((gradient - exact_gradient).norm() / exact_gradient.norm()).item()


def test_drift_changes_the_value_in_second_order_and_the_gradient_in_first():
    (value, gradient), (value_near, gradient_near) = drifted(1e-3), drifted(1e-4)
    assert value_near < 0.03 * value < 1e-6
    assert gradient_near < 0.3 * gradient < 3e-2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_quadratics_of_narrow_weights_are_kept_in_float32(dtype):
    weight = with_spectrum(SPREAD, 6, 10).to(dtype)
    quadratic = quadratics([weight])
    (entropy,), (gradient,) = quadratic([weight])
    (expected,), (exact,) = spectra([weight])
    assert quadratic.metrics[0].dtype == torch.float32
    assert entropy.item() == pytest.approx(expected.item(), abs=1e-6)
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient, exact, rtol=torch.finfo(dtype).eps, atol=1e-4)


def test_minuscule_weights_have_finite_quadratics():
    """M grows as 1/σ₁²; it is cut to what float32 holds."""
    weight = torch.randn(20, 30) * 1e-30
    quadratic = quadratics([weight])
    (entropy,), (gradient,) = quadratic([weight])
    assert quadratic.metrics[0].isfinite().all()
    assert gradient.isfinite().all()
    assert entropy.item() == pytest.approx(spectra([weight])[0].item(), rel=1e-5)


def test_infinite_weights_raise():
    with pytest.raises(torch.linalg.LinAlgError):
        spectra([torch.full((3, 4), math.nan)])
    with pytest.raises(torch.linalg.LinAlgError):
        quadratics([torch.full((3, 4), math.inf)])
