"""How much the loss minds an error in each tensor: Kronecker factors of the Fisher information.

One backward pass of n^(−1/2) Σ_b r_b nll_b, with random signs r_b = ±1 and labels drawn from the model, has the
Fisher information as the covariance of its gradient. Where a tensor meets its inputs x in the open (a linear map, an
embedding), the pass also shows the gradients δ at its outputs, and A ∝ E[δδᵀ], G ∝ E[xxᵀ] are its factors (K-FAC,
Martens & Grosse 2015). A tensor whose inputs cannot be seen gets A = E[g gᵀ], G = E[gᵀ g] of its own gradient g,
which asks nothing of the loss.
"""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

from ..codec.exact import FloatArray
from ..codec.representation import matrix_shape
from ..tasks import Task
from ..tasks.labels import Redrawn, drawn_signs
from .loss import drawn_part, restricted
from .replay import Replayed
from .rounding import Array

LARGEST_SIDE = 1024
"""Axes longer than this get a diagonal metric."""


class Curvature(NamedTuple):
    """The loss of an error E ([m, n]) is about tr(Eᵀ A E G).

    `rows` is A ([m, m] or [m], mean diagonal 1), `columns` is G ([n, n] or [n]).
    """

    rows: Array
    columns: Array


class Moments(NamedTuple):
    """Unnormalised second moments of the two sides of a matrix ([m, m] or [m], and [n, n] or [n])."""

    rows: Tensor
    columns: Tensor


def moments(
    task: Task,
    params: Mapping[str, Tensor],
    draws: int,
    generator: torch.Generator,
    fixed: Mapping[str, Tensor] = MappingProxyType({}),
) -> dict[str, Moments]:
    """Fisher moments at `params` of every tensor that the loss sees, averaged over `draws` backward passes.

    Each pass is on another part of the examples.

    `fixed` tensors are needed by the loss and have no curvature of their own.
    """
    passes, mean = _Passes(task, params, fixed, generator), {}
    for draw in range(draws):
        mean = _mixed(mean, passes.another(), 1 / (draw + 1))
    return {name: Moments(*(side.cpu() for side in sides)) for name, sides in mean.items()}


def curvature(found: Moments | None, shape: tuple[int, ...]) -> Curvature:
    """The metric that moments stand for: zero for a tensor that the loss does not see; the identity if they are no
    numbers, and so tell nothing.
    """
    m, n = matrix_shape(shape)
    if found is None:
        return Curvature(np.ones(m), np.zeros(n))
    a, g = found.rows.float().numpy(), found.columns.float().numpy()
    if n == 1:  # single coordinates are noisy: half of each comes from the mean of the vector
        a = 0.5 * a + 0.5 * a.mean()
    total = float(a.sum() if a.ndim == 1 else np.trace(a))
    if not (np.isfinite(a).all() and np.isfinite(g).all()):
        return Curvature(np.ones(m), np.ones(n))
    return Curvature(a * (m / max(total, 1e-30)), g / m)


def without_dead(matrix: FloatArray, seen: Curvature) -> FloatArray:
    """The matrix with its rows and columns that the loss does not see set to zero; itself if there are none."""
    rows, columns = (side if side.ndim == 1 else np.diag(side) for side in seen)
    dead = (rows == 0)[:, None] | (columns == 0)[None]
    return np.where(dead, 0.0, matrix) if (dead & (matrix != 0)).any() else matrix


class _Passes:
    """Backward passes, each on another part of the examples with other labels and signs.

    On a GPU all that is random is written over what it was before, so that a pass can be replayed.
    """

    def __init__(
        self, task: Task, params: Mapping[str, Tensor], fixed: Mapping[str, Tensor], generator: torch.Generator
    ) -> None:
        self._point = {name: value.detach().requires_grad_() for name, value in params.items()}
        self._task, self._fixed, self._source = task, fixed, generator
        device = next((value.device for value in self._point.values()), torch.device("cpu"))
        self._redrawn = Redrawn() if device.type == "cuda" else None
        self._generator = self._redrawn or generator
        self._examples: Tensor | None = None
        self._objective = torch.zeros((), dtype=torch.float64, device=device)
        self._found: dict[str, Moments] = {}
        self._run = Replayed(self._backward, device, self._objective)

    def another(self) -> dict[str, Moments]:
        """The moments of another pass, in memory that the next may write over."""
        self._generator.set_state(self._source.get_state())
        self._examples = drawn_part(self._task, self._generator, self._examples)
        if self._redrawn:
            self._redrawn.redraw()
        self._run()
        self._source.set_state(self._generator.get_state())
        return self._found

    def _backward(self) -> None:
        if self._redrawn:
            self._redrawn.rewind()
        with _Uses(self._point) as uses:
            part = restricted(self._task, self._examples)
            objective = _signed_loss(part, {**self._fixed, **self._point}, self._generator)
        gradients = torch.autograd.grad(objective, list(self._point.values()), allow_unused=True)
        found = {
            name: uses.moments(name) or _gradient_moments(gradient)
            for name, gradient in zip(self._point, gradients, strict=True)
            if gradient is not None
        }
        self._objective.copy_(objective.detach())
        if self._redrawn and found.keys() == self._found.keys():
            there, here = ([side for sides in each.values() for side in sides] for each in (self._found, found))
            torch._foreach_copy_(there, here)  # pyright: ignore[reportPrivateImportUsage]
        else:
            self._found = found


def _signed_loss(task: Task, point: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
    """A scalar whose gradient has the Fisher information as its covariance, as nearly as the task allows."""
    sampled: Callable[..., Tensor] | None = getattr(task, "sampled_loss", None)
    per_example: Callable[..., Tensor] | None = getattr(task, "per_example_loss", None)
    if sampled is not None:
        losses = sampled(point, generator)
    elif per_example is not None:
        losses = per_example(point)
    else:
        return task.loss(point)
    return (losses * drawn_signs(losses, generator)).sum() / losses.numel() ** 0.5


def _gradient_moments(gradient: Tensor) -> Moments:
    matrix = gradient.reshape(matrix_shape(gradient.shape)).float()
    if matrix.shape[1] == 1:
        energy = matrix[:, 0] ** 2
        return Moments(energy, energy.sum()[None])
    return Moments(_gram(matrix.T), _gram(matrix))


def _gram(rows: Tensor) -> Tensor:
    """Σ r rᵀ over `rows` ([k, n]), only its diagonal where n is large."""
    rows = rows.float()
    return (rows * rows).sum(0) if rows.shape[1] > LARGEST_SIDE else rows.T @ rows


def _mixed(mean: dict[str, Moments], found: dict[str, Moments], share: float) -> dict[str, Moments]:
    """The mean (written over, like what was found) with `share` of that; what only one has seen is as it is there."""
    alone = {name: Moments(*(side.clone() for side in found[name])) for name in found.keys() - mean.keys()}
    both = [name for name in found if name in mean]
    pairs = [_alike(list(pair)) for name in both for pair in zip(mean[name], found[name], strict=True)]
    mine, theirs = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    if pairs:  # on a GPU the launches of a sum for each are what a pass waits for
        torch._foreach_mul_(mine, 1 - share)  # pyright: ignore[reportPrivateImportUsage]
        torch._foreach_mul_(theirs, share)  # pyright: ignore[reportPrivateImportUsage]
        torch._foreach_add_(mine, theirs)  # pyright: ignore[reportPrivateImportUsage]
    return mean | alone | dict(zip(both, map(Moments, mine[::2], mine[1::2]), strict=True))


def _sum(parts: list[Tensor]) -> Tensor:
    """The sum of moments of one axis."""
    return torch.stack(_alike(parts)).sum(0) if len(parts) > 1 else parts[0]


def _alike(parts: list[Tensor]) -> list[Tensor]:
    """Moments of one axis, or all their diagonals if one of them (a look-up's) has no more."""
    if any(part.ndim == 1 for part in parts):
        return [part if part.ndim == 1 else part.diagonal() for part in parts]
    return parts


class _Use(NamedTuple):
    """One place where a tensor acts.

    A map of `inputs` ([k, n], or the rows [k] it looks up) with its output's gradient.
    """

    inputs: Tensor
    outputs: list[Tensor]
    transposed: bool  # the tensor is (in, out), as in x @ W


class _Uses(TorchFunctionMode):
    """Watches the loss being computed and notes where each tensor meets its inputs."""

    def __init__(self, params: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._names = {id(value): name for name, value in params.items()}
        self._shapes = {name: value.shape for name, value in params.items()}
        self._uses: dict[str, list[_Use]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if len(args) < (3 if func is torch.addmm else 2):
            return result  # with names for its arguments, or not one of these
        if func is F.linear or func is F.embedding:
            self._note(args[1], args[0], result, transposed=False)
        elif func is Tensor.__getitem__ and isinstance(result, Tensor):
            if id(args[0]) in self._names and args[0].ndim == 2 and _selects_rows(args[1]):
                rows = torch.arange(len(args[0]), device=args[0].device)[args[1]]
                self._note(args[0], rows, result, transposed=False)
        elif func in (torch.matmul, Tensor.matmul, Tensor.__matmul__):
            self._note(args[1], args[0], result, transposed=True)
        elif func is torch.addmm:
            self._note(args[2], args[1], result, transposed=True)
        return result

    def _note(self, weight: object, inputs: Tensor, result: Tensor, transposed: bool) -> None:
        name = self._names.get(id(weight))
        if name is None or len(self._shapes[name]) != 2 or not result.requires_grad:
            return
        outputs: list[Tensor] = []
        result.register_hook(outputs.append)
        self._uses.setdefault(name, []).append(_Use(inputs.detach(), outputs, transposed))

    def moments(self, name: str) -> Moments | None:
        """The moments of a tensor from all its uses, each with the trace of its gradient's energy.

        None if none was seen.
        """
        found = [self._of_use(name, use) for use in self._uses.get(name, ()) if use.outputs]
        if not found:
            return None
        return Moments(_sum([f.rows for f in found]), _sum([f.columns for f in found]))

    def _of_use(self, name: str, use: _Use) -> Moments:
        outputs = use.outputs[0].reshape(-1, use.outputs[0].shape[-1]).float()
        energy = (outputs * outputs).sum(1)
        if not use.inputs.is_floating_point():
            rows = energy.new_zeros(self._shapes[name][0]).index_add_(0, use.inputs.reshape(-1), energy)
            return Moments(rows, _gram(outputs))
        inputs = use.inputs.reshape(-1, use.inputs.shape[-1]).float()
        total = (inputs * inputs).sum() * energy.mean()  # Σ |x|²|δ|², as if the two were independent
        a, g = (inputs, outputs) if use.transposed else (outputs, inputs)
        return Moments(*(gram * (total / _trace(gram).clamp_min(1e-30)) for gram in (_gram(a), _gram(g))))


def _trace(moment: Tensor) -> Tensor:
    return moment.sum() if moment.ndim == 1 else moment.diagonal().sum()


def _selects_rows(index: object) -> bool:
    return isinstance(index, (int, slice)) or (isinstance(index, Tensor) and not index.is_floating_point())
