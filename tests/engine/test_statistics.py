import weakref

import numpy as np
import pytest
import torch
from kolmogram.engine import statistics
from kolmogram.engine.statistics import RELATIVE_STEPS, tensor_statistics
from kolmogram.kernels.dispatch import EXACT_BELOW, quantized_entropy


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def summary(items):
    return [
        (
            s.name,
            s.moments.count,
            s.entropy_bits.tolist(),
            None if s.singular_values is None else s.singular_values.tolist(),
        )
        for s in items
    ]


def test_groups_do_not_change_anything(monkeypatch):
    tensors = [(f"t{i}", normal(12 + i, 30, seed=i)) for i in range(9)]
    together = summary(tensor_statistics(iter(tensors)))
    monkeypatch.setattr(statistics, "GROUP_BYTES", 1)
    assert summary(tensor_statistics(iter(tensors))) == together
    assert [name for name, *_ in together] == [name for name, _ in tensors]


@pytest.mark.parametrize(("streamed", "most"), [((), 1), (("cpu",), 2)], ids=["at once", "read ahead"])
def test_only_one_group_is_held(monkeypatch, streamed, most):
    """When a group is closed its tensors are let go of before the next one is read; sent for, when the next one is."""
    monkeypatch.setattr(statistics, "GROUP_BYTES", 4 * 100)
    monkeypatch.setattr(statistics, "STREAMED_GROUP_BYTES", 4 * 100)
    monkeypatch.setattr(statistics, "STREAMED", streamed)
    alive = weakref.WeakSet()

    def items():
        for i in range(40):
            assert len(alive) <= most + i % 2  # two tensors make a group
            tensor = normal(50)
            alive.add(tensor)
            yield f"t{i}", tensor
            del tensor

    assert len(list(tensor_statistics(items(), spectra=False))) == 40


def test_integers_are_not_weights():
    items = [
        ("count", torch.tensor(3)),
        ("mask", torch.ones(4, dtype=torch.bool)),
        ("w", normal(4)),
        ("z", normal(4) + 0j),
    ]
    assert [s.name for s in tensor_statistics(items)] == ["w"]


@pytest.mark.parametrize(
    "dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float16, torch.bfloat16, torch.float64]
)
def test_every_float_width_is_measured_as_its_float32_values(dtype):
    weights = normal(40, 20).to(dtype)
    (one,) = tensor_statistics([("w", weights)])
    (other,) = tensor_statistics([("w", weights.float())])
    for name in ("count", "mean", "std", "abs_max", "frobenius"):
        assert getattr(one.moments, name) == pytest.approx(getattr(other.moments, name), rel=1e-5)
    assert one.entropy_bits == pytest.approx(other.entropy_bits, abs=1e-2)
    assert one.singular_values == pytest.approx(other.singular_values, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2fnuz, torch.bfloat16])
def test_values_of_narrow_types_are_counted_one_by_one(dtype):
    weights = normal(1, EXACT_BELOW).to(dtype)
    (one,) = tensor_statistics([("w", weights)], spectra=False)
    steps = one.moments.std * torch.tensor(RELATIVE_STEPS, dtype=torch.float64)
    exact = quantized_entropy(weights.float(), steps, backend="reference")
    assert one.entropy_bits == pytest.approx(exact.entropy_bits.numpy(), abs=1e-9)
    assert one.mse == pytest.approx(exact.mse.numpy(), rel=1e-6)  # the order of the sums differs


def test_a_matrix_that_is_not_finite_has_no_spectrum_and_the_others_do():
    bad = normal(8, 8)
    bad[0, 0] = torch.nan
    found = list(
        tensor_statistics(
            [("bad", bad), ("good", normal(8, 8)), ("empty", torch.zeros(0, 3)), ("scalar", torch.tensor(1.0))]
        )
    )
    assert [s.singular_values is not None for s in found] == [False, True, False, False]
    assert found[0].moments.nonfinite == 1


def test_spectra_can_be_left_out():
    (one,) = tensor_statistics([("w", normal(8, 8))], spectra=False)
    assert one.singular_values is None


@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_a_pretended_gpu_measures_the_same(pretended, monkeypatch, backend):
    tensors = [
        ("half", torch.randn(40, 8).half()),
        ("float", torch.randn(8, 8)),
        ("nan", torch.full((2, 2), torch.nan)),
    ]
    here = list(tensor_statistics(tensors))
    monkeypatch.setenv("KOLMOGRAM_BACKEND", backend)
    for one, other in zip(tensor_statistics(tensors, device="cuda"), here, strict=True):
        assert one.moments.count == other.moments.count
        np.testing.assert_allclose(one.entropy_bits, other.entropy_bits, rtol=1e-9)
        if other.singular_values is not None:
            np.testing.assert_allclose(one.singular_values, other.singular_values, rtol=1e-9)
