"""One sweep: every tensor is visited in file order and coded as is cheapest in bytes + price · loss, by the real loss.

The price of a nat is what it costs at the rise that is aimed at: at the right price it does not matter which tensor is
asked first.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ..codec.container import to_tensor
from ..codec.representation import Kind
from .assembly import Assembler
from .loss import Loss
from .state import State
from .tensor_coder import ALL_KINDS, Candidate

LARGEST_STRIDE, LARGEST_SHIFT = 0.6, 0.4  # in log noise level: of all tensors together, of one against the others
HOPELESS = 1.3  # a kind of code this much dearer by the model than the best is not tried on the loss
GAIN = 2.0  # bytes an e-fold of noise saves, in nonzero symbols · log₂ e / 8, before it has been measured
EXCESS = 10.0  # how much dearer a nat is above the limit
VECTOR, MATRIX = (ALL_KINDS,), (frozenset({Kind.DIRECT}), frozenset({Kind.FACTORS}))


class Option(NamedTuple):
    """One way to code one tensor: bytes + price · loss on the part, that loss, and what the state would hold."""

    cost: float
    part_loss: float
    candidate: Candidate
    value: Tensor
    level: float


@dataclass
class Memory:
    """What earlier sweeps have learnt about the tensors."""

    gains: dict[str, float] = field(default_factory=dict)
    """Bytes that an e-fold of noise saves."""
    zero_rises: dict[str, float] = field(default_factory=dict)
    """By how much the loss rose when a tensor was left out."""
    resting: set[str] = field(default_factory=set)
    """Tensors that stayed as they were at the last visit: the next sweep leaves them in peace."""


@dataclass
class Sweep:
    """A sweep towards a rise of the loss of `aim` nats; a loss above `limit` is dear.

    In a final sweep every choice is checked on all examples, in others on the part of them. `pressure` scales the
    price.
    """

    loss: Loss
    weights: Mapping[str, Tensor]
    assembler: Assembler
    memory: Memory
    aim: float
    limit: float
    pressure: float
    is_final: bool
    _price: float = field(default=0.0, init=False)
    _part_limit: float = field(default=0.0, init=False)

    def run(self, before: State) -> State:
        """The state after visiting every tensor that is not zero."""
        state = before.copy()
        strides = self._strides(state)
        for index, name in enumerate(self.weights):
            if state.candidates[name].code.kind != Kind.ZERO:
                self._visit(state, index, name, strides[name])
        if not self.is_final and self.loss.is_divided:
            state.loss = self.loss(state.params)
        self._remember(before, state)
        return state

    def _strides(self, state: State) -> dict[str, float]:
        """How far each tensor's log noise level should move to reach `aim`; sets the price of a nat in bytes there.

        One gradient at the coarse point Q says how the loss answers to each level, dL/d log t_k = ⟨∇_k L(Q), Q_k −
        W_k⟩; how the bytes answer has been measured. At the best allocation the ratios are equal.
        """
        gradients = self.loss.gradients(state.params)
        cost, gain = {}, {}
        for name, weight in self.weights.items():
            error = state.params[name].double() - weight.double()
            cost[name] = max(float((gradients[name].double() * error).sum()), 0.0) if name in gradients else 0.0
            symbols = state.candidates[name].code.symbols
            count = 0 if symbols is None else np.count_nonzero(symbols)
            gain[name] = self.memory.gains.get(name, GAIN * count / math.log(2) / 8) if count else 0.0
        total_cost, total_gain = max(sum(cost.values()), 1e-12), max(sum(gain.values()), 1e-12)
        now = max(state.loss - self.loss.original, 1e-3 * self.aim)
        self._price = self.pressure * total_gain / total_cost * now / self.aim
        common = min(max(0.5 * math.log(self.aim / now), -LARGEST_STRIDE), LARGEST_STRIDE)
        ratios = {n: max(gain[n] / total_gain, 1e-4) / max(cost[n] / total_cost, 1e-4) for n in self.weights}
        shifts = {n: min(max(0.25 * math.log(ratio), -LARGEST_SHIFT), LARGEST_SHIFT) for n, ratio in ratios.items()}
        return {n: common + shift for n, shift in shifts.items()}

    def _visit(self, state: State, index: int, name: str, stride: float) -> None:
        """Code one tensor as is cheapest; it may stay as it is only if the bases it rests on are still there."""
        old, level = state.candidates[name], state.levels[name]
        valid = self.assembler.is_valid(old, state.decoded[:index])
        if valid and name in self.memory.resting:
            self.memory.resting.discard(name)
            return
        self._part_limit = self.limit + state.part_loss - state.loss
        stays = self._cost(old, state.part_loss, self._part_limit)
        options = self._options(state, index, name, stride, stays, valid)
        if valid:
            options.append(Option(stays, state.part_loss, old, state.params[name], level))
        elif not options:
            options.append(self._option(state, name, self.assembler.coders[name].zero(), level))
        for chosen in sorted(options, key=lambda option: option.cost):
            if chosen.candidate is old:
                self.memory.resting.add(name)
                return
            loss = self._loss_of(state, chosen, name)
            if valid and self._cost(chosen.candidate, loss, self.limit) > self._cost(old, state.loss, self.limit):
                continue
            state.loss, state.part_loss = loss, chosen.part_loss
            state.candidates[name], state.params[name], state.levels[name] = chosen[2:]
            return

    def _loss_of(self, state: State, option: Option, name: str) -> float:
        """On all examples; where the choice is not final, as the part has it."""
        if self.is_final and self.loss.is_divided:
            return self.loss({**state.params, name: option.value})
        return state.loss + option.part_loss - state.part_loss

    def _cost(self, candidate: Candidate, loss: float, limit: float) -> float:
        """Bytes + price · loss, the price being much higher above the limit."""
        return candidate.bits / 8 + self._price * (loss + EXCESS * max(loss - limit, 0.0))

    def _options(self, state: State, index: int, name: str, stride: float, stays: float, valid: bool) -> list[Option]:
        """Codes one stride on, and two if that paid; else at the old level; and finer if it cannot stay as it is."""
        level, options = state.levels[name], self._zero(state, name)
        kinds, best = VECTOR if state.candidates[name].decoded.matrix.shape[1] == 1 else MATRIX, stays
        places = [1.0, 0.0] if valid else [1.0, 0.0, -1.0]
        while places:
            place = places.pop(0)
            tried, kinds = self._options_at(state, index, name, level + place * stride, kinds)
            options += tried
            cost = min((option.cost for option in tried), default=math.inf)
            if cost < best:
                best, places = cost, [2.0] if place == 1.0 else []
        return options

    def _options_at(
        self, state: State, index: int, name: str, level: float, kinds: tuple[frozenset[Kind], ...]
    ) -> tuple[list[Option], tuple[frozenset[Kind], ...]]:
        """The codes of these kinds that the model does not think hopeless, and their kinds."""
        candidates = self.assembler.codes(name, level, state.decoded[:index], kinds)
        costs = [candidate.cost(level) for candidate in candidates]
        hopeful = [i for i, cost in enumerate(costs) if cost < HOPELESS * min(costs)]
        coded = [candidates[i] for i in hopeful if candidates[i].code.kind != Kind.ZERO]
        return [self._option(state, name, candidate, level) for candidate in coded], tuple(kinds[i] for i in hopeful)

    def _zero(self, state: State, name: str) -> list[Option]:
        """Leaving the tensor out, unless it is known that this would cost too much."""
        level, old = state.levels[name], state.candidates[name]
        if 0.5 * self._price * self.memory.zero_rises.get(name, 0.0) > old.bits / 8:
            return []
        option = self._option(state, name, self.assembler.coders[name].zero(), level)
        self.memory.zero_rises[name] = option.part_loss - state.part_loss
        return [option]

    def _option(self, state: State, name: str, candidate: Candidate, level: float) -> Option:
        old = self.weights[name]
        value = to_tensor(candidate.decoded, tuple(old.shape), old.dtype)
        loss = self.loss.on_part({**state.params, name: value})
        return Option(self._cost(candidate, loss, self._part_limit), loss, candidate, value, level)

    def _remember(self, before: State, after: State) -> None:
        """What coarser levels have saved."""
        for name, new in after.candidates.items():
            old, moved = before.candidates[name], after.levels[name] - before.levels[name]
            if new.code.symbols is None:
                continue
            if moved > 0.1:
                saved = (old.bits - new.bits) / 8 / moved
                self.memory.gains[name] = max(saved, np.count_nonzero(new.code.symbols) / 8)
            elif name in self.memory.gains:
                self.memory.gains[name] *= new.bits / old.bits
