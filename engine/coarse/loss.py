"""The loss as the search asks for it: on all examples where a decision is final, on a random part of them elsewhere."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import KolmogramError
from ..lazy import lazy
from ..tasks import Task
from .placement import Placement

PART, SLOPE_PART = 800, 2600
"""Examples that decisions are taken on, and that slopes are of."""


def part_of(task: Task, generator: torch.Generator, size: int = PART) -> Task:
    """The task on about `size` of its examples, drawn afresh; the task itself if it is small or cannot be divided."""
    subset = getattr(task, "subset", None)
    if subset is None or (task.num_examples or 0) < 1.5 * size:
        return task
    return subset(size, generator)


class Slope(NamedTuple):
    """How the loss changes with every tensor that it depends on; and the loss itself, if it is of all examples."""

    loss: float | None
    gradients: dict[str, Tensor]


class Loss:
    """Mean training loss in nats per example, infinite where it is not a number; `fixed` tensors always come along.

    Raises KolmogramError if the loss of `original` itself is not finite.
    """

    def __init__(
        self,
        task: Task,
        original: Mapping[str, Tensor],
        fixed: Mapping[str, Tensor],
        generator: torch.Generator,
        placed: Placement | None = None,
    ) -> None:
        self.task = task
        self.placed = placed or Placement(original)
        self.fixed = self.placed(fixed)
        self.evaluations = 0
        self._generator = generator
        self._original = original
        self._part = part_of(task, generator)
        self.original = self(original)
        if self.original == math.inf:
            raise KolmogramError(
                "the loss of the checkpoint itself is not a finite number: check the task's data and names"
            )

    def __call__(self, params: Mapping[str, Tensor]) -> float:
        return self._value(self.task, params)

    def on_part(self, params: Mapping[str, Tensor]) -> float:
        """The loss on the part: the same examples at every call, so that differences mean something."""
        return self._value(self._part, params)

    def slope(self, params: Mapping[str, Tensor]) -> Slope:
        """The slope on most examples: its gradients are less those of the original on the same examples.

        So the original is a point of rest: what further training would make of it is no part of the slope.
        """
        task, trend = self._followed
        value, gradients = self._gradients(task, params)
        gradients = {name: g - trend[name] if name in trend else g for name, g in gradients.items()}
        return Slope(_finite(value) if task is self.task else None, gradients)

    @lazy
    def _followed(self) -> tuple[Task, dict[str, Tensor]]:
        """The examples that slopes are of, and the gradient of the original on them."""
        task = part_of(self.task, self._generator, SLOPE_PART)
        return task, self._gradients(task, self._original)[1]

    def _gradients(self, task: Task, params: Mapping[str, Tensor]) -> tuple[float, dict[str, Tensor]]:
        """The loss of a task, and its gradient of every tensor that it depends on."""
        point = {name: value.detach().clone().requires_grad_() for name, value in self.placed(params).items()}
        loss = task.loss({**self.fixed, **point})
        gradients = torch.autograd.grad(loss, list(point.values()), allow_unused=True)
        return float(loss.detach()), {n: g.cpu() for n, g in zip(point, gradients, strict=True) if g is not None}

    def _value(self, task: Task, params: Mapping[str, Tensor]) -> float:
        self.evaluations += 1
        with torch.no_grad():
            value = float(task.loss({**self.fixed, **self.placed(params)}))
        return _finite(value)


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.inf
