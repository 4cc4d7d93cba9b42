"""Rates from a fine histogram: exact where they can be, close where not, and the same on every backend."""

import pytest
import torch
from kolmogram.kernels import cpu, rates, reference

FRACTIONS = (1 / 64, 1 / 16, 1 / 4, 1, 3)


def distributed(name: str, n: int) -> torch.Tensor:
    torch.manual_seed(0)
    match name:
        case "gaussian":
            w = torch.randn(n)
        case "laplace":
            w = torch.distributions.Laplace(0.0, 1.0).sample((n,)) / 2**0.5
        case "student":
            w = torch.distributions.StudentT(3.0).sample((n,)) / 3**0.5
        case _:
            w = (torch.randn(n // 1024, 1024) * torch.exp(0.7 * torch.randn(n // 1024, 1))).flatten()
    return 0.02 * w


NAMES = pytest.mark.parametrize("name", ["gaussian", "laplace", "student", "row-scaled"])


@NAMES
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_fine_histogram_is_precise(name, dtype):
    w = distributed(name, 1 << 22).to(dtype)
    steps = torch.tensor([w.float().std().item() * f * 1.0137 for f in FRACTIONS], dtype=torch.float64)
    counts, base = cpu.fine_histogram(w)
    estimate = cpu.fine_rates(counts, base, reference.key_atoms(dtype), steps).T
    exact = cpu.exact_rates(w, steps).T  # the reference itself: see test_sorted_weights_are_exact
    entropy_error = (estimate[0] - exact[0]).abs().max()
    mse_error = (estimate[1] / exact[1] - 1).abs().max()
    if dtype == torch.bfloat16:
        assert entropy_error < 1e-12
        assert mse_error < 1e-9
        assert torch.equal(estimate[2:], exact[2:])
    else:
        assert entropy_error < 1e-3
        assert mse_error < 1e-3


@NAMES
def test_bfloat16_ties_are_the_quantisers(name):
    w = distributed(name, 1 << 14).bfloat16()
    steps = torch.tensor([2.0**-8, 2.0**-6, 2.0**-5, 2.0**-3], dtype=torch.float64)
    counts, base = cpu.fine_histogram(w)
    estimate, exact = cpu.fine_rates(counts, base, 1, steps).T, reference.rates(w, steps)
    assert torch.equal(estimate[2], exact.zero_fraction[0])
    assert torch.allclose(estimate[0], exact.entropy_bits[0], rtol=1e-12)


@NAMES
def test_sorted_weights_are_exact(name):
    w = distributed(name, 1 << 13)
    w[0] = torch.nan
    steps = torch.tensor([0.02 * f for f in FRACTIONS] + [0.0, -1.0, torch.nan, 1e-20, 1e-45], dtype=torch.float64)
    found, exact = cpu.exact_rates(w, steps).T, reference.rates(w, steps)
    for a, b in zip(found, exact, strict=True):
        assert torch.allclose(a, b[0], rtol=1e-10, atol=1e-12, equal_nan=True)


def test_the_first_symbol_that_there_is_none_for():
    w, steps = torch.tensor([1.0, 2.0**31]), torch.tensor([1.0, 1.0 + 2.0**-23], dtype=torch.float64)
    found, exact = cpu.exact_rates(w, steps).T, reference.rates(w, steps)
    for a, b in zip(found, exact, strict=True):
        assert a[0].isnan()
        assert b[0, 0].isnan()
        assert a[1] == b[0, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_triton_equals_cpu(dtype, device, monkeypatch):
    if device.type == "cpu":
        monkeypatch.setattr(rates, "BLOCK", 4096)  # fewer, larger blocks: the interpreter's cost is per operation
    sparse = torch.where(torch.rand(1 << 13) < 0.8, 0.0, distributed("laplace", 1 << 13))
    tensors = [distributed("student", 1 << 15).to(dtype), sparse.to(dtype)]
    steps = torch.tensor([[0.0005, 2.0**-6, 0.0], [0.013, 0.3, 1e-8]])
    counts, bases = zip(*(cpu.fine_histogram(w) for w in tensors), strict=True)
    atoms = reference.key_atoms(dtype)
    expected = torch.stack([cpu.fine_rates(c, b, atoms, s) for c, b, s in zip(counts, bases, steps, strict=True)])
    counts = torch.stack(counts).to(device)
    found = rates.fine_rates(counts, torch.tensor(bases, dtype=torch.int32), atoms, steps).cpu()
    assert torch.allclose(found[..., :3], expected[..., :3], rtol=1e-9, atol=1e-12, equal_nan=True)
    assert torch.allclose(found[..., 3], expected[..., 3], rtol=1e-4, equal_nan=True)
    assert expected[:, :2].isfinite().all()
    assert expected[:, 2].isnan().all()


@pytest.mark.parametrize("scale", [1e-30, 1e-9, 1.0, 1e9, 1e36])
def test_window_follows_the_scale(scale):
    w = (distributed("gaussian", 1 << 12) * 1e3 * scale).bfloat16()
    steps = torch.tensor([5 * scale], dtype=torch.float64)
    counts, base = cpu.fine_histogram(w)
    assert int(counts[reference.WINDOW + 1 :].sum()) == 0
    found, exact = cpu.fine_rates(counts, base, 1, steps).T, reference.rates(w, steps)
    assert found[0].item() == pytest.approx(exact.entropy_bits.item(), rel=1e-12)
