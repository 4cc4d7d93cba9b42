"""The integers of a coded network as real numbers that round to them, so that all of them can be trained at once.

The loss is taken at the integers, and its gradient is passed on to the real numbers as if nothing had been rounded
(straight through, Bengio et al. 2013). Bytes pull every number towards zero: a unit of magnitude costs what it costs in
its row or column. All numbers move a little at a time, each as far as its gradients agree (Adam, Kingma & Ba 2015);
and so do the steps, in two ways: with their integers left alone, and with their weights left alone, where a coarser
step saves bytes and adds noise (Esser et al. 2020 learn steps from that noise; the bytes are ours).
"""

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..codec.representation import OCTAVE, nearest_step, step_size
from .tensor_coder import Candidate, recoded

PACE, STEP_PACE, STRETCH_PACE = 0.09, 0.08, 0.03  # of integers, in units; of steps, in e-folds, in their two ways
MOMENTUM, MEMORY = 0.9, 0.98  # of gradients, and of their squares
DAMPING = 2.0  # bits per unit: gradients below move a number the less
HELD = 1.0  # nats² per unit²: what gradients are taken to be where an integer must not move
JITTER = 0.45  # numbers start within so much of their integers, or those of a row would all change at once
GROUP_BITS, TENSOR_BITS = 4.0, 24.0  # about what a row or column, and a tensor, cost before their first symbol


class Averages:
    """Running averages of gradients and of their squares."""

    def __init__(self, like: Tensor) -> None:
        self.gradient, self.square = torch.zeros_like(like), torch.zeros_like(like)
        self.seen = torch.zeros((), dtype=torch.float64, device=like.device)

    def add(self, gradient: Tensor) -> None:
        """Take in another gradient."""
        self.seen.add_(1)
        self.gradient.lerp_(gradient, 1 - MOMENTUM)
        self.square.mul_(MEMORY).addcmul_(gradient, gradient, value=1 - MEMORY)

    @property
    def mean(self) -> Tensor:
        """The mean gradient, without the zero that the average began at."""
        return self.gradient / (1 - MOMENTUM**self.seen)

    @property
    def magnitude(self) -> Tensor:
        """The root of the mean square, likewise."""
        return (self.square / (1 - MEMORY**self.seen)).sqrt_()

    @property
    def agreement(self) -> Tensor:
        """Mean over magnitude, about −1 … 1."""
        return self.mean / (self.magnitude + 1e-12)

    def copy(self) -> "Averages":
        """Averages that go on on their own."""
        other = copy.copy(self)
        other.gradient, other.square, other.seen = self.gradient.clone(), self.square.clone(), self.seen.clone()
        return other

    def assign(self, other: "Averages") -> None:
        """Become what the other is, in the same memory."""
        self.gradient.copy_(other.gradient)
        self.square.copy_(other.square)
        self.seen.copy_(other.seen)


class Slot(NamedTuple):
    """One tensor's place: its code at the start, a tensor of its shape and type, and its bases in float32."""

    name: str
    start: Candidate
    like: Tensor
    bases: tuple[Tensor | None, Tensor | None]

    @property
    def symbols(self) -> Tensor:
        """At the start, flat."""
        assert self.start.code.symbols is not None
        return torch.from_numpy(self.start.code.symbols.astype(np.float32)).reshape(-1)

    @property
    def shape(self) -> tuple[int, int]:
        """Of the matrix of symbols."""
        return self.start.decoded.matrix.shape

    @property
    def axis(self) -> int:
        """Along which the symbols of one group lie: the groups are what is coded one after the other."""
        return 1 if self.start.code.transposed else 0

    @property
    def group_size(self) -> int:
        """Symbols in a group."""
        return self.shape[self.axis]

    @property
    def groups(self) -> int:
        """Groups in the tensor."""
        return self.shape[1 - self.axis]


_MOVING = ("_values", "_symbols", "_log_steps", "_offsets", "_averages", "_step_averages", "_stretch_averages")


class Latents:
    """All direct codes of a network in training: flat float32 vectors of N symbols in T tensors, G rows or columns.

    `codes` and `weights` are theirs by name; everything is kept on `device`, and in the same memory for good, so that
    what is done to it can be replayed.
    """

    def __init__(
        self,
        codes: Mapping[str, Candidate],
        weights: Mapping[str, Tensor],
        device: torch.device,
        generator: torch.Generator,
    ) -> None:
        self._slots = [_slot(name, code, weights[name], device) for name, code in codes.items()]
        symbols = torch.cat([slot.symbols for slot in self._slots] or [torch.zeros(0)])
        jitter = torch.rand(symbols.shape, generator=generator).mul_(2 * JITTER).sub_(JITTER)
        self._values, self._symbols = (symbols + jitter).to(device), symbols.to(device)
        steps = [math.log(step_size(slot.start.code.step)) for slot in self._slots]
        self._log_steps = torch.tensor(steps, dtype=torch.float64, device=device)
        offsets = [float(slot.start.code.offset) for slot in self._slots]
        self._offsets = torch.tensor(offsets, dtype=torch.float64, device=device)
        counts = [torch.full((slot.groups,), float(slot.group_size)) for slot in self._slots]
        self._counts = torch.cat(counts or [torch.zeros(0)]).to(device)
        groups = torch.arange(len(self._counts)).split([slot.groups for slot in self._slots])
        groups = [part.unsqueeze(slot.axis) for slot, part in zip(self._slots, groups, strict=True)]
        self._group_of, self._tensor_of = self._numbered(groups), self._numbered(torch.arange(len(self)))
        self._averages = Averages(self._values)
        self._step_averages, self._stretch_averages = Averages(self._log_steps), Averages(self._log_steps)

    def __len__(self) -> int:
        return len(self._slots)

    def copy(self) -> "Latents":
        """Latents that move on their own."""
        other = copy.copy(self)
        for name in _MOVING:
            value = getattr(self, name)
            setattr(other, name, value.copy() if isinstance(value, Averages) else value.clone())
        return other

    def assign(self, other: "Latents") -> None:
        """Become what a copy is, in the same memory."""
        for name in _MOVING:
            value, new = getattr(self, name), getattr(other, name)
            value.assign(new) if isinstance(value, Averages) else value.copy_(new)

    @property
    def bits(self) -> float:
        """Estimated bits of the codes."""
        totals = self._totals()
        ratio = _ratio(totals / self._counts, self._counts)
        zero, unit = torch.log2((1 + ratio) / (1 - ratio)), -torch.log2(ratio)
        groups = zero * self._counts + unit * totals + GROUP_BITS
        return float(groups.sum()) + TENSOR_BITS * len(self)

    def leaves(self) -> tuple[Tensor, Tensor]:
        """What the loss is differentiated by: the symbols ([N]) and the steps ([T])."""
        exponents = (self._log_steps * (OCTAVE / math.log(2))).round() / OCTAVE
        return self._symbols.detach().requires_grad_(), torch.exp2(exponents).float().requires_grad_()

    def decode(self, symbols: Tensor, steps: Tensor) -> dict[str, Tensor]:
        """The tensors that these stand for, in float32 arithmetic."""
        decoded = {}
        for slot, part, step, offset in zip(self._slots, self._split(symbols), steps, self._offsets, strict=True):
            matrix = (part + offset) * step
            left, right = slot.bases
            if left is not None:
                matrix = left.T @ matrix
            if right is not None:
                matrix = matrix @ right
            decoded[slot.name] = matrix.reshape(slot.like.shape).to(slot.like.dtype)
        return decoded

    def move(self, gradients: Sequence[Tensor], price: Tensor, pace: Tensor) -> None:
        """Move integers and steps against their gradients (nats per unit) and against their bytes.

        `price` is in bits per nat, `pace` the share of the full one: float64 scalars on the device.
        """
        gradient, step_gradient = (torch.nan_to_num(each, 0.0, 0.0, 0.0) for each in gradients)
        units = self._units()
        self._stretch(gradient, units, price, pace)
        self._averages.add(gradient)
        scale = self._averages.magnitude.mul_(price).add_(DAMPING).reciprocal_().mul_(PACE * pace)
        self._values.addcmul_(scale * -price, self._averages.mean)
        pull = scale.mul_(units)
        self._values.sub_(torch.clamp(self._values, -pull, pull))
        torch.round(self._values, out=self._symbols)
        self._step_averages.add(step_gradient * self._log_steps.exp())
        self._log_steps.sub_(self._step_averages.agreement * (STEP_PACE * pace))

    def _stretch(self, gradient: Tensor, units: Tensor, price: Tensor, pace: Tensor) -> None:
        """Change steps and leave the weights alone: a coarser step has fewer units to code and rounds more away.

        Only units beyond the first count as saved: a lone one does not become cheaper, it vanishes.
        """
        noise = self._sums(gradient * (self._symbols - self._values))
        saved = self._sums((self._symbols.abs() - 1).clamp_(min=0).mul_(units))
        self._stretch_averages.add(price * noise - saved)
        finer = self._stretch_averages.agreement * (STRETCH_PACE * pace) * (self._offsets == 0)  # these are integers
        self._log_steps.sub_(finer)
        self._scale(finer.exp())

    def _scale(self, factors: Tensor) -> None:
        """Measure in units that are finer by these factors ([T])."""
        each = factors.float().index_select(0, self._tensor_of)
        self._values.mul_(each)
        self._averages.gradient.div_(each)
        self._averages.square.div_(each.square_())

    def refine(self, factor: int) -> None:
        """Code the same network with steps that are finer by a factor: every integer is multiplied by it."""
        self._values.add_(self._symbols, alpha=factor - 1)
        self._symbols.mul_(factor)
        self._averages.gradient.div_(factor)
        self._averages.square.div_(factor**2)
        self._offsets.mul_(factor)
        self._log_steps.sub_(math.log(factor))

    def with_one_of(self, other: "Latents") -> Iterable[tuple[slice, "Latents"]]:
        """For each tensor where it lies, and these latents with that tensor as `other` has it."""
        start = 0
        for index, slot in enumerate(self._slots):
            place = slice(start, start + math.prod(slot.shape))
            mixed, start = copy.copy(self), place.stop
            mixed._symbols, mixed._log_steps = self._symbols.clone(), self._log_steps.clone()
            mixed._symbols[place], mixed._log_steps[index] = other._symbols[place], other._log_steps[index]
            yield place, mixed

    def hold(self, place: slice, other: "Latents") -> int:
        """Keep the integers of a tensor that differ from `other`'s from moving for long. How many there are."""
        differ = torch.zeros_like(self._symbols, dtype=torch.bool)
        differ[place] = self._symbols[place] != other._symbols[place]
        self._values[differ] = self._symbols[differ]
        self._averages.square[differ] = HELD
        return int(differ.sum())

    def codes(self) -> dict[str, Candidate]:
        """The codes as they are now."""
        found = {}
        parts, log_steps, offsets = self._split(self._symbols.cpu()), self._log_steps.tolist(), self._offsets.tolist()
        for slot, part, log_step, offset in zip(self._slots, parts, log_steps, offsets, strict=True):
            symbols = part.numpy().astype(np.int64)
            code = replace(slot.start.code, step=nearest_step(math.exp(log_step)), offset=int(offset), symbols=symbols)
            found[slot.name] = recoded(slot.start, code)
        return found

    def _units(self) -> Tensor:
        """Bits of another unit of magnitude in the group of every symbol ([N])."""
        unit = -torch.log2(_ratio(self._totals() / self._counts, self._counts))
        return unit.index_select(0, self._group_of)

    def _totals(self) -> Tensor:
        """Sums of magnitudes of the groups ([G])."""
        parts = self._split(self._symbols.abs())
        sums = [part.sum(slot.axis) for slot, part in zip(self._slots, parts, strict=True)]
        return torch.cat(sums or [self._counts])

    def _sums(self, flat: Tensor) -> Tensor:
        """Sums over every tensor ([T])."""
        return torch.stack([part.sum() for part in self._split(flat)] or [flat]).double()

    def _numbered(self, parts: Iterable[Tensor]) -> Tensor:
        """What each symbol belongs to ([N] int32), given that of every tensor's symbols."""
        flat = torch.empty(len(self._symbols), dtype=torch.int32)
        for place, part in zip(self._split(flat), parts, strict=True):
            place.copy_(part)
        return flat.to(self._symbols.device)

    def _split(self, flat: Tensor) -> list[Tensor]:
        """The matrices ([m, n], views) in a flat vector."""
        parts = flat.split([math.prod(slot.shape) for slot in self._slots])
        return [part.view(slot.shape) for slot, part in zip(self._slots, parts, strict=True)]


def _slot(name: str, code: Candidate, like: Tensor, device: torch.device) -> Slot:
    left, right = (b if b is None else torch.from_numpy(b).float().to(device) for b in code.decoded.bases)
    return Slot(name, code, like, (left, right))


def _ratio(means: Tensor, counts: Tensor) -> Tensor:
    """Of the probabilities of neighbouring magnitudes, in two-sided geometric symbols of these mean magnitudes."""
    means = torch.maximum(means, 0.5 / counts)
    return means / (1 + (1 + means * means).sqrt())
