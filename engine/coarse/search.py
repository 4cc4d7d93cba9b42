"""The rate–distortion search: one sweep from fine to coarse traces the frontier of a checkpoint.

Each sweep lowers the price of bits (bytes one would pay for a nat) and visits every tensor in file order: coded as it
is, coarser, or not at all, whichever has the least bytes + price · loss by the *real* loss. Between sweeps the
curvature is looked at again where the network now stands. Small tensors that the loss depends on wildly (the queries
of a saturated attention) stay fine because every step is checked; dead ones vanish at once.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from ..codec.container import Encoded, Entry, encode, exact_code, to_tensor
from ..codec.exact import FloatArray
from ..codec.header import Signature
from ..codec.representation import ZERO, Decoded, Kind, Representation, matrix_shape
from ..errors import KolmogramError
from ..tasks import Task
from .assembly import Assembler, fourier_bases
from .curvature import Moments, curvature, moments
from .exactness import is_coarse
from .tensor_coder import ALL_KINDS, Candidate

FREE_RISE = 0.1  # share of ε that dropping whole tensors may take at the start
START_RISE = 0.2  # share of ε at which the sweeps begin
RISE_RATIO = 3.0  # by which a sweep may raise the rise
NEAR = 0.6  # share of ε from which on sweeps keep below it
FINAL_SWEEPS = 2  # there
SETTLED = 0.98  # of the bytes before: a sweep that gains less is one of the last
FIRST_LEVEL, LEVEL_STRIDE, FINEST_LEVEL = -4.0, 0.75, -25.0  # log noise levels tried at the start
LARGEST_STRIDE, LARGEST_SHIFT = 0.6, 0.4  # in log noise level: of all tensors together, and of one against the others
EAGERNESS = 3.0
MEMORY = 0.6  # share of the curvature that a sweep keeps from the ones before
FIRST_DRAWS, DRAWS = 4, 2  # backward passes at the start, and in a sweep
START_NOISE = 0.3  # standard deviations of noise at which the curvature is first looked at: at a minimum it vanishes
SMALL = 600.0  # bytes below which a sweep asks whether a tensor is needed at all
LONGEST = 40  # sweeps


@dataclass
class State:
    """A coded network: one candidate a tensor, their decoded weights, and its loss."""

    candidates: dict[str, Candidate]
    levels: dict[str, float]
    params: dict[str, Tensor]
    loss: float

    def copy(self) -> "State":
        """A state that can be changed on its own."""
        return State(dict(self.candidates), dict(self.levels), dict(self.params), self.loss)

    @property
    def estimated_bytes(self) -> float:
        """Bytes by the search's own estimate."""
        return sum(c.bits for c in self.candidates.values()) / 8

    @property
    def decoded(self) -> list[Decoded]:
        """What the decoder would have, in file order."""
        return [c.decoded for c in self.candidates.values()]


class Option(NamedTuple):
    """One way to code one tensor: bytes + price · loss, the loss, and what the state would hold."""

    cost: float
    loss: float
    candidate: Candidate
    value: Tensor
    level: float


class Point(NamedTuple):
    """A real file on the frontier, and the state it was written from (None: every tensor exact)."""

    encoded: Encoded
    codes: dict[str, Representation]
    state: State | None


@dataclass
class Search:
    """Traces the frontier of one checkpoint (`params`) for a task."""

    task: Task
    params: Mapping[str, Tensor]
    seed: int = 0
    progress: Callable[[float], None] | None = None
    evaluations: int = field(default=0, init=False)
    trace: list[tuple[float, float]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        # Matrices first: their order is the order in which bases can be inherited. No order but this one counts.
        named = sorted(self.params.items(), key=lambda item: (item[1].ndim < 2, _natural(item[0])))
        buffers = getattr(self.task, "buffers", ())
        self.weights = {name: value.detach().cpu() for name, value in named if is_coarse(name, value, buffers)}
        self.exact = {name: value.detach().cpu() for name, value in named if name not in self.weights}
        self.signatures = [Signature(name, tuple(value.shape), value.dtype) for name, value in self.weights.items()]
        self.matrices: dict[str, FloatArray] = {
            name: value.detach().double().numpy().reshape(matrix_shape(value.shape))
            for name, value in self.weights.items()
        }
        self.generator = torch.Generator().manual_seed(self.seed)
        self.original_loss = self.loss(dict(self.weights))

        self._fourier = fourier_bases(self.matrices)
        self._moments: dict[str, Moments] = {}
        if self.original_loss == math.inf:
            raise KolmogramError(
                "the loss of the checkpoint itself is not a finite number: check the task's data and names"
            )

    def loss(self, params: Mapping[str, Tensor]) -> float:
        """The training loss of some weights, in nats per example; infinite if it is not a number."""
        self.evaluations += 1
        with torch.no_grad():
            value = float(self.task.loss({**self.exact, **params}))
        return value if math.isfinite(value) else math.inf

    def run(self, epsilons: Sequence[float]) -> list[Point | None]:
        """For each ε the smallest file found whose loss rises by at most ε."""
        found = self._nothing(epsilons)
        left = [epsilon for epsilon in epsilons if epsilon not in found]
        if self.weights and left:
            with threadpool_limits(1, "blas"):  # small matrices: more threads only wait for each other
                state = self._start(min(left))
                self._offer(found, state, left)
                for epsilon in sorted(set(left) & found.keys()):
                    state = self._approach(state, epsilon, found, left)
        return [found.get(epsilon) for epsilon in epsilons]

    def _nothing(self, epsilons: Sequence[float]) -> dict[float, Point]:
        """The file in which every tensor is zero, for each ε that it satisfies: nothing is smaller."""
        loss = self.loss({name: torch.zeros_like(value) for name, value in self.weights.items()})
        feasible = [epsilon for epsilon in epsilons if loss <= self.original_loss + epsilon]
        empty = self._write(dict.fromkeys(self.weights, ZERO), None) if feasible else None
        return {epsilon: empty for epsilon in feasible if empty is not None}

    def _approach(self, state: State, epsilon: float, found: dict[float, Point], epsilons: Sequence[float]) -> State:
        """Sweep until the rise is about ε.

        Having passed it, go back to the smallest feasible state and keep below it.
        """
        limit, bound, final = self.original_loss + epsilon, math.inf, 0
        for _ in range(LONGEST):
            if state.loss > limit or bound == limit:
                state, bound = found[epsilon].state or state, limit
            rise = max(state.loss - self.original_loss, 1e-3 * epsilon)
            final += rise > NEAR * epsilon
            if final > FINAL_SWEEPS:
                break
            before = len(found[epsilon].encoded.data)
            state = self._sweep(state, min(epsilon, rise * RISE_RATIO), bound)
            self._offer(found, state, epsilons)
            if bound == limit and len(found[epsilon].encoded.data) > SETTLED * before:
                final += 1
        return state

    def _start(self, epsilon: float) -> State:
        """A fine network, its loss a little above the original, with what is useless dropped."""
        dropped = self._useless(FREE_RISE * epsilon)
        point = {
            name: torch.zeros_like(value) if name in dropped else self._noisy(value)
            for name, value in self.weights.items()
        }
        assembler = self._look(point, 0.0, FIRST_DRAWS)
        level = FIRST_LEVEL
        while True:
            levels = dict.fromkeys(self.weights, level)
            assembler.plan(levels, [])
            state = self._uniform(assembler, levels, dropped)
            if state.loss <= self.original_loss + START_RISE * epsilon or level < FINEST_LEVEL:
                return state
            level -= LEVEL_STRIDE

    def _noisy(self, value: Tensor) -> Tensor:
        scale = value.float().std() if value.numel() > 1 else value.float().abs().mean()
        noise = torch.randn(value.shape, generator=self.generator) * START_NOISE * scale
        return (value.float() + noise).to(value.dtype)

    def _useless(self, allowance: float) -> frozenset[str]:
        """Tensors that can become zero together within `allowance` nats, the most useless first."""
        zeroed = {name: torch.zeros_like(value) for name, value in self.weights.items()}
        rises = {name: self.loss({**self.weights, name: zeroed[name]}) - self.original_loss for name in zeroed}
        order = [name for name in sorted(rises, key=lambda name: (rises[name], name)) if rises[name] <= allowance]
        low, high = 0, len(order)  # the longest beginning that can go at once
        while low < high:
            middle = (low + high + 1) // 2
            without = {**self.weights, **{name: zeroed[name] for name in order[:middle]}}
            feasible = self.loss(without) - self.original_loss <= allowance
            low, high = (middle, high) if feasible else (low, middle - 1)
        return frozenset(order[:low])

    def _look(self, point: Mapping[str, Tensor], memory: float, draws: int) -> Assembler:
        """An assembler under the curvature at `point`, mixed with what earlier looks saw."""
        for name, fresh in moments(self.task, point, draws, self.generator, self.exact).items():
            known = self._moments.get(name)
            self._moments[name] = known.mixed(fresh, 1 - memory) if known else fresh
        curvatures = {s.name: curvature(self._moments.get(s.name), s.shape) for s in self.signatures}
        return Assembler(self.signatures, self.matrices, curvatures, self._fourier)

    def _uniform(self, assembler: Assembler, levels: dict[str, float], dropped: frozenset[str]) -> State:
        assembly = assembler.assemble(levels, dropped)
        params = assembler.params(assembly)
        return State(assembly.candidates, dict(levels), params, self.loss(params))

    def _sweep(self, before: State, rise: float, bound: float) -> State:
        """Visit every tensor once on the way to a given rise of the loss, never choosing a loss above `bound`."""
        state = before.copy()
        assembler = self._look(state.params, MEMORY, DRAWS)
        assembler.plan(state.levels, state.decoded)
        strides, price = self._strides(state, rise)
        for index, signature in enumerate(self.signatures):
            if state.candidates[signature.name].code.kind != Kind.ZERO:
                self._visit(state, assembler, index, price, strides[signature.name], bound)
        self.trace.append((state.estimated_bytes, state.loss))
        if self.progress is not None:
            self.progress(state.loss - self.original_loss)
        return state

    def _strides(self, state: State, rise: float) -> tuple[dict[str, float], float]:
        """How far each tensor's log noise level should move to reach `rise`, and the price of a nat in bytes there.

        One gradient at the coarse point Q says how the loss answers to each level, dL/d log t_k = ⟨∇_k L(Q), Q_k −
        W_k⟩; the bytes answer by log₂ e bits for every symbol that is not zero. At the best allocation the ratios are
        equal.
        """
        point = {name: value.clone().requires_grad_() for name, value in state.params.items()}
        loss = self.task.loss({**self.exact, **point})
        gradients = torch.autograd.grad(loss, list(point.values()), allow_unused=True)
        cost, gain = {}, {}
        for (name, value), gradient in zip(point.items(), gradients, strict=True):
            error = value.detach().double() - self.weights[name].double()
            cost[name] = 0.0 if gradient is None else max(float((gradient.double() * error).sum()), 0.0)
            symbols = state.candidates[name].code.symbols
            gain[name] = 0.0 if symbols is None else np.count_nonzero(symbols) / math.log(2) / 8
        total_cost, total_gain = max(sum(cost.values()), 1e-12), max(sum(gain.values()), 1e-12)
        now = max(state.loss - self.original_loss, 1e-3 * rise)
        common = min(max(0.5 * math.log(rise / now), -LARGEST_STRIDE), LARGEST_STRIDE)
        strides = {}
        for name in point:
            ratio = max(gain[name] / total_gain, 1e-4) / max(cost[name] / total_cost, 1e-4)
            strides[name] = common + min(max(0.25 * math.log(ratio), -LARGEST_SHIFT), LARGEST_SHIFT)
        # Bits are worth less than that where much of the rise is still free to take.
        return strides, total_gain / total_cost * (now / rise) ** EAGERNESS

    def _visit(self, state: State, assembler: Assembler, index: int, price: float, stride: float, bound: float) -> None:
        """Code one tensor again, or drop it, whichever has the least bytes + price · loss.

        It may stay as it is only if the bases it rests on are still there.
        """
        signature = self.signatures[index]
        name, level, old = signature.name, state.levels[signature.name], state.candidates[signature.name]
        earlier = state.decoded[:index]

        def option(candidate: Candidate, level: float) -> Option:
            value = to_tensor(candidate.decoded, signature.shape, signature.dtype)
            loss = self.loss({**state.params, name: value})
            cost = candidate.bits / 8 + price * loss if loss <= bound else loss * 1e30
            return Option(cost, loss, candidate, value, level)

        kinds = ALL_KINDS if bound == math.inf else frozenset({old.code.kind})
        options = [option(assembler.code(name, level + stride, earlier, kinds), level + stride)]
        if old.bits / 8 < SMALL:
            options.append(option(assembler.coders[name].zero(), level))
        stays = old.bits / 8 + price * state.loss
        if min(o.cost for o in options) > stays:
            if stride > 0:
                options.append(option(assembler.code(name, level, earlier, kinds), level))
            if min(o.cost for o in options) > stays and stride != 0:
                finer = level - abs(stride)
                options.append(option(assembler.code(name, finer, earlier, kinds), finer))
        if assembler.is_valid(old, earlier):
            options.append(Option(stays, state.loss, old, state.params[name], level))
        _, state.loss, state.candidates[name], state.params[name], state.levels[name] = min(
            options, key=lambda o: o.cost
        )

    def _offer(self, found: dict[float, Point], state: State, targets: Sequence[float]) -> None:
        """Encode a state and keep it wherever it is the smallest that is feasible."""
        point = self._write({name: candidate.code for name, candidate in state.candidates.items()}, state)
        for epsilon in targets:
            feasible = state.loss <= self.original_loss + epsilon
            if feasible and (epsilon not in found or len(point.encoded.data) < len(found[epsilon].encoded.data)):
                found[epsilon] = point

    def exact_point(self) -> Point:
        """The file that keeps every byte: what is left where nothing coarser is feasible."""
        return self._write({name: exact_code(value) for name, value in self.weights.items()}, None)

    def _write(self, codes: dict[str, Representation], state: State | None) -> Point:
        entries = [Entry(s, codes[s.name]) for s in self.signatures]
        for name, value in self.exact.items():
            codes[name] = exact_code(value)
            entries.append(Entry(Signature(name, tuple(value.shape), value.dtype), codes[name]))
        return Point(encode(entries, state.decoded if state else None), codes, state)


def _natural(name: str) -> tuple:
    """Sorts layers.2 before layers.10."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name))
