"""What the Fisher information needs at random: labels that a network draws for its own examples, and signs."""

from collections.abc import Callable

import torch
from torch import Tensor

Draw = Callable[[tuple[int, ...], torch.Generator | None, torch.device], Tensor]
"""Random numbers of a shape, from a generator, where that is."""


def drawn_labels(logits: Tensor, generator: torch.Generator | None) -> Tensor:
    """A label (n,) for each row of logits (n, classes), drawn from what they say, where the generator is."""
    numbers = _drawn(_shares, (len(logits), 1), generator, logits.device)
    # Of the shares of the classes, one after the other, it falls into one; sums need not end at 1 exactly.
    return (logits.detach().float().softmax(-1).cumsum(-1) < numbers).sum(-1).clamp_max(logits.shape[-1] - 1)


def drawn_signs(losses: Tensor, generator: torch.Generator) -> Tensor:
    """−1 or 1 for each of the losses, in their shape and type."""
    return _drawn(_coins, losses.shape, generator, losses.device).to(losses) * 2 - 1


class Redrawn(torch.Generator):
    """A generator of the host; what the functions above draw from it stays on the device, where a CUDA graph reads it.

    Whoever draws gets, in the order of drawing, the numbers of before, until `redraw` writes others over them.
    """

    def __init__(self) -> None:
        self._kept: list[tuple[Draw, Tensor]] = []
        self._next = 0

    def rewind(self) -> None:
        """Whoever draws next is the first again."""
        self._next = 0

    def redraw(self) -> None:
        """New numbers in place of all that are kept."""
        for draw, numbers in self._kept:
            numbers.copy_(draw(numbers.shape, self, self.device), non_blocking=True)

    def drawn(self, draw: Draw, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """The numbers kept on the device for whoever draws now; new ones if there are none of that shape."""
        place, self._next = self._next, self._next + 1
        if place == len(self._kept) or self._kept[place][1].shape != shape:
            numbers = draw(shape, self, self.device).to(device, non_blocking=True)  # nobody waits
            self._kept[place:] = [(draw, numbers)]
        return self._kept[place][1]


def _drawn(draw: Draw, shape: tuple[int, ...], generator: torch.Generator | None, device: torch.device) -> Tensor:
    if isinstance(generator, Redrawn):
        return generator.drawn(draw, shape, device)
    return draw(shape, generator, device if generator is None else generator.device).to(device)


def _shares(shape: tuple[int, ...], generator: torch.Generator | None, device: torch.device) -> Tensor:
    return torch.rand(shape, generator=generator, device=device)


def _coins(shape: tuple[int, ...], generator: torch.Generator | None, device: torch.device) -> Tensor:
    return torch.randint(0, 2, shape, generator=generator, device=device)
