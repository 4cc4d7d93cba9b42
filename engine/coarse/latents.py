"""The integers of a coded network as real numbers that round to them, so that all of them can be trained at once.

The loss is taken at the integers, and its gradient is passed on to the real numbers as if nothing had been rounded
(straight through, Bengio et al. 2013). Bytes pull every number towards zero: a unit of magnitude costs what it costs in
its row or column. All numbers move a little at a time, each as far as its gradients agree (Adam, Kingma & Ba 2015);
and so do the steps, in two ways: with their integers left alone, and with their weights left alone, where a coarser
step saves bytes and adds noise (Esser et al. 2020 learn steps from that noise; the bytes are ours).
"""

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...kernels.dispatch import choose_backend
from ..codec.representation import OCTAVE, nearest_step, step_size
from ..lazy import lazy
from .tensor_coder import Candidate, recoded

if TYPE_CHECKING:
    from ...kernels.latents import Layout

PACE, STEP_PACE, STRETCH_PACE = 0.09, 0.08, 0.03  # of integers, in units; of steps, in e-folds, in their two ways
MOMENTUM, MEMORY = 0.9, 0.98  # of gradients, and of their squares
DAMPING = 2.0  # bits per unit: gradients below move a number the less
HELD = 1.0  # nats² per unit²: what gradients are taken to be where an integer must not move
REACH = 0.45  # numbers start at the weights, but within so much of the integers that these were rounded to
GROUP_BITS, TENSOR_BITS = 4.0, 24.0  # about what a row or column, and a tensor, cost before their first symbol


class Averages(NamedTuple):
    """Running averages of gradients and of their squares ([n]), and how many they are of ([], float64)."""

    gradient: Tensor
    square: Tensor
    seen: Tensor

    @classmethod
    def like(cls, values: Tensor) -> "Averages":
        """Of nothing yet, for gradients in `values`."""
        seen = torch.zeros((), dtype=torch.float64, device=values.device)
        return cls(torch.zeros_like(values), torch.zeros_like(values), seen)

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
        return Averages(*(part.clone() for part in self))


class Slot(NamedTuple):
    """One tensor's place: its code at the start, the weights that it stands for, and its bases in float32."""

    name: str
    start: Candidate
    weights: Tensor
    bases: tuple[Tensor | None, Tensor | None]

    @property
    def symbols(self) -> Tensor:
        """At the start, group after group."""
        assert self.start.code.symbols is not None
        return self._flat(torch.from_numpy(self.start.code.symbols.astype(np.float32)))

    @property
    def values(self) -> Tensor:
        """Where the weights lie in units of the step, or as near as rounds to the symbols; likewise."""
        units = self.weights.cpu().float().reshape(self.shape)
        left, right = (b if b is None else torch.from_numpy(b).float() for b in self.start.decoded.bases)
        if left is not None:
            units = left @ units
        if right is not None:
            units = units @ right.T
        units = units / step_size(self.start.code.step) - self.start.code.offset
        return self.symbols + (self._flat(units) - self.symbols).clamp_(-REACH, REACH)

    @property
    def shape(self) -> tuple[int, int]:
        """Of the matrix of symbols."""
        return self.start.decoded.matrix.shape

    @property
    def axis(self) -> int:
        """Along which the symbols of one group lie: the groups are what is coded one after the other."""
        return 1 if self.start.code.transposed else 0

    def _flat(self, matrix: Tensor) -> Tensor:
        return (matrix if self.axis else matrix.T).reshape(-1)

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

    Symbols lie in the order in which they are coded, so that those of a row or column are neighbours.
    `codes` and `weights` are theirs by name; everything is kept on `device`, and in the same memory for good, so that
    what is done to it can be replayed.
    """

    def __init__(
        self,
        codes: Mapping[str, Candidate],
        weights: Mapping[str, Tensor],
        device: torch.device,
    ) -> None:
        self._slots = [_slot(name, code, weights[name], device) for name, code in codes.items()]
        symbols = torch.cat([slot.symbols for slot in self._slots] or [torch.zeros(0)])
        values = torch.cat([slot.values for slot in self._slots] or [torch.zeros(0)])
        self._values, self._symbols = values.to(device), symbols.to(device)
        steps = [math.log(step_size(slot.start.code.step)) for slot in self._slots]
        self._log_steps = torch.tensor(steps, dtype=torch.float64, device=device)
        offsets = [float(slot.start.code.offset) for slot in self._slots]
        self._offsets = torch.tensor(offsets, dtype=torch.float64, device=device)
        counts = [torch.full((slot.groups,), float(slot.group_size)) for slot in self._slots]
        self._counts = torch.cat(counts or [torch.zeros(0)]).to(device)
        sizes = torch.tensor([math.prod(slot.shape) for slot in self._slots], dtype=torch.int64)
        self._group_of = _numbered(self._counts.long().cpu()).to(device)
        self._tensor_of = _numbered(sizes).to(device)
        self._averages = Averages.like(self._values)
        self._step_averages, self._stretch_averages = Averages.like(self._log_steps), Averages.like(self._log_steps)
        self._in_triton = device.type == "cuda" and choose_backend(device).name == "triton"

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
        mine, new = self._moving(), other._moving()
        torch._foreach_copy_(mine, new)  # pyright: ignore[reportPrivateImportUsage]

    def _moving(self) -> list[Tensor]:
        values = [getattr(self, name) for name in _MOVING]
        return [part for value in values for part in (value if isinstance(value, Averages) else (value,))]

    @property
    def bits(self) -> float:
        """Estimated bits of the codes."""
        totals = self._group_sums(self._symbols.abs())
        ratio = _ratio(totals / self._counts, self._counts)
        zero, unit = torch.log2((1 + ratio) / (1 - ratio)), -torch.log2(ratio)
        groups = zero * self._counts + unit * totals + GROUP_BITS
        return float(groups.sum()) + TENSOR_BITS * len(self)

    @property
    def steps(self) -> Tensor:
        """The steps ([T], float64) that a file can hold."""
        return torch.exp2((self._log_steps * (OCTAVE / math.log(2))).round_().div_(OCTAVE))

    @property
    def symbols(self) -> Tensor:
        """The integers ([N], float32), to differentiate by."""
        return self._symbols.detach().requires_grad_()

    def decode(self, symbols: Tensor) -> dict[str, Tensor]:
        """The tensors that these stand for."""
        decoded, steps = {}, self.steps
        shifts = (self._offsets * steps).float()
        for slot, part, shift in zip(self._slots, self._split(symbols * self._each(steps)), shifts, strict=True):
            matrix = part if slot.axis else part.T
            if slot.start.code.offset:
                matrix = matrix + shift
            left, right = slot.bases
            if left is not None:
                matrix = left.T @ matrix
            if right is not None:
                matrix = matrix @ right
            decoded[slot.name] = matrix.reshape(slot.weights.shape).to(slot.weights.dtype)
        return decoded

    def move(self, gradient: Tensor, price: Tensor, pace: Tensor) -> None:
        """Move integers and steps against the gradient (nats per unit, [N]) and against their bytes.

        `price` is in bits per nat, `pace` the share of the full one: float64 scalars on the device.
        """
        by = self._move_by_kernels if self._in_triton else self._move_by_operations
        by(gradient, price, pace)

    def _move_by_operations(self, gradient: Tensor, price: Tensor, pace: Tensor) -> None:
        """The definition."""
        gradient = torch.nan_to_num(gradient, 0.0, 0.0, 0.0)
        units = self._stretch(gradient, price, pace)
        self._averages.add(gradient)
        scale = self._averages.magnitude.mul_(price).add_(DAMPING).reciprocal_().mul_(PACE * pace)
        self._values.addcmul_(scale * -price, self._averages.mean)
        pull = scale.mul_(units)
        self._values.sub_(torch.clamp(self._values, -pull, pull))
        torch.round(self._values, out=self._symbols)

    def _move_by_kernels(self, gradient: Tensor, price: Tensor, pace: Tensor) -> None:
        """The same in three launches."""
        from ...kernels.latents import Rule, move

        move(
            gradient,
            self._values,
            self._symbols,
            self._averages,
            self._layout,
            self._log_steps,
            self._offsets,
            self._step_averages,
            self._stretch_averages,
            price,
            pace,
            Rule(PACE, STEP_PACE, STRETCH_PACE, MOMENTUM, MEMORY, DAMPING),
        )

    @lazy
    def _layout(self) -> "Layout":
        """Where its groups and tensors lie, for the kernels."""
        from ...kernels.latents import Layout

        groups = torch.tensor([slot.groups for slot in self._slots])
        return Layout(self._counts, groups, self._counts.device)

    def _stretch(self, gradient: Tensor, price: Tensor, pace: Tensor) -> Tensor:
        """Change the steps in their two ways. Returns the bits of another unit of magnitude for every symbol ([N]).

        A step that is coarser, the weights left alone, has fewer units to code and rounds more away. Only units beyond
        the first count as saved: a lone one does not become cheaper, it vanishes.
        """
        slopes = self._products(gradient, self._symbols)
        noise = slopes - self._products(gradient, self._values)
        magnitudes = self._symbols.abs()
        totals = self._group_sums(magnitudes)
        unit = _unit(totals, self._counts)
        saved = self._tensor_sums(unit * (totals - self._group_sums(magnitudes.clamp_(max=1))))
        self._stretch_averages.add(price * noise - saved)
        finer = self._stretch_averages.agreement * (STRETCH_PACE * pace) * (self._offsets == 0)  # these are integers
        self._scale(finer.exp())
        self._step_averages.add(slopes + self._offsets * self._sums_where_offset(gradient))
        self._log_steps.sub_(self._step_averages.agreement * (STEP_PACE * pace) + finer)
        return unit.index_select(0, self._group_of)

    def _scale(self, factors: Tensor) -> None:
        """Measure in units that are finer by these factors ([T])."""
        each = self._each(factors)
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
        values, symbols = self._values[place], self._symbols[place]
        differ = symbols != other._symbols[place]
        values.copy_(torch.where(differ, symbols, values))
        self._averages.square[place].masked_fill_(differ, HELD)
        return int(differ.sum())

    def codes(self) -> dict[str, Candidate]:
        """The codes as they are now."""
        found = {}
        parts, log_steps, offsets = self._split(self._symbols.cpu()), self._log_steps.tolist(), self._offsets.tolist()
        for slot, part, log_step, offset in zip(self._slots, parts, log_steps, offsets, strict=True):
            symbols = (part if slot.axis else part.T).numpy().astype(np.int64)
            code = replace(slot.start.code, step=nearest_step(math.exp(log_step)), offset=int(offset), symbols=symbols)
            found[slot.name] = recoded(slot.start, code)
        return found

    def _group_sums(self, flat: Tensor) -> Tensor:
        """Sums over every group ([G])."""
        return torch.cat([part.sum(1) for part in self._split(flat)] or [self._counts])

    def _tensor_sums(self, of_groups: Tensor) -> Tensor:
        """Sums over the groups of every tensor ([T])."""
        parts = of_groups.split([slot.groups for slot in self._slots])
        return torch.stack([part.sum() for part in parts]).double()

    def _products(self, one: Tensor, other: Tensor) -> Tensor:
        """Inner products of every tensor's part of two flat vectors ([T])."""
        sizes = [math.prod(slot.shape) for slot in self._slots]
        products = [torch.dot(a, b) for a, b in zip(one.split(sizes), other.split(sizes), strict=True)]
        return torch.stack(products).double()

    def _sums_where_offset(self, flat: Tensor) -> Tensor:
        """Sums over the tensors that have an offset ([T], zero for the others)."""
        parts = zip(self._slots, self._split(flat), strict=True)
        sums = [part.sum() if slot.start.code.offset else flat.new_zeros(()) for slot, part in parts]
        return torch.stack(sums).double()

    def _each(self, of_tensors: Tensor) -> Tensor:
        """What holds for a tensor ([T]) for each of its symbols ([N], float32)."""
        return of_tensors.float().index_select(0, self._tensor_of)

    def _split(self, flat: Tensor) -> list[Tensor]:
        """The tensors in a flat vector: [groups, symbols in a group], views."""
        parts = flat.split([math.prod(slot.shape) for slot in self._slots])
        return [part.view(slot.groups, slot.group_size) for slot, part in zip(self._slots, parts, strict=True)]


def _slot(name: str, code: Candidate, weights: Tensor, device: torch.device) -> Slot:
    left, right = (b if b is None else torch.from_numpy(b).float().to(device) for b in code.decoded.bases)
    return Slot(name, code, weights, (left, right))


def _numbered(sizes: Tensor) -> Tensor:
    """0 as often as the first of `sizes` says, then 1 as often as the second, and so on (int32)."""
    return torch.arange(len(sizes), dtype=torch.int32).repeat_interleave(sizes)


def _unit(totals: Tensor, counts: Tensor) -> Tensor:
    """Bits of another unit of magnitude in groups of so many symbols whose magnitudes add up to `totals`."""
    return -torch.log2(_ratio(totals / counts, counts))


def _ratio(means: Tensor, counts: Tensor) -> Tensor:
    """Of the probabilities of neighbouring magnitudes, in two-sided geometric symbols of these mean magnitudes."""
    means = torch.maximum(means, 0.5 / counts)
    return means / (1 + (1 + means * means).sqrt())
