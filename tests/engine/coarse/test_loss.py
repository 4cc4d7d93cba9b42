"""The loss on all examples and on a part of them."""

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from kolmogram.engine.coarse.loss import PART, Loss, part_of
from kolmogram.engine.errors import KolmogramError
from kolmogram.engine.tasks import Task
from kolmogram.engine.tasks.modular import ModularTask


class Logarithm(Task):
    """Of the sum of all weights: no number below zero."""

    def loss(self, params):
        return sum(value.sum() for value in params.values()).log()


@pytest.fixture(scope="module")
def modular():
    return ModularTask("addition", modulus=53, train_fraction=0.6)


@pytest.fixture
def weights(modular):
    return modular.network.initial(torch.Generator().manual_seed(0))


def batches(count, size=100):
    generator = torch.Generator().manual_seed(3)
    return [(torch.randn(size, 4, generator=generator), torch.arange(size) % 3) for _ in range(count)]


def test_a_small_task_is_not_divided(task, params):
    loss = Loss(task, params, {}, torch.Generator())
    assert part_of(task, torch.Generator()) is task
    assert loss.on_part(params) == loss(params) == loss.original


def test_a_part_is_the_same_at_every_call_and_near_the_whole(modular, weights):
    loss = Loss(modular, weights, {}, torch.Generator().manual_seed(1))
    before = loss.evaluations
    assert loss.on_part(weights) == loss.on_part(weights)
    assert loss.evaluations == before + 2
    assert loss.on_part(weights) == pytest.approx(loss(weights), abs=0.1)
    assert loss.on_part(weights) != loss(weights)


def test_parts_are_examples_of_the_task_without_repetition(modular):
    part = part_of(modular, torch.Generator().manual_seed(2))
    pairs = {tuple(pair) for pair in part.train.pairs.tolist()}
    assert len(pairs) == part.num_examples == PART
    assert pairs <= {tuple(pair) for pair in modular.train.pairs.tolist()}
    assert modular.num_examples == int(0.6 * 53 * 53), "the task itself is as it was"


def test_a_module_is_divided_by_its_batches():
    task = Task.from_module(torch.nn.Linear(4, 3), batches(20), F.cross_entropy)
    part = part_of(task, torch.Generator().manual_seed(0))
    assert part.num_examples == PART
    assert task.num_examples == 2000
    weights = torch.nn.Linear(4, 3).state_dict()
    assert float(part.loss(weights)) == pytest.approx(float(part.per_example_loss(weights).mean()))


def test_a_slope_tells_how_the_loss_changes_and_what_it_is(modular, weights):
    loss = Loss(modular, weights, {}, torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    point = {name: value + 0.1 * torch.randn(value.shape, generator=generator) for name, value in weights.items()}
    step = {name: torch.full_like(value, 1e-3) for name, value in weights.items()}

    def ahead(start, factor):
        return loss({name: start[name] + factor * step[name] for name in start})

    change = (ahead(point, 1) - ahead(point, -1) - ahead(weights, 1) + ahead(weights, -1)) / 2
    slope = loss.slope(point)
    assert sum(float((g * step[name]).sum()) for name, g in slope.gradients.items()) == pytest.approx(change, rel=0.02)
    assert slope.loss == pytest.approx(loss(point), rel=1e-6), "for the slope is of all examples here"


def test_a_slope_where_the_loss_is_not_a_number_is_infinitely_bad(params):
    start = {name: torch.ones_like(value) for name, value in params.items()}
    loss = Loss(Logarithm(), start, {}, torch.Generator())
    below = {name: -value for name, value in start.items()}
    assert loss.slope(below).loss == loss(below) == math.inf


def gradients_of(task, point):
    point = {name: value.clone().requires_grad_() for name, value in point.items()}
    return torch.autograd.grad(task.loss(point), list(point.values()), allow_unused=True)


def test_slopes_have_the_original_as_a_point_of_rest(modular, weights):
    loss = Loss(modular, weights, {}, torch.Generator().manual_seed(1))
    assert not any(gradient.any() for gradient in loss.slope(weights)[1].values())
    other = {name: value + 0.05 for name, value in weights.items()}
    value, gradients = loss.slope(other)
    assert value == pytest.approx(loss(other))
    for name, there, here in zip(weights, gradients_of(modular, other), gradients_of(modular, weights), strict=True):
        if there is not None:
            assert torch.allclose(gradients[name], there - here, atol=1e-6)


def test_no_number_is_infinite_and_an_original_without_one_is_refused(task, params):
    loss = Loss(task, params, {}, torch.Generator())
    broken = {**params, "down.weight": params["down.weight"] * math.nan}
    assert loss(broken) == math.inf
    with pytest.raises(KolmogramError, match="not a finite number"):
        Loss(task, broken, {}, torch.Generator())
