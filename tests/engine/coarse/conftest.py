"""A small classifier that has been trained, so that its weights mean something."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from kolmogram.engine.tasks import Task


class Blobs(Task):
    """Points in eight clusters, a two-layer network; 2,000 weights and some nobody uses."""

    num_classes = 8

    def __init__(self, seed=0):
        generator = torch.Generator().manual_seed(seed)
        centres = torch.randn(8, 12, generator=generator) * 2
        self.labels = torch.arange(256) % 8
        self.inputs = centres[self.labels] + torch.randn(256, 12, generator=generator)
        self.num_examples = 256

    def logits(self, params):
        hidden = F.relu(F.linear(self.inputs, params["up.weight"], params["up.bias"]))
        return F.linear(F.layer_norm(hidden, (48,), params["norm.weight"]), params["down.weight"])

    def per_example_loss(self, params):
        return F.cross_entropy(self.logits(params), self.labels, reduction="none")

    def sampled_loss(self, params, generator):
        logits = self.logits(params)
        labels = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator)[:, 0]
        return F.cross_entropy(logits, labels, reduction="none")

    def loss(self, params):
        return self.per_example_loss(params).mean()


def train(task, steps=150):
    generator = torch.Generator().manual_seed(1)
    shapes = {"up.weight": (48, 12), "up.bias": (48,), "norm.weight": (48,), "down.weight": (8, 48)}
    params = {n: torch.randn(s, generator=generator) / s[-1] ** 0.5 for n, s in shapes.items()}
    params["norm.weight"] = torch.ones(48)
    params = {name: value.requires_grad_() for name, value in params.items()}
    optimizer = torch.optim.AdamW(params.values(), lr=0.01, weight_decay=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        task.loss(params).backward()
        optimizer.step()
    return {name: value.detach() for name, value in params.items()}


@pytest.fixture(scope="session")
def task():
    return Blobs()


@pytest.fixture(scope="session")
def params(task):
    return train(task)
