"""What tensors are rounded towards makes up for the errors of other tensors, and for nothing else."""

import numpy as np
import pytest
import torch
from kolmogram.engine.coarse import complexity, targets
from kolmogram.engine.coarse.curvature import curvature, moments
from kolmogram.engine.coarse.loss import Loss
from kolmogram.engine.coarse.state import State
from kolmogram.engine.coarse.targets import FIRST_RATE, Targets
from kolmogram.engine.coarse.tensor_coder import Candidate
from kolmogram.engine.codec.representation import Decoded, Kind, Representation


@pytest.fixture
def loss(task, params):
    return Loss(task, params, {}, torch.Generator().manual_seed(0))


def curvatures_at(task, point):
    found = moments(task, point, 4, torch.Generator().manual_seed(0))
    return {name: curvature(found[name], tuple(value.shape)) for name, value in point.items()}


def matrices(params):
    return {n: v.double().numpy().reshape(len(v), -1) for n, v in params.items()}


def state_of(params, zero=()):
    codes = {name: Representation(Kind.ZERO if name in zero else Kind.DIRECT) for name in params}
    candidates = {
        name: Candidate(Decoded(codes[name], matrix, (None, None)), 1.0, 0.0)
        for name, matrix in matrices(params).items()
    }
    return State(candidates, dict.fromkeys(params, 0.0), dict(params), 0.0, 0.0)


def rounded(params, name, step):
    return {**params, name: torch.round(params[name] / step) * step}


def test_the_others_make_up_for_the_errors_of_one(task, params, loss):
    coarse = rounded(params, "up.weight", 1.0)
    followed = Targets(matrices(params))
    followed.follow(loss.slope, state_of(coarse), curvatures_at(task, coarse))
    moved = {**coarse, "down.weight": torch.from_numpy(followed["down.weight"]).float()}
    assert loss(coarse) > loss(params) + 0.02
    assert loss(moved) - loss(params) < 0.7 * (loss(coarse) - loss(params))


def test_without_errors_nothing_moves_however_much_there_is_to_learn(task, params):
    untrained = {name: value + 0.3 * torch.randn(value.shape) for name, value in params.items()}
    loss = Loss(task, untrained, {}, torch.Generator().manual_seed(0))
    assert max(float(g.abs().max()) for g in loss.gradients(untrained).values()) > 0.01
    followed = Targets(matrices(untrained))
    followed.follow(loss.slope, state_of(untrained), curvatures_at(task, untrained))
    assert all(np.array_equal(followed[name], matrix) for name, matrix in matrices(untrained).items())


def test_a_step_that_does_not_lower_the_loss_is_not_kept_and_the_next_is_shorter(task, params, loss):
    coarse, losses, points = rounded(params, "up.weight", 1.0), iter((1.0, 2.0, 1.0, 2.0)), []

    def slope(point):
        points.append(point)
        return next(losses), loss.slope(point)[1]

    followed = Targets(matrices(params))
    for _ in range(2):
        followed.follow(slope, state_of(coarse), curvatures_at(task, coarse))
    assert all(np.array_equal(followed[name], matrix) for name, matrix in matrices(params).items())
    first, second = (float((points[k]["down.weight"] - coarse["down.weight"]).norm()) for k in (1, 3))
    assert 0 < second <= 0.51 * first


def test_rates_are_led_by_how_the_slope_changes():
    followed = Targets({"w": np.zeros((1, 1))})
    followed._lead("w", before=-1.0, after=1.0, better=True)  # past the lowest point by as much as before it
    assert followed._rate("w") == FIRST_RATE / 2
    followed._lead("w", before=-1.0, after=-0.9, better=True)
    assert followed._rate("w") == FIRST_RATE
    followed._lead("w", before=-1.0, after=float("nan"), better=False)
    assert followed._rate("w") == FIRST_RATE / 2


def test_dropped_tensors_stay_as_they_are(task, params, loss):
    coarse = {**rounded(params, "up.weight", 1.0), "up.bias": torch.zeros_like(params["up.bias"])}
    followed = Targets(matrices(params))
    followed.follow(loss.slope, state_of(coarse, zero=("up.bias",)), curvatures_at(task, coarse))
    assert np.array_equal(followed["up.bias"], matrices(params)["up.bias"])
    assert not np.array_equal(followed["down.weight"], matrices(params)["down.weight"])


def test_files_are_smaller_for_it(task, params, monkeypatch):
    with_targets = [complexity(params, task, 0.1, seed=seed).bytes for seed in range(3)]
    monkeypatch.setattr(targets.Targets, "follow", lambda *arguments: None)
    without = [complexity(params, task, 0.1, seed=seed).bytes for seed in range(3)]
    assert sum(with_targets) < 0.97 * sum(without)
