"""Where descent starts: a network coded directly, a little above its original loss, without what is of no use to it.

Tensors are coded at one noise level under the curvature of the loss, errors being fed back, as coarsely as the loss
allows. A start that is finer takes descent too long; one without error feedback is finer. Curvature does not see
everything: a few small tensors (the bias of a query) can make all others finer. The loss itself tells which these are,
and they alone become finer.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ...kernels.threads import with_one_blas_thread_each
from ..codec.container import to_tensor
from ..codec.exact import FloatArray
from ..codec.header import Signature
from ..codec.representation import Kind
from .assembly import Assembler, fourier_bases
from .curvature import Curvature, curvature, moments, without_dead
from .loss import Loss
from .state import State
from .tensor_coder import Candidate

RISE, FREE_RISE = 0.5, 0.05  # shares of ε: of the start, and of dropping whole tensors
SMALL, EXCESS, NOTHING = 0.05, 4.0, 0.02  # share of the bits of a small tensor; times its share of the bits, and share
# of the rise, up to which it may be to blame for the rise
FINER, ROUNDS = 2.0, 2  # log noise that it is made finer by at most, at a time; how often
UNHEARD = 1e-4  # share of the loss by which it may change if what seems dead is
FIRST_LEVEL, LEAST_STRIDE, LARGEST_STRIDE, FINEST_LEVEL, COARSEST_LEVEL = -4.0, 0.5, 2.0, -25.0, 25.0  # of log noise
CLOSE = 0.3  # log noise levels this close are not told apart further
DRAWS = 8  # backward passes for the curvature
NOISE = 0.3  # standard deviations of noise at which it is looked at: at a minimum it vanishes
DIRECT = frozenset({Kind.DIRECT})


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

    def coded(self, epsilon: float) -> State:
        """The network at about half of the rise that ε allows; at more if nothing is fine enough."""
        dropped = self._useless(FREE_RISE * epsilon)
        assembler = self._assembler(dropped)
        assembler.plan(dict.fromkeys(self.weights, FIRST_LEVEL))
        level, goal, finer, rounds = FIRST_LEVEL, RISE * epsilon, dict.fromkeys(self.weights, 0.0), 0
        low, high, best = -math.inf, math.inf, None
        while True:
            state = self._at(assembler, {name: level - finer[name] for name in self.weights}, dropped)
            rise = state.loss - self.loss.original
            if rise <= goal:
                low, best = level, state
            elif rounds < ROUNDS and (blamed := self._blamed(state, goal, dropped)):
                rounds += 1
                finer |= {name: finer[name] + by for name, by in blamed.items()}
                continue
            else:
                high = level
            if high - low < CLOSE or level < FINEST_LEVEL or level > COARSEST_LEVEL:
                return best or state
            if math.isfinite(high - low):
                level = (low + high) / 2
            elif best is None:
                level -= min(max(0.5 * math.log(rise / goal), LEAST_STRIDE), LARGEST_STRIDE)
            else:
                level += LEAST_STRIDE

    def _blamed(self, state: State, goal: float, dropped: frozenset[str]) -> dict[str, float]:
        """Small tensors without whose errors the rise would be smaller by more than their bits excuse.

        With the log noise by which each has to become finer: a rise goes with its square.
        """
        loss, bits = self.loss.on_part(state.params), 8 * state.estimated_bytes
        rise, found = max(loss - self.loss.on_part(self.weights), goal), {}
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

        def code(name: str) -> Candidate:
            if name in dropped:
                return assembler.coders[name].zero()
            return assembler.code(name, levels[name], kinds=DIRECT)

        coded = with_one_blas_thread_each(code, self.weights)
        candidates = dict(zip(self.weights, coded, strict=True))
        params = {s.name: to_tensor(candidates[s.name].decoded, s.shape, s.dtype) for s in self.signatures}
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
