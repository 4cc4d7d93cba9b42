"""The rate–distortion search: a network is coded (`start.py`), then its integers are trained together (`descent.py`).

For several ε it goes to one of them first, and from there on to the others.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from ..checkpoints.names import natural
from ..codec.container import Encoded, Entry, encode, exact_code
from ..codec.exact import FloatArray
from ..codec.header import Signature
from ..codec.representation import ZERO, Representation, matrix_shape
from ..tasks import Task
from .descent import END, Descent
from .exactness import is_coarse
from .loss import Loss
from .placement import Placement
from .start import Start
from .state import State

MOVES, FURTHER_SHARE = 100, 0.5  # moves of descent to one ε; share of these on to each further one
DETOUR = 2.4  # rise in ε that the first descent aims at for most of its way
BACK_PACE = 0.3  # of descent to a smaller ε: in a simple network every integer matters
RETURN_END = 0.6  # rise in ε aimed at after a descent that ended outside of it
HOMELY = 0.38  # share of what the empty network loses up to which there is a way back


class Point(NamedTuple):
    """A real file on the frontier, and the state it was written from (None: every tensor exact)."""

    encoded: Encoded
    codes: dict[str, Representation]
    state: State | None


@dataclass
class Search:
    """Traces the frontier of one checkpoint (`params`) for a task, by so many `moves` of descent for one ε."""

    task: Task
    params: Mapping[str, Tensor]
    seed: int = 0
    moves: int | None = None
    progress: Callable[[float], None] | None = None
    trace: list[tuple[float, float]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        # Matrices first, and in the order of their names: what a file's own order is must make no difference.
        named = sorted(self.params.items(), key=lambda item: (item[1].ndim < 2, natural(item[0])))
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
        """Go to one ε from the start, and from there to the smaller ones, and to the larger.

        The first is the largest from which there is a way back: a network that has been coarse has found its structure,
        and keeps it when it becomes finer again.
        """
        self._best = dict.fromkeys(asked)
        near = [epsilon for epsilon in asked if epsilon <= HOMELY * self._empty] or asked[:1]
        first, moves, fewer = near[-1], self._moves(1.0), self._moves(FURTHER_SHARE)
        coder = Start(self.loss, self.signatures, self.weights, self.matrices, self.generator)
        start = self._offered(coder.coded(first))
        descent = Descent(self.loss, self.weights, start, self._empty, self._note)
        started = descent.latents.copy()
        for detour in (DETOUR, END):  # what is lost far from ε may not come back
            descent.latents.assign(started)
            if self._descend(descent, first, moves, detour):
                break
        found = descent.latents.copy()
        for epsilon in reversed(near[:-1]):
            self._descend(descent, epsilon, fewer, pace=BACK_PACE)
        descent.latents.assign(found)
        for epsilon in asked[len(near) :]:
            self._descend(descent, epsilon, fewer)
        for epsilon in [epsilon for epsilon, best in self._best.items() if best is None]:
            self._offered(coder.coded(epsilon))

    def _descend(self, descent: Descent, epsilon: float, moves: int, detour: float = END, pace: float = 1.0) -> bool:
        """Descend to an ε; if that ends outside of it, come back more strictly. Whether anything was within ε."""
        state = descent.run(epsilon, moves, detour, pace)
        if state is None:
            state = descent.run(epsilon, self._moves(FURTHER_SHARE), RETURN_END, BACK_PACE, RETURN_END)
        self._offer(state)
        return state is not None

    def _offered(self, state: State) -> State:
        self._note(state.estimated_bytes, state.loss)
        self._offer(state)
        return state

    def _moves(self, share: float) -> int:
        return math.ceil(share * (self.moves or MOVES))

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

    def _note(self, size: float, loss: float) -> None:
        self.trace.append((size, loss))
        if self.progress is not None:
            self.progress(loss - self.loss.original)

    def _offer(self, state: State | None) -> None:
        """Keep a state wherever it is the smallest that is feasible."""
        if state is None:
            return
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
