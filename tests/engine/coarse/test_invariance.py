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
SPREAD, FARTHEST = 0.09, 0.4  # standard deviation between seeds, 7.2 % here; of each around the mean
SHIFT = 0.08  # of the means over so many seeds, 5 % here


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
def sizes(modular, memorised):
    return [complexity(memorised, modular, EPSILON, seed=seed).bytes for seed in range(SEEDS)]


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


def test_the_order_of_hidden_units_is_little(modular, memorised, sizes):
    up, bias, down = (f"layers.0.mlp.{name}" for name in ("up.weight", "up.bias", "down.weight"))
    order = torch.randperm(len(memorised[bias]), generator=torch.Generator().manual_seed(0))
    permuted = dict(memorised)
    permuted |= {up: memorised[up][order], bias: memorised[bias][order], down: memorised[down][:, order].contiguous()}
    assert float(modular.loss(permuted)) == pytest.approx(float(modular.loss(memorised)), rel=1e-5)
    after = statistics.fmean(complexity(permuted, modular, EPSILON, seed=seed).bytes for seed in range(SEEDS))
    assert after == pytest.approx(statistics.fmean(sizes), rel=SHIFT)


def test_the_seed_of_the_search_is_little(sizes):
    assert statistics.stdev(sizes) < SPREAD * statistics.fmean(sizes)
    assert sizes == pytest.approx([statistics.fmean(sizes)] * SEEDS, rel=FARTHEST)
