"""What tensors are rounded towards: the weights, moved to make up for what the rounding of the other tensors costs.

Within a matrix, error feedback makes up for the errors made so far. Between matrices the loss itself says what is asked
of each: its gradient at the coarse network, in the metric of the tensor (a natural gradient, Amari 1998), less the
gradient at the original: with no errors nothing moves, however much the network has still to learn. As in training
through a quantiser (Bengio et al. 2013), steps are taken from the coarse network and kept on what it is rounded from.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from ...kernels.threads import with_one_blas_thread_each
from ..codec.exact import FloatArray
from ..codec.representation import Kind
from .curvature import Curvature
from .loss import Slope
from .rounding import Metric
from .state import State
from .tensor_coder import ROUNDING_DAMPING

FIRST_RATE, LARGEST_RATE = 0.1, 1.0  # of a tensor's natural gradient that a step takes
SHRINK, GROW = 0.5, 2.0  # at most, by which a step changes the rate


class Targets:
    """A target ([m, n] float64) for each matrix of `weights`: the weights themselves until the loss is followed."""

    def __init__(self, weights: Mapping[str, FloatArray]) -> None:
        self._weights = weights
        self._shifts: dict[str, FloatArray] = {}
        self._rates: dict[str, float] = {}

    def __getitem__(self, name: str) -> FloatArray:
        return self._weights[name] + self._shifts.get(name, 0.0)

    def follow(self, slope: Slope, state: State, curvatures: Mapping[str, Curvature]) -> None:
        """Move a step down the slope from where `state` stands, if that lowers the loss."""
        loss, gradients = slope(state.params)
        names = [n for n, candidate in state.candidates.items() if candidate.code.kind != Kind.ZERO and n in gradients]
        natural = with_one_blas_thread_each(lambda n: _natural(gradients[n], curvatures[n]), names)
        steps = {n: -self._rate(n) * direction for n, direction in zip(names, natural, strict=True)}
        lower, after = slope(state.params | {n: _plus(state.params[n], step) for n, step in steps.items()})
        better = lower < loss
        for name, step in steps.items():
            self._lead(name, _along(gradients[name], step), _along(after.get(name, gradients[name]), step), better)
            if better:
                self._shifts[name] = self._shifts.get(name, 0.0) + step

    def _rate(self, name: str) -> float:
        return self._rates.get(name, FIRST_RATE)

    def _lead(self, name: str, before: float, after: float, better: bool) -> None:
        """Set a tensor's rate by how the slope along its step has changed by the end of the step, all having moved.

        By the straight line through both, the slope is zero at 1 / (1 − after / before) of the step.
        """
        left = after / min(before, -1e-30)
        factor = 1 / (1 - left) if left < 1 - 1 / GROW else GROW
        low, high = (SHRINK, GROW) if better else (SHRINK * SHRINK, SHRINK)
        self._rates[name] = min(self._rate(name) * min(max(factor, low), high), LARGEST_RATE)


def _natural(gradient: Tensor, curvature: Curvature) -> FloatArray:
    """The gradient in the inverse metrics of both sides ([m, n]), damped as for rounding."""
    rows, columns = (Metric(side, ROUNDING_DAMPING).inverse for side in curvature)
    matrix = gradient.double().numpy().reshape(len(rows), len(columns))
    matrix = rows[:, None] * matrix if rows.ndim == 1 else rows @ matrix
    return matrix * columns if columns.ndim == 1 else matrix @ columns


def _plus(value: Tensor, step: FloatArray) -> Tensor:
    return (value.double() + torch.from_numpy(step).reshape(value.shape)).to(value.dtype)


def _along(gradient: Tensor, step: FloatArray) -> float:
    """The slope along a step."""
    return float((gradient.double().numpy().reshape(step.shape) * step).sum())
