"""The parts of the search, each against what it is defined to do."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from kolmogram.engine.coarse.curvature import Curvature, Moments, _Passes, curvature, moments, without_dead
from kolmogram.engine.coarse.fourier import fourier_bases, fourier_energies
from kolmogram.engine.coarse.lowrank import decompose, factorise
from kolmogram.engine.coarse.rate import matrix_bits
from kolmogram.engine.coarse.rotation import rotate
from kolmogram.engine.coarse.rounding import Metric, round_matrix
from kolmogram.engine.coarse.tensor_coder import TensorCoder
from kolmogram.engine.coarse.transforms import choose_basis, transform_metric
from kolmogram.engine.codec.exact import fourier_basis, multiplicative_basis
from kolmogram.engine.codec.representation import IDENTITY, Basis, BasisKind, Kind, basis_matrix
from kolmogram.engine.tasks import Task
from kolmogram.engine.tasks.modular import ModularTask

RNG = np.random.default_rng(0)


def covariance(n, rank=None):
    factor = RNG.normal(size=(n, rank or n)) * np.geomspace(3, 0.1, rank or n)
    return factor @ factor.T / n


def error(weights, symbols, step, a, g):
    e = weights - symbols * step
    return np.trace(e.T @ a @ e @ g)


def test_gradients_that_are_no_numbers_tell_nothing():
    class Undefined(Task):
        def loss(self, params):
            return (params["w"] * 0).log().sum() + params["v"].square().sum()

    params = {"w": torch.ones(4, 3), "v": torch.ones(4, 3)}
    found = moments(Undefined(), params, 2, torch.Generator())
    rows, columns = curvature(found["w"], (4, 3))
    assert np.array_equal(rows, np.ones(4))
    assert np.array_equal(columns, np.ones(3))
    assert not np.array_equal(curvature(found["v"], (4, 3)).rows, np.ones(4))


def test_a_weight_that_is_given_by_name_has_the_moments_of_its_gradient():
    class Named(Task):
        def loss(self, params):
            return F.linear(torch.arange(6.0).view(2, 3), weight=params["w"]).square().sum()

    class Positional(Named):
        def loss(self, params):
            return (torch.arange(6.0).view(2, 3) @ params["w"].T.clone()).square().sum()

    params = {"w": torch.ones(4, 3)}
    by_name, by_gradient = (moments(task, params, 1, torch.Generator())["w"] for task in (Named(), Positional()))
    for one, other in zip(by_name, by_gradient, strict=True):
        torch.testing.assert_close(one, other)


def test_rounding_without_slope_or_metric_is_rounding():
    weights = RNG.normal(size=(9, 14))
    flat = Metric(np.ones(9), 0.0), Metric(np.ones(14), 0.0)
    symbols = round_matrix(weights, *flat, np.full(9, 0.1), 0.0)
    assert np.array_equal(symbols, np.floor(np.abs(weights) / 0.1 + 0.5) * np.sign(weights))


def test_error_feedback_lowers_the_error_that_counts():
    weights, a, g = RNG.normal(size=(30, 40)), covariance(30), covariance(40)
    fed = round_matrix(weights, Metric(a, 0.01), Metric(g, 0.01), np.full(30, 0.5), 0.0)
    plain = np.rint(weights / 0.5)
    assert error(weights, fed, 0.5, a, g) < 0.7 * error(weights, plain, 0.5, a, g)


def test_a_slope_trades_error_for_bits():
    weights = RNG.laplace(size=(40, 40))
    flat = Metric(np.ones(40), 0.0)
    sizes = [matrix_bits(round_matrix(weights, flat, flat, np.full(40, 0.5), slope)) for slope in (0.0, 0.03, 0.3)]
    assert sizes[0] > sizes[1] > sizes[2]


@pytest.mark.parametrize("vector", [False, True])
def test_moments_of_a_linear_map_are_those_of_its_inputs_and_gradients(vector):
    """One linear layer with a squared loss has a Fisher information in closed form."""
    inputs = torch.randn(400, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([3, 1, 1, 1, 1, 0.1])

    class Linear:
        def sampled_loss(self, params, generator):
            outputs = torch.nn.functional.linear(inputs, params["w"])
            targets = outputs.detach() + torch.randn(outputs.shape, generator=generator)
            return 0.5 * ((outputs - targets) ** 2).sum(1)

    shape = (1, 6) if vector else (4, 6)
    params = {"w": torch.zeros(shape), "unused": torch.zeros(3, 3)}
    found = moments(Linear(), params, 8, torch.Generator().manual_seed(1))
    assert "unused" not in found
    seen = curvature(found["w"], shape)
    expected = (inputs.T @ inputs / 400).double().numpy()
    np.testing.assert_allclose(seen.columns, expected, atol=0.08 * expected.max())
    np.testing.assert_allclose(seen.rows, np.eye(shape[0]), atol=0.1)


def test_moments_are_means_over_passes_whatever_each_of_them_has_seen():
    """One pass looks a tensor up (which says less of its rows), the other multiplies by it and meets another one."""
    x = torch.tensor([[1.0, 2.0]])

    class Changing:
        calls = 0

        def per_example_loss(self, params):
            self.calls += 1
            if self.calls % 2:
                return torch.nn.functional.embedding(torch.tensor([1]), params["w"]).sum(1)
            return torch.nn.functional.linear(x, params["w"]).sum(1) + (params["late"] * x).sum(1)

    params = {"w": torch.zeros(2, 2), "late": torch.zeros(2)}
    first, second = (moments(Changing(), params, draws, torch.Generator()) for draws in (1, 2))
    assert first.keys() == {"w"}
    assert second.keys() == {"w", "late"}
    assert first["w"].rows.tolist() == [0, 2]  # of the second row, twice a gradient of 1
    assert second["w"].rows.tolist() == [2.5, 3.5]  # half of that and of the diagonal of [[5, 5], [5, 5]]
    np.testing.assert_allclose(second["w"].columns, (np.ones((2, 2)) + 2 * np.array([[1, 2], [2, 4]])) / 2)
    assert second["late"].rows.tolist() == [1, 4]


def test_passes_are_replayed_on_a_pretended_gpu_and_see_the_same(pretended, monkeypatch):
    """All eight: other examples, labels and signs each time, though only the first two are called."""
    made, draws = [], torch.Generator().manual_seed(4)
    init = _Passes.__init__
    monkeypatch.setattr(_Passes, "__init__", lambda self, *args: (init(self, *args), made.append(self))[0])
    here, there = (ModularTask("addition", modulus=53, architecture="mlp", width=16, device=d) for d in ("cpu", "cuda"))
    weights = here.network.initial(torch.Generator().manual_seed(0))
    expected = moments(here, weights, 8, draws)
    after = torch.rand(1, generator=draws)
    found = moments(there, {n: w.cuda() for n, w in weights.items()}, 8, draws.manual_seed(4))
    assert not made[0]._run.is_replayed
    assert made[1]._run.is_replayed
    assert pretended.launches["replay"] == 7
    assert torch.equal(torch.rand(1, generator=draws), after), "and what is drawn next is the same"
    assert found.keys() == expected.keys()
    for name, sides in expected.items():
        for side, other in zip(sides, found[name], strict=True):
            torch.testing.assert_close(other, side)


def test_single_coordinates_lean_half_on_their_mean():
    assert curvature(Moments(torch.tensor([0.0, 2.0]), torch.tensor([2.0])), (2,)).rows.tolist() == [0.5, 1.5]


def test_rows_and_columns_that_the_loss_does_not_see_are_zero():
    matrix, expected = np.ones((3, 4)), np.ones((3, 4))
    expected[1], expected[:, 2] = 0, 0
    seen = Curvature(np.array([1.0, 0.0, 1.0]), np.diag([1.0, 1.0, 0.0, 1.0]))
    np.testing.assert_array_equal(without_dead(matrix, seen), expected)
    assert without_dead(matrix, Curvature(np.ones(3), np.ones(4))) is matrix


def test_hidden_uses_fall_back_to_the_gradient_itself(task, params):
    class Hidden:
        def sampled_loss(self, p, generator):
            return task.sampled_loss({name: value * 1.0 for name, value in p.items()}, generator)

    seen = moments(task, params, 60, torch.Generator().manual_seed(0))
    blind = moments(Hidden(), params, 60, torch.Generator().manual_seed(0))
    assert seen.keys() == blind.keys()
    for name in ("up.weight", "down.weight"):
        a, b = (curvature(m[name], tuple(params[name].shape)) for m in (seen, blind))
        assert np.trace(a.columns) == pytest.approx(np.trace(b.columns), rel=0.7), "two estimates of one scale"
        assert np.corrcoef(a.columns.ravel(), b.columns.ravel())[0, 1] > 0.6


@pytest.mark.parametrize(("tail", "offered"), [(0, True), (2, True), (5, True), (6, False)])
def test_fourier_is_offered_where_the_axis_is_cyclic_but_for_a_few_special_tokens(tail, offered):
    rng = np.random.default_rng(1)
    waves = fourier_basis(61)[[3, 4, 11, 12]].T @ rng.normal(size=(4, 20))
    basis, _ = fourier_bases({"w": np.concatenate([waves, rng.normal(size=(tail, 20)) * 0.01])})["w"]
    assert ((basis.kind, basis.parameter) == (BasisKind.FOURIER, 61)) == offered


def test_fourier_is_not_offered_for_noise_or_nothing():
    noise, nothing = RNG.normal(size=(63, 20)), np.zeros((63, 20))
    assert fourier_bases({"noise": noise, "nothing": nothing}) == dict.fromkeys(
        ("noise", "nothing"), (IDENTITY, IDENTITY)
    )


def test_every_side_has_the_basis_that_it_has_alone():
    """Though sides of one length are transformed together, in pieces that end within them."""
    waves = fourier_basis(61)[[3, 4, 11, 12]]
    sides = [
        waves.T @ RNG.normal(size=(4, 40)),
        RNG.normal(size=(61, 1500)),
        waves.T @ RNG.normal(size=(4, 900)) + 1e-3,
    ]
    matrices = {str(i): side for i, side in enumerate([*sides, sides[0].T @ sides[0], sides[2].T, waves[:1].T])}
    together = fourier_bases(matrices)
    assert together == {name: fourier_bases({name: matrix})[name] for name, matrix in matrices.items()}
    fourier = Basis(BasisKind.FOURIER, 61)
    assert together["0"][0] == together["2"][0] == together["4"][1] == fourier != together["1"][0]
    assert together["5"] == (IDENTITY, IDENTITY), "a vector is coded as it is"


@pytest.mark.filterwarnings("error")
def test_fourier_is_not_offered_where_squares_vanish_in_float32():
    waves = fourier_basis(61)[[3, 4, 11, 12]].T @ RNG.normal(size=(4, 40))
    assert fourier_bases({"w": waves * 1e-30}) == {"w": (IDENTITY, IDENTITY)}


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
def test_fourier_is_not_offered_where_squares_overflow_float32():
    waves = fourier_basis(61)[[3, 4, 11, 12]].T @ RNG.normal(size=(4, 40))
    assert fourier_bases({"w": waves * 3e38 / np.abs(waves).max()}) == {"w": (IDENTITY, IDENTITY)}


def test_a_multiplicative_basis_is_offered_where_a_prime_axis_is_multiplied():
    characters = multiplicative_basis(61)[[3, 4, 11, 12]].T @ RNG.normal(size=(4, 20))
    table = np.concatenate([np.zeros((1, 20)), characters, RNG.normal(size=(2, 20)) * 0.01])
    basis, _ = fourier_bases({"w": table})["w"]
    assert (basis.kind, basis.parameter) == (BasisKind.MULTIPLICATIVE, 61)


@pytest.mark.parametrize("n", [17, 19, 20, 22])
def test_energies_by_fft_are_those_of_the_basis(n):
    weights = RNG.normal(size=(n, 5))
    for basis in (Basis(kind, p) for kind in (BasisKind.FOURIER, BasisKind.MULTIPLICATIVE) for p in (17, 19) if p <= n):
        expected = (basis_matrix(basis, n, ()) @ weights) ** 2
        found = fourier_energies(weights, basis, np.array([0, 0, 1, 1, 1]), 3)
        np.testing.assert_allclose(np.sort(found[:, 0]), np.sort(expected[:, :2].sum(1)))
        np.testing.assert_allclose(np.sort(found[:, 1]), np.sort(expected[:, 2:].sum(1)))
        assert not found[:, 2].any()


def test_fourier_is_taken_where_noise_hides_what_it_gathers():
    rng = np.random.default_rng(5)
    flat = Metric(np.ones(61), 0.3)
    fourier = Basis(BasisKind.FOURIER, 61)
    waves = fourier_basis(61)[[3, 4, 11, 12]].T @ rng.normal(size=(4, 64)) + 2.0 * rng.normal(size=(61, 64))
    assert choose_basis(waves, flat, 1e-2, fourier, []) == fourier
    alone = np.zeros((61, 64))
    alone[[3, 17, 40]] = rng.normal(size=(3, 64))
    assert choose_basis(alone, flat, 1e-2, fourier, []) == IDENTITY, "what is gathered already would be spread"


def test_a_basis_is_inherited_where_two_tensors_share_directions():
    shared = np.linalg.qr(RNG.normal(size=(40, 40)))[0][:5]
    first = RNG.normal(size=(30, 5)) @ shared
    second = RNG.normal(size=(25, 5)) @ shared
    flat = Metric(np.ones(30), 0.3), Metric(np.ones(40), 0.3)
    coder = TensorCoder(first, curvature(None, (30, 40))._replace(rows=np.ones(30), columns=np.ones(40)))
    source = coder.best(0.05, (IDENTITY, IDENTITY), coder.plain).decoded
    basis = choose_basis(second.T, flat[1], 1e-3, IDENTITY, [source])
    assert (basis.kind, basis.parameter, basis.axis) == (BasisKind.INHERITED, 0, 1)
    other = RNG.normal(size=(25, 40))
    assert choose_basis(other.T, flat[1], 1e-3, IDENTITY, [source]) == IDENTITY


def test_transformed_metrics_measure_the_same_error():
    a, basis = covariance(20), fourier_basis(20)
    e = RNG.normal(size=20)
    assert e @ a @ e == pytest.approx((basis @ e) @ transform_metric(a, basis) @ (basis @ e))
    d = np.abs(RNG.normal(size=20))
    assert e @ (d * e) == pytest.approx((basis @ e) @ transform_metric(d, basis) @ (basis @ e))


def test_rotation_keeps_the_product_and_finds_sparse_sides():
    rng = np.random.default_rng(0)  # of its own: which tests ran before must make no difference
    sparse = rng.normal(size=(6, 80)) * (rng.random((6, 80)) < 0.15) * 20
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    left, right = turn @ np.eye(6, 30), turn @ sparse
    product = left.T @ right
    rotate(left, right)
    np.testing.assert_allclose(left.T @ right, product, atol=1e-9)
    assert (np.abs(right) > 0.5).mean() < 0.25


def test_factors_recover_a_low_rank_matrix():
    weights = RNG.normal(size=(50, 4)) @ RNG.normal(size=(4, 60))
    metrics = Metric(np.ones(50), 0.1), Metric(np.ones(60), 0.1)
    svd = decompose(weights, *metrics)
    start = np.ascontiguousarray(svd.left[:, :4].T), svd.singular[:4, None] * svd.right[:4]
    factors = factorise(weights, metrics, metrics, start, 0.05, 1e-6)
    assert factors is not None
    assert factors.left.shape == (4, 50)
    coder = TensorCoder(weights, curvature(None, (50, 60))._replace(rows=np.ones(50), columns=np.ones(60)))
    best = coder.best(0.05, (IDENTITY, IDENTITY), coder.plain)
    assert best.code.kind == Kind.FACTORS
    assert best.distortion < 0.01 * (weights**2).sum()
    direct = RNG.normal(size=(50, 60))
    full = TensorCoder(direct, coder.curvature)
    assert full.best(0.05, (IDENTITY, IDENTITY), full.plain).code.kind == Kind.DIRECT


def test_factors_come_strongest_first():
    rng = np.random.default_rng(0)
    weights = (rng.normal(size=(50, 4)) * [1, 8, 2, 4]) @ np.linalg.qr(rng.normal(size=(60, 4)))[0].T
    metrics = Metric(np.ones(50), 0.1), Metric(np.ones(60), 0.1)
    svd = decompose(weights, *metrics)
    start = np.ascontiguousarray(svd.left[:, :4].T), svd.singular[:4, None] * svd.right[:4]
    strengths = np.abs(factorise(weights, metrics, metrics, start, 0.05, 1e-6).right).sum(1)
    assert len(strengths) == 4
    assert (np.diff(strengths) < 0).all()


def test_what_the_loss_does_not_see_becomes_zero():
    coder = TensorCoder(RNG.normal(size=(5, 6)), curvature(None, (5, 6)))
    assert coder.best(0.01, (IDENTITY, IDENTITY), coder.plain).code.kind == Kind.ZERO
