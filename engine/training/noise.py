"""Gradients at noisy weights, updates to clean ones."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightNoise:
    """Gaussian noise on all trainable weights for the length of a `with` block.

        noise = WeightNoise(std=1e-3)
        with noise(model):
            loss(model).backward()      # gradient at θ + noise, fresh at every entry
        optimizer.step()                # update of θ, which is back bit for bit

    The clean weights are kept aside meanwhile: one more copy of the model. The backward pass must lie inside the block;
    autograd says so if it does not.
    """

    def __init__(self, std: float, generator: torch.Generator | None = None) -> None:
        self.std = std
        self.generator = generator

    @contextmanager
    def __call__(self, model: nn.Module | Mapping[str, Tensor]) -> Iterator[None]:
        named = model.items() if isinstance(model, Mapping) else model.named_parameters()
        weights = [weight for _, weight in named if weight.requires_grad]
        with torch.no_grad():
            clean = [weight.clone() for weight in weights]
            for weight in weights:
                weight.add_(torch.empty_like(weight).normal_(0, self.std, generator=self.generator))
        try:
            yield
        finally:
            with torch.no_grad():
                for weight, kept in zip(weights, clean, strict=True):
                    weight.copy_(kept)
