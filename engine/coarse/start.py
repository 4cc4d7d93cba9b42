"""Where descent starts: a network coded directly, a little above its original loss, without what is of no use to it.

Tensors are coded at one noise level under the curvature of the loss, errors being fed back, as coarsely as the loss
allows. A start that is finer takes descent too long; one without error feedback is finer. Curvature does not see
everything: a few small tensors (the bias of a query) can make all others finer. The loss itself tells which these are,
and they alone become finer.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ...kernels.threads import with_one_blas_thread_each
from ..codec.container import to_tensor
from ..codec.exact import FloatArray
from ..codec.header import Signature
from ..codec.representation import Kind
from .assembly import Assembler
from .curvature import Curvature, curvature, moments, without_dead
from .fourier import fourier_bases
from .loss import Loss
from .state import State
from .tensor_coder import Candidate

RISE, FREE_RISE = 0.5, 0.05  # shares of ε: of the start, and of dropping whole tensors
SMALL, EXCESS, NOTHING = 0.05, 4.0, 0.02  # share of the bits of a small tensor; times its share of the bits, and share
# of the rise, up to which it may be to blame for the rise
FINER, HELPED = 2.0, 0.9  # log noise that it is made finer by at most, at a time; share of the rise left if that helped
UNHEARD = 1e-4  # share of the loss by which it may change if what seems dead is
FIRST_LEVEL, LEAST_STRIDE, LARGEST_STRIDE, FINEST_LEVEL, COARSEST_LEVEL = -4.0, 0.5, 2.0, -25.0, 25.0  # of log noise
ENOUGH, AIM, CLOSE, EDGE = 0.75, 0.87, 0.1, 0.2  # shares of the goal: to be content with, and to aim at; log noise
# levels that are not told apart further; share of the way between two levels that the next is away from both
DRAWS = 8  # backward passes for the curvature
NOISE = 0.3  # standard deviations of noise at which it is looked at: at a minimum it vanishes
DIRECT = frozenset({Kind.DIRECT})


class Tried(NamedTuple):
    """A log noise level, and the rise that it gave."""

    level: float
    rise: float


class Start:
    """Codes the tensors `weights` of a network, which the file holds in the order of `signatures`."""

    def __init__(
        self,
        loss: Loss,
        signatures: list[Signature],
        weights: Mapping[str, Tensor],
        matrices: Mapping[str, FloatArray],
        generator: torch.Generator,
    ) -> None:
        self.loss, self.signatures, self.weights, self.generator = loss, signatures, weights, generator
        self.matrices = dict(matrices)
        # The largest take longest: begun last they would be waited for alone.
        self._largest_first = sorted(weights, key=lambda name: weights[name].numel(), reverse=True)

    def coded(self, epsilon: float) -> State:
        """The network at about half of the rise that ε allows; at more if nothing is fine enough."""
        dropped = self._useless(FREE_RISE * epsilon)
        assembler = self._assembler(dropped)
        assembler.plan(dict.fromkeys(self.weights, FIRST_LEVEL))
        level, goal, finer = FIRST_LEVEL, RISE * epsilon, dict.fromkeys(self.weights, 0.0)
        below, above, best, before = Tried(-math.inf, 0.0), Tried(math.inf, math.inf), None, math.inf
        while True:
            state = self._at(assembler, {name: level - finer[name] for name in self.weights}, dropped)
            rise = state.loss - self.loss.original
            if rise <= goal:
                below, best = Tried(level, rise), state
            else:
                above = Tried(level, rise)
            # Where all is lost nobody is to blame: every level is asked, and again as long as that helps.
            asked = ENOUGH * goal < rise < HELPED * before
            if asked and (blamed := self._blamed(state, goal, dropped)):
                finer |= {name: finer[name] + by for name, by in blamed.items()}
                before, above = rise, Tried(math.inf, math.inf)
                continue
            near = ENOUGH * goal <= rise <= goal or above.level - below.level < CLOSE
            if near or not FINEST_LEVEL <= level <= COARSEST_LEVEL:
                return best or state
            level, before = _next_level(below, above, goal), math.inf

    def _blamed(self, state: State, goal: float, dropped: frozenset[str]) -> dict[str, float]:
        """Small tensors without whose errors the rise would be smaller by more than their bits excuse.

        With the log noise by which each has to become finer: a rise goes with its square.
        """
        loss, bits = self.loss.on_part(state.params), 8 * state.estimated_bytes
        rise, found = max(loss - self.loss.original_on_part, goal), {}
        weights = sum(value.numel() for value in self.weights.values())
        for name, candidate in state.candidates.items():
            # One that has vanished at this level tells nothing of the bits that it will take.
            vanished = candidate.code.symbols is None
            share = self.weights[name].numel() / weights if vanished else candidate.bits / bits
            if name in dropped or share > SMALL:
                continue
            blame = loss - self.loss.on_part({**state.params, name: self.weights[name]})
            excused = max(EXCESS * share * rise, NOTHING * goal)
            if blame > excused:
                found[name] = min(0.5 * math.log(blame / excused), FINER)
        return found

    def _at(self, assembler: Assembler, levels: Mapping[str, float], dropped: frozenset[str]) -> State:
        """The network with every tensor at its log noise level."""

        def code(name: str) -> tuple[Candidate, Tensor]:
            coder = assembler.coders[name]
            candidate = coder.zero() if name in dropped else assembler.code(name, levels[name], kinds=DIRECT)
            return candidate, to_tensor(candidate.decoded, self.weights[name].shape, self.weights[name].dtype)

        coded = dict(zip(self._largest_first, with_one_blas_thread_each(code, self._largest_first), strict=True))
        candidates = {name: coded[name][0] for name in self.weights}
        params = {name: coded[name][1] for name in self.weights}
        return State(candidates, params, self.loss(params))

    def _assembler(self, dropped: frozenset[str]) -> Assembler:
        """An assembler under the curvature of the loss, for tensors in which what nothing uses is zero."""
        point = {n: torch.zeros_like(v) if n in dropped else self._noisy(v) for n, v in self.weights.items()}
        seen = moments(self.loss.task, self.loss.placed(point), DRAWS, self.generator, self.loss.fixed)
        curvatures = {s.name: curvature(seen.get(s.name), s.shape) for s in self.signatures}
        self._silence(curvatures)
        return Assembler(self.signatures, self.matrices, curvatures, fourier_bases(self.matrices))

    def _noisy(self, value: Tensor) -> Tensor:
        scale = value.float().std() if value.numel() > 1 else value.float().abs().mean()
        noise = torch.randn(value.shape, generator=self.generator) * NOISE * scale
        return (value.float() + noise).to(value.dtype)

    def _useless(self, allowance: float) -> frozenset[str]:
        """Tensors that can become zero together within `allowance` nats, the most useless first."""
        zeroed = {name: torch.zeros_like(value) for name, value in self.weights.items()}
        original = self.loss.original_on_part
        rises = {name: self.loss.on_part({**self.weights, name: zeroed[name]}) - original for name in zeroed}
        order = [name for name in sorted(rises, key=lambda name: (rises[name], name)) if rises[name] <= allowance]
        low, high = 0, len(order)  # the longest beginning that can go at once
        while low < high:
            middle = (low + high + 1) // 2
            without = {**self.weights, **{name: zeroed[name] for name in order[:middle]}}
            feasible = self.loss(without) - self.loss.original <= allowance
            low, high = (middle, high) if feasible else (low, middle - 1)
        return frozenset(order[:low])

    def _silence(self, curvatures: Mapping[str, Curvature]) -> None:
        """Set to zero the rows and columns of matrices that no example uses, as the loss on all of them confirms.

        Their errors cost nothing, so they need no bits; but a metric that is damped would give them some.
        """
        silent = {}
        for s in self.signatures:
            matrix = without_dead(self.matrices[s.name], curvatures[s.name])
            if matrix is not self.matrices[s.name]:
                silent[s.name] = torch.from_numpy(matrix).reshape(s.shape).to(s.dtype)
        together = self._unheard(silent)
        for name, value in silent.items():
            if together or self._unheard({name: value}):
                self.matrices[name] = value.double().numpy().reshape(self.matrices[name].shape)

    def _unheard(self, changed: Mapping[str, Tensor]) -> bool:
        """Whether the loss of the network hardly changes with these tensors in it."""
        change = self.loss({**self.weights, **changed}) - self.loss.original if changed else 0.0
        return abs(change) <= UNHEARD * max(self.loss.original, UNHEARD)


def _next_level(below: Tried, above: Tried, goal: float) -> float:
    """Where the rise may be just below the goal: between two levels, or beyond the only one that was tried."""
    if math.isfinite(above.level - below.level):
        least = max(below.rise, UNHEARD * goal)  # a rise goes with a power of the noise
        share = math.log(AIM * goal / least) / math.log(above.rise / least)
        return below.level + (above.level - below.level) * min(max(share, EDGE), 1 - EDGE)
    only = above if math.isinf(below.level) else below
    lost = max(only.rise, UNHEARD * goal)
    stride = 0.5 * abs(math.log(AIM * goal / lost)) if math.isfinite(lost) else LARGEST_STRIDE
    stride = min(max(stride, LEAST_STRIDE), LARGEST_STRIDE)
    return only.level + (stride if only is below else -stride)
