"""Naive proxies of complexity: what one would try before a rate–distortion search. Controls, not measures of anything.

- `prediction_bytes`: zip of the answers that the network gives to every possible input. It knows the function at the
  inputs it is asked, not the network, and it asks for inputs that training does not have.
- `squared_norm`: ‖w‖², the description length under a Gaussian prior, up to constants.
- `fisher_bits`: ½ Σ log₂(1 + n Fᵢ wᵢ²), every weight by itself to the precision that n examples give it; F is the
  diagonal of the Fisher information (Hinton & van Camp 1993; Rissanen 1996). An estimate: nothing is coded.
"""

import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

DRAWS = 16


def naive_proxies(task: Any, params: "Mapping[str, torch.Tensor]", seed: int = 0) -> dict[str, float]:
    """All three, of a task with `predictions(params) -> (N,)` and `sampled_loss(params, generator) -> (n,)`."""
    fisher = fisher_diagonal(task, params, seed)
    return {
        "prediction_bytes": prediction_bytes(task.predictions(params).numpy()),
        "squared_norm": float(sum(weight.double().square().sum() for weight in params.values())),
        "fisher_bits": sum(fisher_bits(params[name].numpy(), fisher[name].numpy()) for name in params),
    }


def prediction_bytes(predictions: np.ndarray) -> int:
    """Bytes of the predicted classes (N,), fewer than 256 of them, after zlib (level 9)."""
    if predictions.size and not 0 <= predictions.min() <= predictions.max() < 256:
        raise ValueError("prediction_bytes: one byte a class; there are more than 256 classes")
    return len(zlib.compress(predictions.astype(np.uint8).tobytes(), 9))


def fisher_bits(weights: np.ndarray, information: np.ndarray) -> float:
    """½ Σ log₂(1 + I w²) over the weights of a tensor; I is their Fisher information from all examples together."""
    ratio = information.astype(np.float64) * np.square(weights, dtype=np.float64)
    return float(0.5 * np.log2(1 + ratio).sum())


def fisher_diagonal(task: Any, params: "Mapping[str, torch.Tensor]", seed: int = 0) -> "dict[str, torch.Tensor]":
    """Diagonal of the Fisher information of all training examples together, by weight: n times the mean over examples.

    The gradient of Σ rᵢ lossᵢ, with random signs rᵢ and labels drawn from the network, has it as its second moment;
    `DRAWS` of them are averaged. A weight that the loss does not see has none.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    point = {name: weight.detach().clone().requires_grad_() for name, weight in params.items()}
    total = {name: torch.zeros_like(weight) for name, weight in params.items()}
    for _ in range(DRAWS):
        losses = task.sampled_loss(point, generator)
        signs = torch.randint(0, 2, losses.shape, generator=generator) * 2 - 1
        gradients = torch.autograd.grad((signs * losses).sum(), list(point.values()), allow_unused=True)
        for name, gradient in zip(point, gradients, strict=True):
            if gradient is not None:
                total[name] += gradient.square() / DRAWS
    return total
