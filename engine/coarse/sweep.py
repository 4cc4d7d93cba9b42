"""One sweep: every tensor is visited in file order and moved to where bytes + price · loss is least, by the real loss.

The price of a nat is what it costs at the rise that is aimed at: at the right price it does not matter which tensor is
asked first.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from ..codec.representation import Kind
from .passes import Pass
from .state import State
from .tensor_coder import ALL_KINDS, Candidate

FIRST_REACH, LEAST_REACH, LARGEST_REACH = 0.6, 0.15, 0.8  # how far a tensor's log step may move at a visit
GROW, SHRINK = 1.5, 0.5  # the reach of a tensor whose move paid, or did not
LEAST_STRIDE = 0.04  # a shorter one is not worth a visit
REPAIR = 0.1  # how much finer tensors are coded at least where the loss is above the limit
EXCESS = 10.0  # how much dearer a nat is above the limit
HOPELESS = 1.3  # a kind of code this much dearer by the model than the best is not tried on the loss
VECTOR, MATRIX = (ALL_KINDS,), (frozenset({Kind.DIRECT}), frozenset({Kind.FACTORS}))


class Option(NamedTuple):
    """One way to code one tensor: bytes + price · loss on the part, that loss, and what the state would hold."""

    cost: float
    part_loss: float
    candidate: Candidate
    value: Tensor
    level: float


@dataclass
class Sweep(Pass):
    """A pass that changes steps and kinds of code.

    A `thorough` one tries every kind of code, and leaving tensors out; others keep to what a tensor has.
    """

    thorough: bool
    blocked: float = field(default=0.0, init=False)
    """Bytes' worth of what the limit has kept tensors from gaining at this price: a sign that it is too low."""
    _part_limit: float = field(default=0.0, init=False)

    def run(self, before: State) -> State:
        """The state after visiting every tensor that is not zero."""
        state = before.copy()
        self._part_limit = self._limit_on_part(state)
        strides = self._strides(before)
        self._prepare(state, strides)
        for name, stride in strides.items():
            if state.candidates[name].code.kind != Kind.ZERO:
                self._visit(state, name, stride)
        self._finish(state)
        self._remember(before, state)
        return state

    def _prepare(self, state: State, strides: Mapping[str, float]) -> None:
        """Have the tensors coded, on all threads, as the visits will most likely ask for them."""
        self.assembler.prepare(
            (name, state.levels[name] + strides[name], self._kinds(old))
            for name, old in state.candidates.items()
            if old.code.kind != Kind.ZERO and not self._rests(strides[name])
        )

    def _strides(self, state: State) -> dict[str, float]:
        """How far each tensor's log step would move to its optimum, which is where gain = price · cost.

        One gradient at the coarse point Q says how the loss answers to each step, dL/d log Δ_k = ⟨∇_k L(Q), Q_k −
        W_k⟩, which grows with its square; how the bytes answer has been measured.
        """
        gradients, strides = self._gradients(state), {}
        for name, weight in self.weights.items():
            error = state.params[name].double() - weight.double()
            cost = float((gradients[name].double() * error).sum()) if name in gradients else 0.0
            gain = self.memory.gain(name, state.candidates[name])
            reach = self.memory.reaches.setdefault(name, FIRST_REACH)
            wanted = 0.5 * math.log(max(gain, 1e-3) / max(self.price * cost, 1e-3))
            strides[name] = min(max(wanted, -reach), reach)
        return strides

    def _visit(self, state: State, name: str, stride: float) -> None:
        """Code one tensor as is cheapest."""
        if self._rests(stride):
            return
        if state.part_loss > self._part_limit:
            stride = min(stride, -REPAIR)
        options = self._options(state, name, state.levels[name] + stride)
        bound = max(self._part_limit, state.part_loss)
        allowed = [option for option in options if option.part_loss <= bound]
        stays = self._cost(state.candidates[name], state.part_loss)
        self._note_blocked(options, allowed, stays)
        best = min(allowed, key=lambda option: option.cost, default=None)
        paid = best is not None and best.cost < stays
        reach = abs(stride) * (GROW if paid else SHRINK)
        self.memory.reaches[name] = min(max(reach, LEAST_REACH), LARGEST_REACH)
        if best is not None and paid:
            state.part_loss = best.part_loss
            state.candidates[name], state.params[name], state.levels[name] = best[2:]

    def _rests(self, stride: float) -> bool:
        """Whether a tensor does not move so short a stride."""
        return abs(stride) < LEAST_STRIDE and not self.thorough

    def _note_blocked(self, options: list[Option], allowed: list[Option], stays: float) -> None:
        """What the best option would gain over the best one allowed if there were no limit."""
        least = min([stays, *(option.cost for option in allowed)])
        wanted = min((o.candidate.bits / 8 + self.price * o.part_loss for o in options), default=math.inf)
        if math.isfinite(least):
            self.blocked += max(least - wanted, 0.0)

    def _kinds(self, old: Candidate) -> tuple[frozenset[Kind], ...]:
        """Which kinds of code to try."""
        if old.decoded.matrix.shape[1] == 1:
            return VECTOR
        return MATRIX if self.thorough else (frozenset({Kind(old.code.kind)}),)

    def _cost(self, candidate: Candidate, loss: float) -> float:
        """Bytes + price · loss, the price being much higher above the limit."""
        return candidate.bits / 8 + self.price * (loss + EXCESS * max(loss - self._part_limit, 0.0))

    def _options(self, state: State, name: str, level: float) -> list[Option]:
        """The codes at a level that the model does not think hopeless."""
        candidates = self.assembler.codes(name, level, self._kinds(state.candidates[name]))
        noise = self.assembler.noise(name, level)
        least = min(candidate.cost(noise) for candidate in candidates)
        coded = [c for c in candidates if c.cost(noise) <= HOPELESS * least and c.code.kind != Kind.ZERO]
        options = [self._option(state, name, candidate, level) for candidate in coded]
        return options + self._zero(state, name) if self.thorough else options

    def _zero(self, state: State, name: str) -> list[Option]:
        """Leaving the tensor out, unless it is known that this would cost too much."""
        level, old = state.levels[name], state.candidates[name]
        if 0.5 * self.price * self.memory.zero_rises.get(name, 0.0) > old.bits / 8:
            return []
        option = self._option(state, name, self.assembler.coders[name].zero(), level)
        self.memory.zero_rises[name] = option.part_loss - state.part_loss
        return [option]

    def _option(self, state: State, name: str, candidate: Candidate, level: float) -> Option:
        value = self._value(name, candidate)
        loss = self.loss.on_part({**state.params, name: value})
        return Option(self._cost(candidate, loss), loss, candidate, value, level)

    def _remember(self, before: State, after: State) -> None:
        """What coarser levels have saved."""
        for name, new in after.candidates.items():
            old, moved = before.candidates[name], after.levels[name] - before.levels[name]
            if new.code.symbols is not None and abs(moved) > 0.1:
                self.memory.gains[name] = (old.bits - new.bits) / 8 / moved
