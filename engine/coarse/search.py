"""The rate–distortion search: sweeps from fine to coarse trace the frontier of a checkpoint.

A network that is fine everywhere becomes coarser tensor by tensor (`sweep.py`), until the loss has risen by ε; between
sweeps the curvature is looked at again where the network now stands. Small tensors that the loss depends on wildly (the
queries of a saturated attention) stay fine because every move is checked; dead ones vanish at once.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from ..codec.container import Encoded, Entry, encode, exact_code
from ..codec.exact import FloatArray
from ..codec.header import Signature
from ..codec.representation import ZERO, Basis, Representation, matrix_shape
from ..tasks import Task
from .assembly import Assembler, fourier_bases
from .curvature import Curvature, Moments, curvature, moments, without_dead
from .exactness import is_coarse
from .loss import Loss
from .state import State
from .sweep import Memory, Sweep
from .targets import Targets
from .tensor_coder import ALL_KINDS

FREE_RISE = 0.1  # share of ε that dropping whole tensors may take at the start
START_RISE = 0.3  # share of what the first sweep may use at which it begins
OPENING, RAMP = 1 / 8, 5  # share of ε that the first sweep may use; after so many it is all of ε
AIM = 0.985  # share of ε that the sweeps keep below
SETTLED, PATIENCE = 0.01, 2.0  # they end after two that gained less than this share of the bytes
SWEEPS, MORE = 8, 2.5  # or after eight; so many times more if most of ε is still unused
SHARED = 1 / 2  # of the sweeps for each of several ε, the larger going on from the smaller
USED, SLACK = 0.93, 0.5  # a sweep that gained nothing counts half where less than this share of ε is used
THOROUGH = 3  # one sweep in so many is thorough
UNHEARD = 1e-4  # share of the loss by which it may change if what seems dead is
BLOCKED, RAISE = 0.01, 1.3  # the price rises by this factor where the limit kept back this share of the bytes
PRICE_FALLS, PRICE_RISES = 0.7, 1.4  # at most, from sweep to sweep
FIRST_LEVEL, LEAST_STRIDE, LARGEST_STRIDE, FINEST_LEVEL = -4.0, 0.5, 2.0, -25.0  # of log noise levels at the start
MEMORY = 0.75  # share of the curvature that a sweep keeps from the ones before
FIRST_DRAWS, DRAWS = 4, 1  # backward passes at the start, and in a sweep
START_NOISE = 0.3  # standard deviations of noise at which the curvature is first looked at: at a minimum it vanishes


class Point(NamedTuple):
    """A real file on the frontier, and the state it was written from (None: every tensor exact)."""

    encoded: Encoded
    codes: dict[str, Representation]
    state: State | None


@dataclass
class Search:
    """Traces the frontier of one checkpoint (`params`) for a task, by at most `sweeps` sweeps for one ε."""

    task: Task
    params: Mapping[str, Tensor]
    seed: int = 0
    sweeps: int | None = None
    progress: Callable[[float], None] | None = None
    trace: list[tuple[float, float]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        # Matrices first, and in the order of their names: what a file's own order is must make no difference.
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
        self.loss = Loss(self.task, self.weights, self.exact, self.generator)
        self._fourier: dict[str, tuple[Basis, Basis]] = {}
        self._moments: dict[str, Moments] = {}
        self._memory = Memory()
        self._targets = Targets(self.matrices)

    def run(self, epsilons: Sequence[float]) -> list[Point | None]:
        """For each ε the smallest file found whose loss rises by at most ε."""
        found = self._nothing(epsilons)
        left = [epsilon for epsilon in epsilons if epsilon not in found]
        if self.weights and left:
            best: dict[float, State] = {}
            with threadpool_limits(1, "blas"):  # small matrices: more threads only wait for each other
                state = self._start(OPENING * min(left))
                self._offer(best, state, left)
                ascending = sorted(set(left) & best.keys())
                sweeps = math.ceil((SHARED if len(ascending) > 1 else 1.0) * (self.sweeps or SWEEPS))
                for epsilon in ascending:
                    state = self._approach(state, epsilon, sweeps, best, left)
            found |= {epsilon: self._write_state(state) for epsilon, state in best.items()}
        return [found.get(epsilon) for epsilon in epsilons]

    def _nothing(self, epsilons: Sequence[float]) -> dict[float, Point]:
        """The file in which every tensor is zero, for each ε that it satisfies: nothing is smaller."""
        loss = self.loss({name: torch.zeros_like(value) for name, value in self.weights.items()})
        feasible = [epsilon for epsilon in epsilons if loss <= self.loss.original + epsilon]
        empty = self._write(dict.fromkeys(self.weights, ZERO), None) if feasible else None
        return {epsilon: empty for epsilon in feasible if empty is not None}

    def _start(self, epsilon: float) -> State:
        """A fine network, its loss a little above the original, with what is useless dropped."""
        dropped = self._useless(FREE_RISE * epsilon)
        point = {
            name: torch.zeros_like(value) if name in dropped else self._noisy(value)
            for name, value in self.weights.items()
        }
        self._see(point, 0.0, FIRST_DRAWS)
        self._silence()
        assembler = self._assembler(self._curvatures())
        level, goal = FIRST_LEVEL, START_RISE * epsilon
        while True:
            levels = {name: level - math.log(assembler.coders[name].unit) for name in self.weights}
            assembler.plan(levels)
            state = self._uniform(assembler, levels, dropped)
            rise = state.loss - self.loss.original
            if rise <= goal or level < FINEST_LEVEL:
                return state
            level -= min(max(0.5 * math.log(rise / goal), LEAST_STRIDE), LARGEST_STRIDE)

    def _noisy(self, value: Tensor) -> Tensor:
        scale = value.float().std() if value.numel() > 1 else value.float().abs().mean()
        noise = torch.randn(value.shape, generator=self.generator) * START_NOISE * scale
        return (value.float() + noise).to(value.dtype)

    def _useless(self, allowance: float) -> frozenset[str]:
        """Tensors that can become zero together within `allowance` nats, the most useless first."""
        zeroed = {name: torch.zeros_like(value) for name, value in self.weights.items()}
        original = self.loss.on_part(self.weights)
        rises = {name: self.loss.on_part({**self.weights, name: zeroed[name]}) - original for name in zeroed}
        order = [name for name in sorted(rises, key=lambda name: (rises[name], name)) if rises[name] <= allowance]
        low, high = 0, len(order)  # the longest beginning that can go at once
        while low < high:
            middle = (low + high + 1) // 2
            without = {**self.weights, **{name: zeroed[name] for name in order[:middle]}}
            feasible = self.loss(without) - self.loss.original <= allowance
            low, high = (middle, high) if feasible else (low, middle - 1)
        return frozenset(order[:low])

    def _see(self, point: Mapping[str, Tensor], memory: float, draws: int) -> None:
        """Look at the curvature at `point`, and mix it with what earlier looks saw."""
        for name, fresh in moments(self.task, point, draws, self.generator, self.exact).items():
            known = self._moments.get(name)
            self._moments[name] = known.mixed(fresh, 1 - memory) if known else fresh

    def _curvatures(self) -> dict[str, Curvature]:
        return {s.name: curvature(self._moments.get(s.name), s.shape) for s in self.signatures}

    def _assembler(self, curvatures: Mapping[str, Curvature], state: State | None = None) -> Assembler:
        """An assembler of the targets under the curvature seen, its bases planned for the state."""
        targets = {s.name: self._targets[s.name] for s in self.signatures}
        assembler = Assembler(self.signatures, targets, curvatures, self._fourier)
        if state is not None:
            assembler.plan(state.levels)
        return assembler

    def _silence(self) -> None:
        """Set to zero the rows and columns of matrices that no example uses, as the loss on all of them confirms.

        Their errors cost nothing, so they need no bits; but a metric that is damped would give them some.
        """
        silent = {}
        for s in self.signatures:
            matrix = without_dead(self.matrices[s.name], curvature(self._moments.get(s.name), s.shape))
            if matrix is not self.matrices[s.name]:
                silent[s.name] = torch.from_numpy(matrix).reshape(s.shape).to(s.dtype)
        together = self._unheard(silent)
        for name, value in silent.items():
            if together or self._unheard({name: value}):
                self.matrices[name] = value.double().numpy().reshape(self.matrices[name].shape)
        self._fourier = fourier_bases(self.matrices)

    def _unheard(self, changed: Mapping[str, Tensor]) -> bool:
        """Whether the loss of the network hardly changes with these tensors in it."""
        change = self.loss({**self.weights, **changed}) - self.loss.original if changed else 0.0
        return abs(change) <= UNHEARD * max(self.loss.original, UNHEARD)

    def _uniform(self, assembler: Assembler, levels: dict[str, float], dropped: frozenset[str]) -> State:
        assembler.prepare((name, level, (ALL_KINDS,)) for name, level in levels.items() if name not in dropped)
        assembly = assembler.assemble(levels, dropped)
        params = assembler.params(assembly)
        return State(assembly.candidates, dict(levels), params, self.loss(params), self.loss.on_part(params))

    def _approach(
        self, state: State, epsilon: float, sweeps: int, best: dict[float, State], epsilons: Sequence[float]
    ) -> State:
        """Sweep about so many times, until the rise is about ε and the bytes fall no more.

        A rise that grows with the square of all steps makes a nat worth gain / 2ε bytes, when an e-fold of all steps
        gains so many; how far the network is from that shows in what is left of ε, and in what the limit blocks.
        """
        self._memory.reaches.clear()  # a further ε is far away again
        limit, correction, idle = self.loss.original + epsilon, 1.0, 0.0
        most = sweeps if self.sweeps else math.ceil(MORE * sweeps)
        ramp = max(RAMP * sweeps / SWEEPS, 1.0)
        opening = min(max((state.loss - self.loss.original) / epsilon, OPENING), 1.0)
        for number in range(most):
            allowed = epsilon * min(opening ** (1 - (number + 1) / ramp), 1.0)
            self._see(state.params, MEMORY, DRAWS)
            curvatures = self._curvatures()
            self._targets.follow(self.loss.slope, state, curvatures)
            assembler = self._assembler(curvatures, state)
            gain = sum(self._memory.gain(name, candidate) for name, candidate in state.candidates.items())
            price = correction * max(gain, 1.0) / (2 * allowed)
            aim, thorough = self.loss.original + AIM * allowed, number % THOROUGH == 0
            sweep = Sweep(self.loss, self.weights, assembler, self._memory, price, aim, thorough)
            state = sweep.run(state)
            self._note(state)
            before = best[epsilon].estimated_bytes
            self._offer(best, state, epsilons)
            share = max((state.loss - self.loss.original) / allowed, 1e-3)
            if sweep.blocked > BLOCKED * state.estimated_bytes:
                correction *= RAISE
            else:
                correction *= min(max(math.sqrt(share / AIM), PRICE_FALLS), PRICE_RISES)
            if allowed < epsilon or best[epsilon].estimated_bytes < (1 - SETTLED) * before:
                idle = 0.0
            elif state.loss <= limit:
                idle += 1.0 if share > USED else SLACK
            if idle >= PATIENCE or (number + 1 >= sweeps and share > 0.5):
                break
        return state

    def _note(self, state: State) -> None:
        self.trace.append((state.estimated_bytes, state.loss))
        if self.progress is not None:
            self.progress(state.loss - self.loss.original)

    def _offer(self, best: dict[float, State], state: State, epsilons: Sequence[float]) -> None:
        """Keep a state wherever it is the smallest that is feasible."""
        for epsilon in epsilons:
            feasible = state.loss <= self.loss.original + epsilon
            if feasible and (epsilon not in best or state.estimated_bytes < best[epsilon].estimated_bytes):
                best[epsilon] = state

    def exact_point(self) -> Point:
        """The file that keeps every byte: what is left where nothing coarser is feasible."""
        return self._write({name: exact_code(value) for name, value in self.weights.items()}, None)

    def _write_state(self, state: State) -> Point:
        return self._write({name: candidate.code for name, candidate in state.candidates.items()}, state)

    def _write(self, codes: dict[str, Representation], state: State | None) -> Point:
        entries = [Entry(s, codes[s.name]) for s in self.signatures]
        for name, value in self.exact.items():
            codes[name] = exact_code(value)
            entries.append(Entry(Signature(name, tuple(value.shape), value.dtype), codes[name]))
        return Point(encode(entries, state.decoded if state else None), codes, state)


def _natural(name: str) -> tuple:
    """Sorts layers.2 before layers.10."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name))
