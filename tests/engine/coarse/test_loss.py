"""The loss on all examples and on a part of them."""

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from kolmogram.engine.coarse.loss import PART, Loss, _Evaluation, part_of
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
    assert loss.on_part(weights) == loss.original_on_part == loss.original_on_part
    assert loss.evaluations == before + 4, "once for good"
    assert loss.on_part(weights) == pytest.approx(loss(weights), abs=0.1)
    assert loss.on_part(weights) != loss(weights)


def test_parts_are_examples_of_the_task_without_repetition(modular):
    part = part_of(modular, torch.Generator().manual_seed(2))
    pairs = {tuple(pair) for pair in part.train.pairs.tolist()}
    assert len(pairs) == part.num_examples == PART
    assert pairs <= {tuple(pair) for pair in modular.train.pairs.tolist()}
    assert modular.num_examples == int(0.6 * 53 * 53), "the task itself is as it was"


def test_of_many_examples_few_are_drawn_without_listing_all():
    class Numbers(Task):
        num_examples = 10**12

        def loss(self, params):
            return params["w"].sum()

        def subset(self, examples):
            part = Numbers()
            part.drawn = examples
            return part

    first, second = (part_of(Numbers(), torch.Generator().manual_seed(seed)).drawn for seed in (0, 1))
    assert len(first) == len(set(first.tolist()) | set(second.tolist())) - PART == PART
    assert 0 <= int(first.min()) < 10**12 / 10 < int(first.max()) < 10**12


@pytest.mark.parametrize("count", [PART, int(1.5 * PART) - 1, int(1.5 * PART)])
def test_a_task_is_divided_where_that_saves_a_third(count):
    class Numbers(Task):
        num_examples = count

        def loss(self, params):
            return params["w"].sum()

        def subset(self, examples):
            return Numbers()

    whole = Numbers()
    assert (part_of(whole, torch.Generator()) is whole) == (count < 1.5 * PART)


def test_a_module_is_divided_by_its_batches():
    task = Task.from_module(torch.nn.Linear(4, 3), batches(20), F.cross_entropy)
    part = part_of(task, torch.Generator().manual_seed(0))
    assert part.num_examples == PART
    assert task.num_examples == 2000
    weights = torch.nn.Linear(4, 3).state_dict()
    assert float(part.loss(weights)) == pytest.approx(float(part.per_example_loss(weights).mean()))


def test_a_batch_is_drawn_afresh_and_can_be_differentiated(modular, weights):
    loss = Loss(modular, weights, {}, torch.Generator().manual_seed(1))
    point = {name: value.clone().requires_grad_() for name, value in weights.items()}
    before = loss.evaluations

    def on_another(params):
        loss.draw()
        return loss.on_batch(params)

    first, second = on_another(point), on_another(point)
    assert loss.evaluations == before + 2
    assert first != second == loss.on_batch(point), "until another is drawn it is the same"
    assert torch.autograd.grad(first, point["embedding.weight"])[0].any()
    values = torch.stack([on_another(weights) for _ in range(60)])
    error = float(values.std()) / 60**0.5
    assert float(values.mean()) == pytest.approx(loss(weights), abs=4 * error), "and it is all of them in the mean"


def test_every_example_is_drawn_once_before_any_comes_again(modular, weights):
    loss = Loss(modular, weights, {}, torch.Generator().manual_seed(1))
    drawn = []
    while len(drawn) < 2 * modular.num_examples:
        loss.draw()
        drawn += loss._batch.tolist()
    for epoch in (drawn[: modular.num_examples], drawn[modular.num_examples : 2 * modular.num_examples]):
        assert sorted(epoch) == list(range(modular.num_examples))


def test_no_number_is_infinite_and_an_original_without_one_is_refused(task, params):
    loss = Loss(task, params, {}, torch.Generator())
    broken = {**params, "down.weight": params["down.weight"] * math.nan}
    assert loss(broken) == math.inf
    with pytest.raises(KolmogramError, match="not a finite number"):
        Loss(task, broken, {}, torch.Generator())


def test_networks_in_one_place_have_the_loss_that_they_have_in_their_own(task, params):
    """As on a GPU: also what is kept to the byte is what the network at hand has, not what the first one had."""

    class Shifted(Task):
        def loss(self, p):
            return task.loss({name: value for name, value in p.items() if name != "shift"}) + p["shift"].sum()

    fixed = {"shift": torch.zeros(2)}
    shared = {name: value.clone() for name, value in {**fixed, **params}.items()}
    here, there = (_Evaluation(Shifted(), fixed, where, torch.device("cpu")) for where in ({}, shared))
    doubled = {name: 2 * value for name, value in params.items()}
    for network in (params, doubled, {**params, "shift": torch.ones(2)}, params):
        assert there(network) == here(network)
    assert there(params) != there({**params, "shift": torch.ones(2)})
    assert not fixed["shift"].any()
