import math

import pytest
import torch
from kolmogram.analyzers import ANALYZERS, RELATIVE_STEPS, TensorValues
from kolmogram.engine.statistics import tensor_statistics
from kolmogram.kernels import reference

ENTROPY = ANALYZERS["entropy"]


def values_of(tensor):
    (statistics,) = tensor_statistics([("w", tensor)], spectra=False)
    return ENTROPY.tensor(statistics)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_gaussian_weights_cost_what_theory_says():
    # h(N(0, σ²)) = ½ log₂(2πe σ²); H(quantised) → h − log₂ Δ as Δ → 0, and the error → Δ²/12.
    values = values_of(normal(1_000_000))
    for step in (0.25, 0.125, 0.0625):
        assert values[f"entropy_bits@{step}"] == pytest.approx(
            0.5 * math.log2(2 * math.pi * math.e) - math.log2(step), abs=5e-3
        )
        assert values[f"relative_error@{step}"] == pytest.approx(step**2 / 12, rel=1e-2)


def test_equals_the_definition_on_a_small_tensor():
    weights = normal(500)
    values = values_of(weights)
    sigma = weights.double().std(correction=0)
    rates = reference.rates(weights, sigma * torch.tensor(RELATIVE_STEPS, dtype=torch.float64))
    for i, step in enumerate(RELATIVE_STEPS):
        assert values[f"entropy_bits@{step}"] == pytest.approx(rates.entropy_bits[0, i].item(), abs=1e-9)
        error = rates.mse[0, i].item() * 500 / weights.double().square().sum().item()
        assert values[f"relative_error@{step}"] == pytest.approx(error, rel=1e-6)


@pytest.mark.parametrize("scale", [2.0**-20, 2.0**-3, 2.0**10])
def test_does_not_depend_on_scale(scale):
    # Powers of two: quantising relative to the spread gives the very same symbols.
    weights = normal(20_000)
    expected, scaled = values_of(weights), values_of(weights * scale)
    assert scaled == pytest.approx(expected, rel=1e-3)


def test_finer_steps_cost_more_and_lose_less():
    values = values_of(normal(10_000))
    bits = [values[f"entropy_bits@{step}"] for step in RELATIVE_STEPS]
    errors = [values[f"relative_error@{step}"] for step in RELATIVE_STEPS]
    assert bits == sorted(bits)
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("tensor", [torch.full((7, 3), 0.25), torch.zeros(5), torch.tensor(3.5)])
def test_tensors_without_spread_cost_nothing(tensor):
    assert set(values_of(tensor).values()) == {0.0}


def test_empty_tensors_and_those_without_a_finite_weight_have_no_entropy():
    assert values_of(torch.zeros(0, 4)) == {}
    assert values_of(torch.full((3,), math.nan)) == {}


def test_columns_weigh_tensors_by_size():
    small = TensorValues("small", 100, {"entropy_bits@1.0": 4.0})
    large = TensorValues("large", 300, {"entropy_bits@1.0": 2.0})
    assert ENTROPY.columns([small, large])["entropy_bits@1.0"] == 2.5
