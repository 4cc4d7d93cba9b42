"""Complexity hardly depends on what a network is not: dead weights, the order of its hidden units, seeds of the search.

On a transformer that memorises additions mod 23: about seven thousand weights, a few kilobytes.
"""

import statistics

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from kolmogram.engine.coarse import complexity
from kolmogram.engine.tasks import Task
from kolmogram.engine.tasks.modular import ModularTask

EPSILON = 0.25
SEEDS = 48
SPREAD, FARTHEST = 0.03, 0.1  # standard deviation between seeds, 2.5 % over 216 searches; of each around the mean
SHIFT = 0.03  # of the means over so many seeds, whose difference has a standard deviation of 0.5 %
WAY_SPREAD, WAY_SHIFT = 0.09, 0.08  # the same by way of ε = 1, to half of the bytes: 7.2 and 5 %


@pytest.fixture(scope="module")
def modular():
    return ModularTask("addition", modulus=23, width=32, train_fraction=0.5)


@pytest.fixture(scope="module")
def memorised(modular):
    initial = modular.network.initial(torch.Generator().manual_seed(0))
    params = {name: value.requires_grad_() for name, value in initial.items()}
    optimizer = torch.optim.AdamW(params.values(), lr=3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        logits = modular.network.logits(params, modular.train.pairs)
        F.cross_entropy(logits, modular.train.labels).backward()
        optimizer.step()
    return {name: value.detach() for name, value in params.items()}


@pytest.fixture(scope="module")
def result(modular, memorised):
    return complexity(memorised, modular, EPSILON)


@pytest.fixture(scope="module")
def permuted(memorised):
    up, bias, down = (f"layers.0.mlp.{name}" for name in ("up.weight", "up.bias", "down.weight"))
    order = torch.randperm(len(memorised[bias]), generator=torch.Generator().manual_seed(0))
    moved = {up: memorised[up][order], bias: memorised[bias][order], down: memorised[down][:, order].contiguous()}
    return {**memorised, **moved}


def searched(task, params):
    return [complexity(params, task, EPSILON, seed=seed).bytes for seed in range(SEEDS)]


@pytest.fixture(scope="module")
def sizes(modular, memorised, permuted):
    """Of the network and of its permuted twin, by the way that every search takes."""
    return searched(modular, memorised), searched(modular, permuted)


@pytest.fixture(scope="module")
def direct_sizes(modular, memorised, permuted):
    """The same without a way: from the start to ε at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kolmogram.engine.coarse.search.HOMELY", 0.2)  # so that ε is home
        return searched(modular, memorised), searched(modular, permuted)


def test_dead_weights_cost_next_to_nothing(modular, memorised, result):
    class Indifferent(Task):
        num_examples = modular.num_examples

        def loss(self, params):
            return modular.loss({name: value for name, value in params.items() if name != "unused.weight"})

        def sampled_loss(self, params, generator):
            return modular.sampled_loss({n: v for n, v in params.items() if n != "unused.weight"}, generator)

    padded = {**memorised, "unused.weight": torch.randn(256, 256, generator=torch.Generator().manual_seed(0))}
    found = complexity(padded, Indifferent(), EPSILON)
    assert found.per_tensor["unused.weight"].transform == "zero"
    assert found.bytes < 1.005 * result.bytes + 16  # its name and shape are in the header


def test_the_order_of_tensors_is_nothing(modular, memorised, result):
    assert complexity(dict(reversed(memorised.items())), modular, EPSILON).encoded == result.encoded


def test_the_order_of_hidden_units_is_little(modular, memorised, permuted, direct_sizes):
    assert float(modular.loss(permuted)) == pytest.approx(float(modular.loss(memorised)), rel=1e-5)
    before, after = map(statistics.fmean, direct_sizes)
    assert after == pytest.approx(before, rel=SHIFT)


def test_the_seed_of_the_search_is_little(direct_sizes):
    sizes, _ = direct_sizes
    assert statistics.stdev(sizes) < SPREAD * statistics.fmean(sizes)
    assert sizes == pytest.approx([statistics.fmean(sizes)] * SEEDS, rel=FARTHEST)


def test_by_way_of_a_larger_epsilon_files_are_half_as_large_and_differ_more(sizes, direct_sizes):
    before, after = map(statistics.fmean, sizes)
    assert max(before, after) < 0.65 * statistics.fmean(direct_sizes[0])
    assert statistics.stdev(sizes[0]) < WAY_SPREAD * before
    assert after == pytest.approx(before, rel=WAY_SHIFT)
