"""Quantise and entropy in one program are the exact rates; what does not fit its counters says so."""

import pytest
import torch
from kolmogram.kernels import dispatch, exact_rates, interpreter, reference

STEPS = torch.tensor([0.003, 2.0**-6, 40.0, 0.0], dtype=torch.float64)


@pytest.fixture(autouse=True)
def _larger_blocks(device, monkeypatch):
    if device.type == "cpu":
        monkeypatch.setattr(exact_rates, "BLOCK", 1 << 15)  # the interpreter's cost is per operation


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_equal_the_reference(dtype, device, cases):
    named = cases(dtype)
    interpreter.increments.clear()
    steps = STEPS.expand(len(named), -1)
    found = exact_rates.exact_rates([w.to(device) for w in named.values()], steps).cpu()
    for (name, w), rows in zip(named.items(), found, strict=True):
        expected = torch.cat(reference.rates(w, STEPS)).T
        fits = (w[w.isfinite()].abs().max().nan_to_num() / STEPS < reference.LARGEST_SYMBOL) if w.numel() else STEPS > 0
        assert torch.allclose(rows[fits], expected[fits], rtol=1e-10, atol=1e-15, equal_nan=True), name
        assert rows[~fits].isnan().all(), name
    if device.type == "cpu":
        assert interpreter.increments


@pytest.mark.parametrize("sign", [1, -1])
def test_symbols_beyond_the_counters_on_one_side_are_no_answer(sign, device):
    w = sign * torch.linspace(1.0, 2.0, 500)
    steps = torch.tensor([[2e-4]])  # symbols from 5,000 on
    assert exact_rates.exact_rates([w.to(device)], steps).isnan().all()


def test_symbols_without_a_counter_are_counted_on_the_host(device):
    w = torch.randn(3_000, generator=torch.Generator().manual_seed(0))
    tensors = [w, w * 1e4, torch.full((9,), torch.nan)]
    steps = torch.tensor([0.5, 0.01], dtype=torch.float64)
    found = dispatch.fine_histogram([t.to(device) for t in tensors], backend="triton").rates(steps)
    for i, tensor in enumerate(tensors):
        for a, b in zip(found, reference.rates(tensor, steps), strict=True):
            assert torch.allclose(a[i], b[0], rtol=1e-10, equal_nan=True)
    assert found.entropy_bits[1].isfinite().all()
