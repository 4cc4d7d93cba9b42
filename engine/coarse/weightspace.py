"""Coarse-graining without a task: the smallest file whose weights have a given relative squared error.

Without a loss every error counts alike: both metrics are the identity, and by reverse water-filling (Cover & Thomas
§10.3.3) one noise level goes for all tensors, below which everything becomes zero. That level is looked for on the
error of the decoded weights, in their own types.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits
from torch import Tensor

from ..checkpoints.names import natural
from ..codec.coders import Coder
from ..codec.container import Encoded, Entry, encode, exact_code, to_tensor
from ..codec.header import Signature
from ..codec.representation import IDENTITY, Decoded, Kind, matrix_shape
from .assembly import GRID, Assembler
from .curvature import Curvature
from .exactness import is_coarse
from .fourier import fourier_bases
from .tensor_coder import ALL_KINDS, Candidate

SMALL = 1 << 20  # weights of a network all of whose tensors are tried in each other's bases
FACTORED = 1 << 27  # multiplications (rows · columns · rank) up to which a matrix is worth decomposing
TRIALS, GUESSES = 12, 4  # levels in all, and those that are guessed
CLOSE = 3 / GRID  # levels this close are not told apart further
FINEST = 2.0**-36  # noise level, in largest weights: symbols have 40 bits


class Coded(NamedTuple):
    """All tensors coded, in file order, each at its log noise level, and their relative squared error."""

    candidates: list[Candidate]
    levels: dict[str, float]
    error: float

    @property
    def decoded(self) -> list[Decoded]:
        """What the decoder would have."""
        return [candidate.decoded for candidate in self.candidates]


def relative_error(params: Mapping[str, Tensor], decoded: Mapping[str, Tensor]) -> float:
    """‖W − Ŵ‖² / ‖W‖² over the coarse-grained tensors together; those that are kept exactly do not count."""
    coarse = {name: value for name, value in params.items() if is_coarse(name, value)}
    error = sum(_energy(value.detach().cpu().double() - decoded[name].double()) for name, value in coarse.items())
    return error / max(sum(map(_energy, coarse.values())), 1e-300)


def _energy(value: Tensor) -> float:
    return float((value.detach().double() ** 2).sum())


class WeightSpace:
    """The tensors of a checkpoint (`params`), where all errors count alike."""

    def __init__(self, params: Mapping[str, Tensor]) -> None:
        # Matrices first, as in the search by loss: bases are inherited in this order.
        named = sorted(params.items(), key=lambda item: (item[1].ndim < 2, natural(item[0])))
        self.weights = {name: value.detach().cpu() for name, value in named if is_coarse(name, value)}
        self.exact = {name: value.detach().cpu() for name, value in named if name not in self.weights}
        self.signatures = [Signature(name, tuple(value.shape), value.dtype) for name, value in self.weights.items()]
        matrices = {n: v.double().numpy().reshape(matrix_shape(v.shape)) for n, v in self.weights.items()}
        self.largest = max((float(np.abs(matrix).max()) for matrix in matrices.values()), default=0.0)
        self.energy = sum(map(_energy, self.weights.values()))
        self.count = sum(matrix.size for matrix in matrices.values())
        self._small = self.count <= SMALL
        flat = {name: Curvature(np.ones(len(matrix)), np.ones(matrix.shape[1])) for name, matrix in matrices.items()}
        self._assembler = Assembler(self.signatures, matrices, flat, fourier_bases(matrices) if self._small else {})

    def at(self, levels: dict[str, float], previous: Coded | None = None) -> Coded:
        """Every tensor at its log noise level; in new bases where a `previous` pass says what there is to inherit."""
        if previous is not None and self._small:
            self._assembler.plan(levels, previous.decoded)
        candidates: list[Candidate] = []
        error = 0.0
        for name, shape, dtype in self.signatures:
            candidates.append(self._code(name, levels[name], [c.decoded for c in candidates]))
            value = to_tensor(candidates[-1].decoded, shape, dtype)
            error += _energy(value.double() - self.weights[name].double())
        return Coded(candidates, levels, error / self.energy if math.isfinite(error) else math.inf)

    def _code(self, name: str, level: float, earlier: list[Decoded]) -> Candidate:
        """One tensor at a level. Of a large network nothing is remembered, lest the memory fill."""
        if self._small:
            return self._assembler.code(name, level, earlier)
        coder = self._assembler.coders[name]
        m, n = coder.weights.shape
        kinds = ALL_KINDS if m * n * min(m, n) <= FACTORED else frozenset({Kind.DIRECT})
        return coder.best(math.exp(level), (IDENTITY, IDENTITY), coder.plain, kinds)

    def smallest(self, allowed: float) -> Coded | None:
        """The tensors coded as coarsely as a relative squared error of `allowed` lets them.

        None if no step is fine enough: float32 cannot tell apart what the error is asked of.
        """
        if not self.energy:
            return None
        finest = math.log(FINEST * self.largest)
        noise = min(max(12 * allowed * self.energy / self.count, 1e-300), 1e300)
        level = max(0.5 * math.log(noise), finest)
        coded = self.at(dict.fromkeys(self.weights, level))
        feasible: Coded | None = None
        infeasible: Coded | None = None
        low, high = -math.inf, math.inf
        for trial in range(TRIALS):
            if coded.error <= allowed:
                low, feasible = level, coded
            else:
                high, infeasible = level, coded
            guessing = trial < GUESSES and coded.error < math.inf
            if high - low <= CLOSE or high <= finest or (high == math.inf and not guessing):
                break
            if guessing:  # the error goes with the square of the level, nearly
                level += (CLOSE if high == math.inf else 0) - 0.5 * math.log(max(coded.error / allowed, 1e-3))
            else:  # faster and faster: where it does not, guesses never arrive
                level -= CLOSE * 2.0 ** (trial - 2)
            if math.isfinite(high - low) and not (guessing and low < level < high):
                level = (low + high) / 2
            level = max(level, finest)
            coded = self.at(dict.fromkeys(self.weights, level), coded if trial < 2 else None)
        return self._between(feasible, infeasible, allowed) if feasible and infeasible else feasible

    def _between(self, feasible: Coded, infeasible: Coded, allowed: float) -> Coded:
        """Take over from the `infeasible` state what saves most bits for its error, as far as that is allowed.

        One level for all leaves a part of the error unused where a tensor jumps to another code.
        """
        pairs = zip(self.weights, feasible.candidates, infeasible.candidates, strict=True)
        gains = [(name, fine.bits - rough.bits, rough.distortion - fine.distortion) for name, fine, rough in pairs]
        levels, room = dict(feasible.levels), (allowed - feasible.error) * self.energy
        for name, bits, error in sorted(gains, key=lambda g: g[1] / max(g[2], 1e-300), reverse=True):
            if bits > 0 and error <= room:
                levels[name], room = infeasible.levels[name], room - max(error, 0.0)
        mixed = self.at(levels)
        return mixed if mixed.error <= allowed else feasible


def compress_weights(params: Mapping[str, Tensor], allowed: float, coder: Coder = Coder.MIXING) -> Encoded:
    """The smallest file found whose decoded weights have a relative squared error of at most `allowed`.

    What is no weight is kept to the byte, and so is everything where no grid is fine enough.
    """
    space = WeightSpace(params)
    with threadpool_limits(1, "blas"):
        coded = space.smallest(allowed)
    codes = [c.code for c in coded.candidates] if coded else [exact_code(value) for value in space.weights.values()]
    entries = [Entry(signature, code) for signature, code in zip(space.signatures, codes, strict=True)]
    for name, value in space.exact.items():
        entries.append(Entry(Signature(name, tuple(value.shape), value.dtype), exact_code(value)))
    return encode(entries, coded.decoded if coded else None, coder)
