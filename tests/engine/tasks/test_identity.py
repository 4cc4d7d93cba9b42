import functools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from kolmogram.engine.tasks.identity import digest
from torch import nn


def scaled(factor):
    return lambda outputs, targets: factor * F.cross_entropy(outputs, targets)


def with_default(outputs, targets, factor=1.0):
    return factor * F.cross_entropy(outputs, targets)


def with_another(factor):
    def with_default(outputs, targets, factor=factor):
        return factor * F.cross_entropy(outputs, targets)

    return with_default


def closing_over(value):
    return lambda outputs, targets: (outputs - value).sum()


class Slots:
    __slots__ = ("x",)

    def __init__(self, x):
        self.x = x

    def loss(self, params):
        return params["w"] * self.x


def losses():
    return [
        F.cross_entropy,
        scaled(1.0),
        scaled(3.0),
        with_default,
        with_another(2.0),
        with_another(3.0),
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss(label_smoothing=0.1),
        nn.CrossEntropyLoss(label_smoothing=0.3),
        nn.CrossEntropyLoss(weight=torch.ones(3)),
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 9.0, 1.0])),
        functools.partial(F.cross_entropy, label_smoothing=0.1),
        functools.partial(F.cross_entropy, label_smoothing=0.2),
        SimpleNamespace(a=1),
        SimpleNamespace(a=2),
        torch.zeros(3),
        torch.zeros(3, 1),
        torch.zeros(3, dtype=torch.int32),
        [1, 2],
        [[1], 2, 3],
        [[1, 2], 3],
        {"x": 1},
        {"x": 2},
        lambda outputs, targets: outputs.sin().sum(),
        lambda outputs, targets: outputs.cos().sum(),
        lambda outputs, targets: sum(x.sin() for x in outputs),
        lambda outputs, targets: sum(x.cos() for x in outputs),
        *map(closing_over, (np.zeros(2), np.ones(2), np.zeros(2, int), {"a", "b"}, {"a", "c"}, Path("a"), Path("b"))),
        closing_over(torch),  # by its name: there is no end to what it holds
        Slots(1).loss,
        Slots(2).loss,
        (one for one in "a"),
    ]


def test_what_behaves_otherwise_has_another_digest_and_what_does_not_the_same():
    first, again = map(digest, losses()), map(digest, losses())
    found = list(first)
    assert found == list(again)
    assert len(set(found)) == len(found)


def test_what_holds_itself_has_an_end():
    loop = [1]
    loop.append(loop)
    assert digest(loop) != digest([1])
