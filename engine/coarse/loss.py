"""The loss as the search asks for it: on all examples where a decision is final, on a random part of them elsewhere."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import KolmogramError
from ..lazy import lazy
from ..tasks import Task
from .placement import Placement
from .replay import Replayed

PART, BATCH = 800, 256
"""Examples that decisions are taken on, and that a move of all integers looks at."""


MANY = 1 << 16  # examples, of which so many are drawn that hardly one comes twice


def part_of(task: Task, generator: torch.Generator) -> Task:
    """The task on a part of its examples, drawn afresh; the task itself if it is small or cannot be divided."""
    return restricted(task, drawn_part(task, generator))


def drawn_part(task: Task, generator: torch.Generator, before: Tensor | None = None) -> Tensor | None:
    """The numbers of about PART examples, drawn afresh, where the task's data are; None where `part_of` is all of it.

    They lie in the memory of those `before`.
    """
    count = _divisible(task, PART)
    return _written(_shuffled(count, generator)[:PART], before, task.device) if count else None


def restricted(task: Task, examples: Tensor | None) -> Task:
    """The task on these of its examples; None are all."""
    if examples is None:
        return task
    return task.subset(examples)  # pyright: ignore[reportAttributeAccessIssue]: optional in a task


def _divisible(task: Task, size: int) -> int:
    """Examples that so many can be drawn from; none where the task is small or cannot be divided."""
    count = (hasattr(task, "subset") and task.num_examples) or 0
    return count if count >= 1.5 * size else 0


def _shuffled(count: int, generator: torch.Generator) -> Tensor:
    """The numbers of all examples in any order; of very many only some ([at most MANY], int64)."""
    if count > MANY:
        return torch.randint(count, (MANY,), generator=generator)
    return torch.randperm(count, generator=generator)


def _written(examples: Tensor, before: Tensor | None, device: torch.device | str) -> Tensor:
    """The numbers of examples on a device, in the memory of those before: a graph goes on reading them there."""
    return examples.to(device) if before is None else before.copy_(examples, non_blocking=True)


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
        on_gpu = self.placed.device.type == "cuda"
        network = {**self.fixed, **self.placed(original)} if on_gpu else {}
        shared = {name: value.detach().clone() for name, value in network.items()}
        self._whole = _Evaluation(task, self.fixed, shared, self.placed.device)
        self._part = _Evaluation(part_of(task, generator), self.fixed, shared, self.placed.device)
        self._original = original
        self._batch: Tensor | None = None
        self._coming = torch.zeros(0, dtype=torch.int64)  # examples, in the order in which they will be drawn
        self.original = self(original)
        if self.original == math.inf:
            raise KolmogramError(
                "the loss of the checkpoint itself is not a finite number: check the task's data and names"
            )

    def __call__(self, params: Mapping[str, Tensor]) -> float:
        return self._value(self._whole, params)

    def on_part(self, params: Mapping[str, Tensor]) -> float:
        """The loss on the part: the same examples at every call, so that differences mean something."""
        return self._value(self._part, params)

    @lazy
    def original_on_part(self) -> float:
        """The loss of the original on the part."""
        return self.on_part(self._original)

    def draw(self) -> None:
        """Another batch of examples, in the memory of the one before: all come once before any comes again."""
        self.evaluations += 1
        count = _divisible(self.task, BATCH)
        if not count:
            return
        if len(self._coming) < BATCH:
            shuffled = _shuffled(count, self._generator).to(self.task.device, non_blocking=True)
            self._coming = torch.cat([self._coming.to(shuffled.device), shuffled])
        drawn, self._coming = self._coming[:BATCH], self._coming[BATCH:]
        self._batch = _written(drawn, self._batch, self.task.device)

    def drawing(self) -> tuple[Tensor, Tensor]:
        """What decides which examples are drawn next."""
        return self._generator.get_state(), self._coming

    def draw_as(self, drawing: tuple[Tensor, Tensor]) -> None:
        """Go on drawing as it was when `drawing` was asked for."""
        state, self._coming = drawing
        self._generator.set_state(state)

    def on_batch(self, params: Mapping[str, Tensor]) -> Tensor:
        """The loss on the examples drawn last, to be differentiated."""
        return restricted(self.task, self._batch).loss({**self.fixed, **params})

    def _value(self, evaluation: "_Evaluation", params: Mapping[str, Tensor]) -> float:
        self.evaluations += 1
        value = evaluation(self.placed(params))
        return value if math.isfinite(value) else math.inf


class _Evaluation:
    """The loss of one network after the other; each is put `where` all are, if that is given, and the loss replayed."""

    def __init__(
        self, task: Task, fixed: Mapping[str, Tensor], where: Mapping[str, Tensor], device: torch.device
    ) -> None:
        self._task, self._fixed, self._where = task, fixed, where
        self._result = torch.zeros((), dtype=torch.float64, device=device)
        self._evaluate = Replayed(self._call, device, self._result)

    def __call__(self, params: Mapping[str, Tensor]) -> float:
        network = {**self._fixed, **params}
        with torch.no_grad():
            if not self._where:
                return float(self._task.loss(network))
            values = [network[name] for name in self._where]
            torch._foreach_copy_(list(self._where.values()), values)  # pyright: ignore[reportPrivateImportUsage]
            self._evaluate()
            return float(self._result)

    def _call(self) -> None:
        self._result.copy_(self._task.loss(self._where))
