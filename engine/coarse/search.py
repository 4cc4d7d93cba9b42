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

import torch
from torch import Tensor

from ..codec.container import Encoded, Entry, encode, exact_code, to_tensor
from ..codec.exact import FloatArray
from ..codec.header import Signature
from ..codec.representation import Decoded, Kind, Representation, matrix_shape
from ..errors import KolmogramError
from ..tasks import Task
from .assembly import Assembler
from .curvature import Moments, curvature, moments
from .tensor_coder import Candidate

FREE_RISE = 0.1  # share of ε that dropping whole tensors may take at the start
START_RISE = 0.06  # share of ε at which the sweeps begin
FIRST_LEVEL, LEVEL_STRIDE = -4.0, 0.75  # log noise level tried first, and how much finer the next
PRICE_RATIO = 1.8  # between sweeps
STRIDE = 0.3  # in log noise level, of one coarser code
MEMORY = 0.6  # share of the curvature that a sweep keeps from the ones before
DRAWS = 2  # backward passes a sweep
START_NOISE = (
    0.3  # standard deviations of the noise at which the curvature is first looked at: at a minimum it vanishes
)
FILL_STRIDES = ((0.0, 0.25, -0.15), (0.0, 0.15, -0.1))
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
        self.weights = {name: value.detach().cpu() for name, value in self.params.items() if _is_coarse(value)}
        self.exact = {name: value.detach().cpu() for name, value in self.params.items() if name not in self.weights}
        signatures = [Signature(name, tuple(value.shape), value.dtype) for name, value in self.weights.items()]
        # Matrices first: their order is the order in which bases can be inherited.
        self.signatures = sorted(signatures, key=lambda s: (matrix_shape(s.shape)[1] == 1, _natural(s.name)))
        self.matrices: dict[str, FloatArray] = {
            name: value.detach().double().numpy().reshape(matrix_shape(value.shape))
            for name, value in self.weights.items()
        }
        self.generator = torch.Generator().manual_seed(self.seed)
        self.original_loss = self.loss(dict(self.weights))

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
        targets = sorted(set(epsilons))
        if not self.weights:
            return [None] * len(epsilons)
        found: dict[float, Point] = {}
        state, price = self._start(targets)
        for _ in range(LONGEST):
            passed = [e for e in targets if state.loss > self.original_loss + e]
            for epsilon in passed:
                self._fill(found, epsilon, price * PRICE_RATIO)
            targets = [e for e in targets if e not in passed]
            if not targets:
                break
            self._offer(found, state, targets)
            state = state.copy()
            self._sweep(state, price, (0.0, STRIDE), math.inf)
            price /= PRICE_RATIO
        return [found.get(epsilon) for epsilon in epsilons]

    def _start(self, targets: Sequence[float]) -> tuple[State, float]:
        """A fine network with what is useless dropped, and the price at which its bits are worth their while."""
        smallest, allowed = targets[0], targets[-1]
        dropped = self._useless(FREE_RISE * smallest)
        point = {
            name: torch.zeros_like(value) if name in dropped else self._noisy(value)
            for name, value in self.weights.items()
        }
        assembler = self._look(point, 0.0, 4 * DRAWS)
        level = FIRST_LEVEL
        while True:
            levels = dict.fromkeys(self.weights, level)
            assembler.plan(levels, [])
            state = self._uniform(assembler, levels, dropped)
            if state.loss <= self.original_loss + START_RISE * max(smallest, allowed / 16) or level < -25:
                break
            level -= LEVEL_STRIDE
        finer = self._uniform(assembler, dict.fromkeys(self.weights, level - 0.4), dropped)
        price = (finer.estimated_bytes - state.estimated_bytes) / max(state.loss - finer.loss, 0.002 * allowed)
        return state, price

    def _noisy(self, value: Tensor) -> Tensor:
        scale = value.float().std() if value.numel() > 1 else value.float().abs().mean()
        noise = torch.randn(value.shape, generator=self.generator) * START_NOISE * scale
        return (value.float() + noise).to(value.dtype)

    def _useless(self, allowance: float) -> frozenset[str]:
        """Tensors that can become zero together within `allowance` nats, the most useless first."""
        zeroed = {name: torch.zeros_like(value) for name, value in self.weights.items()}
        rises = {name: self.loss({**self.weights, name: zeroed[name]}) - self.original_loss for name in zeroed}
        kept, dropped = dict(self.weights), set()
        for name in sorted(rises, key=lambda name: (rises[name], name)):
            if rises[name] > allowance:
                break
            if self.loss({**kept, name: zeroed[name]}) - self.original_loss <= allowance:
                kept[name] = zeroed[name]
                dropped.add(name)
        return frozenset(dropped)

    def _look(self, point: Mapping[str, Tensor], memory: float, draws: int) -> Assembler:
        """An assembler under the curvature at `point`, mixed with what earlier looks saw."""
        for name, fresh in moments(self.task, point, draws, self.generator).items():
            known = self._moments.get(name)
            self._moments[name] = known.mixed(fresh, 1 - memory) if known else fresh
        curvatures = {s.name: curvature(self._moments.get(s.name), s.shape) for s in self.signatures}
        return Assembler(self.signatures, self.matrices, curvatures)

    def _uniform(self, assembler: Assembler, levels: dict[str, float], dropped: frozenset[str]) -> State:
        assembly = assembler.assemble(levels, dropped)
        params = assembler.params(assembly)
        return State(assembly.candidates, dict(levels), params, self.loss(params))

    def _sweep(self, state: State, price: float, strides: Sequence[float], bound: float) -> None:
        """Visit every tensor once; `bound` is the loss that no step may pass."""
        assembler = self._look(state.params, MEMORY, DRAWS)
        assembler.plan(state.levels, state.decoded)
        for index, signature in enumerate(self.signatures):
            if state.candidates[signature.name].code.kind != Kind.ZERO:
                self._visit(state, assembler, index, price, strides, bound)
        self.trace.append((state.estimated_bytes, state.loss))
        if self.progress is not None:
            self.progress(state.loss - self.original_loss)

    def _visit(
        self, state: State, assembler: Assembler, index: int, price: float, strides: Sequence[float], bound: float
    ) -> None:
        """Code one tensor again, as bytes + price · loss asks."""
        signature = self.signatures[index]
        name = signature.name
        earlier = state.decoded[:index]

        def option(candidate: Candidate, level: float) -> tuple[float, float, Candidate, Tensor, float]:
            value = to_tensor(candidate.decoded, signature.shape, signature.dtype)
            loss = self.loss({**state.params, name: value})
            cost = candidate.bits / 8 + price * loss if loss <= bound else math.inf
            return cost, loss, candidate, value, level

        def coded(level: float) -> tuple[float, float, Candidate, Tensor, float]:
            return option(assembler.code(name, level, earlier), level)

        start, widest = state.levels[name], max(strides)
        options = [coded(start + stride) for stride in strides]
        options.append(option(assembler.coders[name].zero(), start))
        best = min(options, key=lambda o: o[0])
        while best[4] >= start + widest and best[2].code.kind != Kind.ZERO and best[4] < start + 4 * widest:
            coarser = coded(best[4] + widest)
            if coarser[0] >= best[0]:
                break
            best = coarser
        if best[0] == math.inf:  # nothing keeps the bound; the code as it was may rest on a basis that has changed
            best = min(options, key=lambda o: o[1])
        _, state.loss, state.candidates[name], state.params[name], state.levels[name] = best

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

    def _fill(self, found: dict[float, Point], epsilon: float, price: float) -> None:
        """Spend what a feasible state left of ε."""
        for strides in FILL_STRIDES:
            start = found[epsilon].state if epsilon in found else None
            if start is None:
                return
            state = start.copy()
            self._sweep(state, price, strides, self.original_loss + epsilon)
            self._offer(found, state, [epsilon])


def _is_coarse(value: Tensor) -> bool:
    """Whether a tensor is coarse-grained: floating point, and finite; everything else is kept to the byte."""
    return value.is_floating_point() and value.numel() > 0 and bool(torch.isfinite(value.float()).all())


def _natural(name: str) -> tuple:
    """Sorts layers.2 before layers.10."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name))
