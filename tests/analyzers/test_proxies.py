import math

import numpy as np
import pytest
import torch
from kolmogram.analyzers.proxies import fisher_bits, fisher_diagonal, naive_proxies, prediction_bytes
from kolmogram.engine.tasks.modular import ModularTask


@pytest.fixture(scope="module")
def network():
    task = ModularTask("addition", modulus=11, width=8, train_fraction=0.5)
    return task, task.network.initial(torch.Generator().manual_seed(0))


def test_a_table_with_a_rule_zips_smaller_than_one_without():
    table = np.add.outer(np.arange(113), np.arange(113)).ravel() % 113
    shuffled = np.random.default_rng(0).permutation(table)
    assert prediction_bytes(np.zeros_like(table)) < prediction_bytes(table) < prediction_bytes(shuffled) / 10
    assert prediction_bytes(shuffled) > len(table) * math.log2(113) / 8  # its entropy: no code is shorter
    with pytest.raises(ValueError, match="256 classes"):
        prediction_bytes(np.array([0, 256]))


def test_bits_of_a_weight():
    """One bit for each factor of two between the weight and the error it may have."""
    assert fisher_bits(np.zeros(3), np.ones(3)) == 0
    assert fisher_bits(np.ones(3), np.zeros(3)) == 0
    assert fisher_bits(np.full(5, 2.0), np.full(5, 3 / 4)) == pytest.approx(5)
    assert fisher_bits(np.array([1e6]), np.ones(1)) == pytest.approx(math.log2(1e6))


def test_the_diagonal_is_the_sum_of_squared_gradients_over_examples_and_labels(network):
    """Against its definition: every example with every label, weighted by what the network thinks of it."""
    task, params = network
    weights = {name: weight.detach().requires_grad_() for name, weight in params.items()}
    log_p = task.network.logits(weights, task.train.pairs).log_softmax(-1)
    name = "output.bias"
    expected = torch.zeros_like(params[name])
    for row in log_p:
        for value in row:
            (gradient,) = torch.autograd.grad(value, weights[name], retain_graph=True)
            expected += value.exp().detach() * gradient.square()
    estimates = torch.stack([fisher_diagonal(task, params, seed)[name] for seed in range(30)])
    assert estimates.mean(0).sum().item() == pytest.approx(expected.sum().item(), rel=0.05)


def test_weights_that_the_loss_does_not_see_cost_nothing(network):
    task, params = network
    seen = fisher_diagonal(task, params)["positional_embedding.weight"]
    assert seen[:4].count_nonzero() > 0
    assert seen[4:].count_nonzero() == 0


def test_the_three_of_a_checkpoint(network):
    task, params = network
    proxies = naive_proxies(task, params)
    assert proxies == naive_proxies(task, params)
    assert proxies["squared_norm"] == pytest.approx(sum(w.square().sum().item() for w in params.values()), rel=1e-5)
    assert proxies["prediction_bytes"] == prediction_bytes(task.predictions(params).numpy())
    assert proxies["fisher_bits"] > 0
