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
from .approach import Approach
from .assembly import Assembler, fourier_bases
from .curvature import Moments, curvature, moments, without_dead
from .exactness import is_coarse
from .loss import Loss
from .memory import Memory
from .placement import Placement
from .route import route
from .state import State
from .tensor_coder import ALL_KINDS

FREE_RISE = 0.1  # share of the rise at the start that dropping whole tensors may take
START, START_RISE = 1 / 2, 0.3  # of ε, share of that at which the first sweep begins
SWEEPS, PASSES, DRAWS = 6, 3, 1  # to one ε: sweeps, passes of refinement after each, backward passes before each
SHARE, FURTHER_SHARE = 2 / 3, 0.5  # of these sweeps for several ε: to the first station, on to each larger one
FEWER_PASSES = 2  # on to a larger one
BACK_SHARE = 0.5  # passes of refinement at the end of the way back to a smaller ε, as a share of the sweeps
UNHEARD = 1e-4  # share of the loss by which it may change if what seems dead is
FIRST_LEVEL, LEAST_STRIDE, LARGEST_STRIDE, FINEST_LEVEL = -4.0, 0.5, 2.0, -25.0  # of log noise levels at the start
MEMORY = 0.75  # share of the curvature that a sweep keeps from the ones before
FIRST_DRAWS = 8  # backward passes at the start
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
        self.loss = Loss(self.task, self.weights, self.exact, self.generator, Placement(self.params))
        self._fourier: dict[str, tuple[Basis, Basis]] = {}
        self._moments: dict[str, Moments] = {}
        self._memory = Memory()
        self._empty = math.inf
        self._best: dict[float, State | None] = {}

    def run(self, epsilons: Sequence[float]) -> list[Point | None]:
        """For each ε the smallest file found whose loss rises by at most ε."""
        found = self._nothing(epsilons)
        left = sorted({epsilon for epsilon in epsilons if epsilon not in found})
        if self.weights and left:
            with threadpool_limits(1, "blas"):  # small matrices: more threads only wait for each other
                self._trace(left)
            found |= self._smallest(left)
        return [found.get(epsilon) for epsilon in epsilons]

    def _trace(self, asked: Sequence[float]) -> None:
        """Go to the first station by sweeps; from there on to the larger ε, and back to the smaller."""
        first, back, further = route(asked, self._empty)
        self._best = dict.fromkeys([first, *back, *further])
        state = self._approach(self._start(START * first), first, SHARE if len(asked) > 1 else 1.0, PASSES)
        for epsilon in further:
            self._approach(self._best[epsilon] or state, epsilon, FURTHER_SHARE, FEWER_PASSES)
        state = self._best[first] or state
        for epsilon in back:
            state = self._descend(state, epsilon, epsilon in asked)

    def _smallest(self, epsilons: Sequence[float]) -> dict[float, Point]:
        """For each ε the smallest of the files of the best states: what was estimated to be that is not always."""
        states = {id(state): state for epsilon in epsilons if (state := self._best[epsilon])}
        # Asked again as the report will ask: with gradients the last bits of a loss can differ.
        files = [(self._write_state(state), self.loss(state.params)) for state in states.values()]
        files.sort(key=lambda file: len(file[0].encoded.data))
        fits = {e: next((point for point, loss in files if loss <= self.loss.original + e), None) for e in epsilons}
        return {epsilon: point for epsilon, point in fits.items() if point}

    def _nothing(self, epsilons: Sequence[float]) -> dict[float, Point]:
        """The file in which every tensor is zero, for each ε that it satisfies: nothing is smaller."""
        zeros = {name: torch.zeros_like(value) for name, value in self.weights.items()}
        self._empty = self.loss(zeros) - self.loss.original
        feasible = [epsilon for epsilon in epsilons if self._empty <= epsilon]
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
        assembler = self._assembler()
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
        for name, fresh in moments(self.task, self.loss.placed(point), draws, self.generator, self.loss.fixed).items():
            known = self._moments.get(name)
            self._moments[name] = known.mixed(fresh, 1 - memory) if known else fresh

    def _assembler(self, state: State | None = None) -> Assembler:
        """An assembler under the curvature seen, its bases planned for the state."""
        curvatures = {s.name: curvature(self._moments.get(s.name), s.shape) for s in self.signatures}
        assembler = Assembler(self.signatures, self.matrices, curvatures, self._fourier)
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

    def _approach(self, state: State, epsilon: float, share: float, passes: int) -> State:
        """Go on from a finer network to an ε by that share of the sweeps."""
        self._offer(state)
        for state in self._to(epsilon).run(state, self._count(share), passes):  # noqa: B020 - each goes on from the last
            self._note(state)
        return state

    def _descend(self, state: State, epsilon: float, asked: bool) -> State:
        """Go back from a coarser network to an ε; if that fails one that was asked for, come from a finer one."""
        approach = self._to(epsilon)
        state = approach.descend(state, self._count(BACK_SHARE))
        self._note(state)
        if asked and not approach.reaches(state):
            finer = self._best[epsilon] or self._start(START * epsilon)
            state = self._approach(finer, epsilon, FURTHER_SHARE, FEWER_PASSES)
        return self._best[epsilon] or state

    def _to(self, epsilon: float) -> Approach:
        return Approach(self.loss, self.weights, self._memory, epsilon, self._empty, self._look, self._offer)

    def _count(self, share: float) -> int:
        """That share of the sweeps that one ε alone gets."""
        return math.ceil(share * (self.sweeps or SWEEPS))

    def _look(self, state: State) -> Assembler:
        """An assembler under the curvature where a state stands."""
        self._see(state.params, MEMORY, DRAWS)
        return self._assembler(state)

    def _note(self, state: State) -> None:
        self.trace.append((state.estimated_bytes, state.loss))
        if self.progress is not None:
            self.progress(state.loss - self.loss.original)

    def _offer(self, state: State) -> None:
        """Keep a state wherever it is the smallest that is feasible."""
        for epsilon, best in self._best.items():
            feasible = state.loss <= self.loss.original + epsilon
            if feasible and (best is None or state.estimated_bytes < best.estimated_bytes):
                self._best[epsilon] = state

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
