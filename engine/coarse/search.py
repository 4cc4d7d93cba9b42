"""The rate–distortion search: a network is coded (`start.py`), then its integers are trained together (`descent.py`).

It goes to one ε first, the network's home, and from there on to others: down over its quarters, for a network that has
been coarse has found its structure, and keeps it when it becomes finer again; or up, doubling it. The way to an ε, and
so its size, depends on the network alone and not on what other ε are asked for.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ...kernels.threads import one_blas_thread
from ..checkpoints.names import natural
from ..codec.container import Encoded, Entry, encode, exact_code
from ..codec.exact import FloatArray
from ..codec.header import Signature
from ..codec.representation import ZERO, Representation, matrix_shape
from ..tasks import Task
from .descent import END, Descent
from .exactness import is_coarse
from .latents import Latents
from .loss import Loss
from .placement import Placement
from .start import Start
from .state import State

MOVES, FURTHER_SHARE = 100, 0.5  # moves of descent to one ε; share of these on to each further one
DETOUR = 2.4  # rise in ε that the first descent aims at for most of its way
BACK_PACE = 0.3  # of descent to a smaller ε: in a simple network every integer matters
RETURN_END = 0.6  # rise in ε aimed at after a descent that ended outside of it
HOMELY = 0.38  # share of what the empty network loses, up to which there is a way back
ESTIMATED = 1.1  # times the smallest estimate of bytes: files up to that are written to see which is smaller
DOWN, UP = 4.0, 2.0  # from one ε to the next on the way: to smaller ones, and to larger ones


class Point(NamedTuple):
    """A real file on the frontier, and the state it was written from (None: every tensor exact)."""

    encoded: Encoded
    codes: dict[str, Representation]
    state: State | None


class _Station(NamedTuple):
    """Where the search was at an ε, and the networks it met on the way there."""

    latents: Latents
    drawing: tuple[Tensor, Tensor]
    states: list[State]


@dataclass
class Search:
    """Traces the frontier of one checkpoint (`params`) for a task, by so many `moves` of descent for one ε."""

    task: Task
    params: Mapping[str, Tensor]
    seed: int = 0
    moves: int | None = None
    trace: list[tuple[float, float]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        # Matrices first, and in the order of their names: what a file's own order is must make no difference.
        named = sorted(self.params.items(), key=lambda item: (item[1].ndim < 2, natural(item[0])))
        buffers = getattr(self.task, "buffers", ())
        here = {name: value.detach().cpu() for name, value in named}
        self.weights = {name: value for name, value in here.items() if is_coarse(name, value, buffers)}
        self.exact = {name: value for name, value in here.items() if name not in self.weights}
        self.signatures = [Signature(name, tuple(value.shape), value.dtype) for name, value in self.weights.items()]
        self.matrices: dict[str, FloatArray] = {
            name: value.detach().double().numpy().reshape(matrix_shape(value.shape))
            for name, value in self.weights.items()
        }
        self.generator = torch.Generator().manual_seed(self.seed)
        self.loss = Loss(self.task, self.weights, self.exact, self.generator, Placement(self.params, self.task.device))
        self._empty = math.inf

    def run(self, epsilons: Sequence[float]) -> list[Point | None]:
        """For each ε the smallest file found whose loss rises by at most ε, whatever other ε are asked for."""
        found = self._nothing(epsilons)
        left = sorted({epsilon for epsilon in epsilons if epsilon not in found}, reverse=True)
        if self.weights and left:
            with one_blas_thread():
                self._begin()
                found |= {epsilon: point for epsilon in left if (point := self._smallest(epsilon))}
        return [found.get(epsilon) for epsilon in epsilons]

    def _begin(self) -> None:
        """Code the network as it is within its home, a power of a quarter and 1 at most, and descend to that."""
        self._home = 1.0
        while self._home > HOMELY * self._empty > 0:
            self._home /= DOWN
        self._coder = Start(self.loss, self.signatures, self.weights, self.matrices, self.generator)
        start = self._noted(self._coder.coded(self._home))
        self._descent = Descent(self.loss, self.weights, start, self._empty, self._note)
        started = self._descent.latents.copy()
        for detour in (DETOUR, END):  # what is lost far from ε may not come back
            self._descent.latents.assign(started)
            if state := self._descend(self._home, self._moves(1.0), detour):
                break
        self._stations = {self._home: self._station([start, state])}

    def _arrive(self, epsilon: float) -> "_Station":
        """Where the search is at an ε; what has been gone of the way there is not gone again."""
        if epsilon not in self._stations:
            origin = self._home
            while origin / DOWN > epsilon:
                origin /= DOWN
            while origin * UP < epsilon:
                origin *= UP
            before = self._arrive(origin)
            self._descent.latents.assign(before.latents)
            self.loss.draw_as(before.drawing)
            pace = BACK_PACE if epsilon < origin else 1.0
            state = self._descend(epsilon, self._moves(FURTHER_SHARE), pace=pace)
            self._stations[epsilon] = self._station([*before.states, state])
        return self._stations[epsilon]

    def _station(self, states: Iterable[State | None]) -> "_Station":
        found = [state for state in states if state is not None]
        return _Station(self._descent.latents.copy(), self.loss.drawing(), found)

    def _descend(self, epsilon: float, moves: int, detour: float = END, pace: float = 1.0) -> State | None:
        """Descend to an ε; if that ends outside of it, come back more strictly. The smallest network within it."""
        state = self._descent.run(epsilon, moves, detour, pace)
        if state is None:
            state = self._descent.run(epsilon, self._moves(FURTHER_SHARE), RETURN_END, BACK_PACE, RETURN_END)
        return state

    def _noted(self, state: State) -> State:
        self._note(state.estimated_bytes, state.loss)
        return state

    def _moves(self, share: float) -> int:
        return math.ceil(share * (self.moves or MOVES))

    def _smallest(self, epsilon: float) -> Point | None:
        """The file of the smallest network that was met on the way to an ε and is within it."""
        station = self._arrive(epsilon)
        allowed = self.loss.original + epsilon
        feasible = [state for state in station.states if state.loss <= allowed]
        if not feasible:
            self.loss.draw_as(station.drawing)
            feasible = [self._noted(self._coder.coded(epsilon))]
        points: list[Point] = []
        most = math.inf
        for state in sorted(feasible, key=lambda state: state.estimated_bytes):
            # Asked again as the report will ask: with gradients the last bits of a loss can differ.
            if state.estimated_bytes <= most and self.loss(state.params) <= allowed:
                points.append(self._write_state(state))
                most = min(most, ESTIMATED * state.estimated_bytes)
        return min(points, key=lambda point: len(point.encoded.data), default=None)

    def _nothing(self, epsilons: Sequence[float]) -> dict[float, Point]:
        """The file in which every tensor is zero, for each ε that it satisfies: nothing is smaller."""
        zeros = {name: torch.zeros_like(value) for name, value in self.weights.items()}
        self._empty = self.loss(zeros) - self.loss.original
        feasible = [epsilon for epsilon in epsilons if self._empty <= epsilon]
        empty = self._write(dict.fromkeys(self.weights, ZERO), None) if feasible else None
        return {epsilon: empty for epsilon in feasible if empty is not None}

    def _note(self, size: float, loss: float) -> None:
        self.trace.append((size, loss))

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
