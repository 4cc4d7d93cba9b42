"""Without a task: the error of the decoded weights is what it may be, and the bytes follow it."""

import math

import numpy as np
import pytest
import torch
from kolmogram.engine.coarse import weightspace
from kolmogram.engine.coarse.tensor_coder import dropped
from kolmogram.engine.coarse.weightspace import WeightSpace, compress_weights, relative_error
from kolmogram.engine.codec.coders import Coder
from kolmogram.engine.codec.container import decode
from kolmogram.engine.codec.representation import BasisKind


def network(dtype=torch.float32, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    shared = torch.linalg.qr(torch.randn(32, 32, generator=generator))[0][:4]
    tensors = {
        "a.weight": torch.randn(48, 4, generator=generator) @ shared * 3,
        "b.weight": torch.randn(24, 4, generator=generator) @ shared,
        "c.weight": torch.randn(32, 24, generator=generator),
        "c.bias": torch.randn(32, generator=generator) * 1e-3,
    }
    return {name: (value * scale).to(dtype) for name, value in tensors.items()}


@pytest.mark.parametrize("allowed", [0.3, 0.03, 1e-3, 1e-6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_error_is_used_and_not_passed(allowed, dtype):
    params = network(dtype)
    decoded = decode(compress_weights(params, allowed).data)
    error = relative_error(params, decoded)
    assert error <= allowed
    assert {value.dtype for value in decoded.values()} == {dtype}
    if dtype != torch.bfloat16 and allowed < 0.1:
        assert error > 0.6 * allowed, "coarser would have done"


def test_bytes_fall_with_the_error_by_a_bit_for_six_decibels():
    """High-rate theory: a quarter of the error is one bit more a weight, near Shannon's bound for Gaussian ones."""
    params = {"w": torch.randn(100, 60, generator=torch.Generator().manual_seed(1))}
    fine, coarse = (len(compress_weights(params, allowed).data) for allowed in (1e-4, 4e-4))
    assert (fine - coarse) * 8 / 6000 == pytest.approx(1.0, abs=0.1)
    assert 0 < fine * 8 / 6000 - 0.5 * math.log2(1e4) < 0.6, "a quarter of a bit for scalar steps, and what is learnt"


def test_scale_does_not_matter():
    sizes = [len(compress_weights(network(scale=2.0**k), 0.01).data) for k in (-40, 0, 40)]
    assert max(sizes) - min(sizes) <= 6


def test_structure_pays():
    """Low rank, and directions shared with another tensor, cost less than weights without any."""
    params = network()
    mixed = {
        name: value.flatten()[torch.randperm(value.numel())].reshape(value.shape) for name, value in params.items()
    }
    assert len(compress_weights(params, 0.01).data) < 0.7 * len(compress_weights(mixed, 0.01).data)


def test_large_networks_go_tensor_by_tensor(monkeypatch):
    """What is affordable changes the bytes a little, never the error."""
    params = network()
    best = len(compress_weights(params, 0.01).data)
    monkeypatch.setattr(weightspace, "SMALL", 0)
    monkeypatch.setattr(weightspace, "FACTORED", 0)
    file = compress_weights(params, 0.01)
    assert relative_error(params, decode(file.data)) <= 0.01
    assert best <= len(file.data) < 3 * best
    assert not any(c.code.bases[0].kind or c.code.bases[1].kind for c in WeightSpace(params).smallest(0.01).candidates)


def test_a_basis_whose_source_is_dropped_is_not_inherited():
    space = WeightSpace(network())
    levels = dict.fromkeys(space.weights, -4.0)
    space.at(levels, first := space.at(levels))
    bases, names = space._assembler.bases, list(space.weights)
    name = next(name for name in names if any(basis.kind == BasisKind.INHERITED for basis in bases[name]))
    gone = [dropped(candidate.decoded.matrix.shape).decoded for candidate in first.candidates[: names.index(name)]]
    coded = space._assembler.code(name, -4.0, gone).code
    assert not any(basis.kind == BasisKind.INHERITED for basis in coded.bases)


def test_where_no_grid_is_fine_enough_the_bytes_are_kept():
    params = {"w": torch.tensor(np.random.default_rng(0).normal(size=(8, 8)))}
    decoded = decode(compress_weights(params, 1e-25).data)
    assert torch.equal(decoded["w"], params["w"])


def test_where_guesses_do_not_arrive_the_level_falls_faster_and_faster():
    """Zeros are the best code at many levels: nearly the error that is allowed, and never within it."""
    params = {"w": torch.randn(100, 60, generator=torch.Generator().manual_seed(0))}
    file = compress_weights(params, 0.95).data
    assert len(file) < 1.2 * len(compress_weights(params, 0.1).data)
    assert 0 < relative_error(params, decode(file)) <= 0.95


@pytest.mark.parametrize("allowed", [5e-324, 1e-9, 0.3, 1e308])
def test_no_target_is_too_far_even_where_weights_overflow(allowed):
    generator = torch.Generator().manual_seed(0)
    largest = 65504 * torch.where(torch.rand(30, 40, generator=generator) < 0.5, 1.0, -1.0)
    params = {"w": (largest * (0.9 + 0.1 * torch.rand(30, 40, generator=generator))).half()}
    file = compress_weights(params, allowed).data
    assert relative_error(params, decode(file)) <= allowed
    assert allowed < 0.1 or len(file) < 200, "a bit each at most"


@pytest.mark.parametrize("params", [{}, {"w": torch.zeros(3, 4)}, {"n": torch.tensor(3)}, {"w": torch.zeros(0, 4)}])
def test_nothing_to_code_is_a_file_too(params):
    for coder in Coder:
        decoded = decode(compress_weights(params, 0.1, coder).data)
        assert decoded.keys() == params.keys()
        assert all(torch.equal(decoded[name], params[name]) for name in params)


def test_the_same_file_every_time_and_whatever_the_order():
    params = network()
    data = compress_weights(params, 0.01).data
    assert compress_weights(params, 0.01).data == data
    assert compress_weights(dict(reversed(params.items())), 0.01).data == data
