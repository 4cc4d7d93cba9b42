"""All tensors coded at once, in the order of the file, each with the bases that those before it offer."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ...kernels.threads import with_one_blas_thread_each
from ..codec.container import to_tensor
from ..codec.exact import FloatArray
from ..codec.header import Signature
from ..codec.representation import IDENTITY, Basis, BasisKind, Decoded, Kind, basis_matrix
from .curvature import Curvature
from .tensor_coder import ALL_KINDS, Candidate, TensorCoder, View
from .transforms import choose_basis, fourier_candidate

GRID = 64  # log steps are tried on a grid of 1/64, so that codes can be reused


@dataclass(frozen=True)
class Assembly:
    """A candidate for the whole network, in file order."""

    candidates: dict[str, Candidate]

    @property
    def bits(self) -> float:
        """Estimated bits of all tensors."""
        return sum(candidate.bits for candidate in self.candidates.values())

    @property
    def decoded(self) -> list[Decoded]:
        """What the decoder would have, in file order."""
        return [candidate.decoded for candidate in self.candidates.values()]


def fourier_bases(weights: Mapping[str, FloatArray]) -> dict[str, tuple[Basis, Basis]]:
    """The Fourier basis, if any, that each side of each matrix is worth trying in."""
    return {name: (fourier_candidate(w), fourier_candidate(w.T)) for name, w in weights.items()}


@dataclass(eq=False)
class Assembler:
    """Codes every tensor at given steps under one curvature; remembers what it coded."""

    signatures: Sequence[Signature]
    weights: Mapping[str, FloatArray]
    curvature: Mapping[str, Curvature]
    fourier: Mapping[str, tuple[Basis, Basis]]
    bases: dict[str, tuple[Basis, Basis]] = field(default_factory=dict)
    _views: dict[tuple, View] = field(default_factory=dict)
    _codes: dict[tuple, Candidate] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.coders = {s.name: TensorCoder(self.weights[s.name], self.curvature[s.name]) for s in self.signatures}

    def plan(self, levels: Mapping[str, float], previous: Sequence[Decoded] = ()) -> None:
        """Choose every tensor's bases, given what an earlier pass decoded (empty: only fixed bases)."""

        def choose(index: int) -> tuple[Basis, Basis]:
            name = self.signatures[index].name
            coder, noise = self.coders[name], self.noise(name, levels[name]) ** 2 / 4
            if coder.weights.shape[1] == 1 or coder.dead:
                return IDENTITY, IDENTITY
            (rows, columns), (left, right), earlier = coder.plain.rounding, self.fourier[name], previous[:index]
            return (
                choose_basis(coder.weights, rows, noise / columns.conditional, left, earlier),
                choose_basis(coder.weights.T, columns, noise / rows.conditional, right, earlier),
            )

        chosen = with_one_blas_thread_each(choose, range(len(self.signatures)))
        self.bases = {s.name: bases for s, bases in zip(self.signatures, chosen, strict=True)}

    def assemble(self, levels: Mapping[str, float], dropped: frozenset[str] = frozenset()) -> Assembly:
        """Code every tensor at its log step; `dropped` ones become zero."""
        candidates: dict[str, Candidate] = {}
        for signature in self.signatures:
            earlier = [candidate.decoded for candidate in candidates.values()]
            name = signature.name
            candidates[name] = self.coders[name].zero() if name in dropped else self.code(name, levels[name], earlier)
        return Assembly(candidates)

    def code(
        self, name: str, level: float, earlier: Sequence[Decoded], kinds: frozenset[Kind] = ALL_KINDS
    ) -> Candidate:
        """The best code of one tensor at log step `level`, after the `earlier` ones of the file."""
        return self.codes(name, level, (kinds,), earlier)[0]

    def codes(
        self, name: str, level: float, choices: Sequence[frozenset[Kind]], earlier: Sequence[Decoded] = ()
    ) -> list[Candidate]:
        """The best code of each of several choices of kinds."""
        planned = self.bases.get(name, (IDENTITY, IDENTITY))
        bases = (self._usable(planned[0], earlier), self._usable(planned[1], earlier))
        view, key = self.view(name, bases, earlier), self._key(name, bases, earlier)
        rounded = round(level * GRID)
        missing = [kinds for kinds in choices if (*key, rounded, kinds) not in self._codes]
        coder, noise = self.coders[name], self.noise(name, rounded / GRID)
        self._codes |= {(*key, rounded, kinds): coder.best(noise, bases, view, kinds) for kinds in missing}
        return [self._codes[*key, rounded, kinds] for kinds in choices]

    def prepare(self, wanted: Iterable[tuple[str, float, Sequence[frozenset[Kind]]]]) -> None:
        """Code several tensors at once, one a thread, so that `codes` will have them ready."""
        with_one_blas_thread_each(lambda arguments: self.codes(*arguments), wanted)

    def noise(self, name: str, level: float) -> float:
        """The noise level of a tensor whose log step is `level`."""
        return math.exp(level) * self.coders[name].unit

    def view(self, name: str, bases: tuple[Basis, Basis], earlier: Sequence[Decoded] = ()) -> View:
        """The tensor in given bases."""
        key = self._key(name, bases, earlier)
        if key not in self._views:
            m, n = self.coders[name].weights.shape
            matrices = (basis_matrix(bases[0], m, earlier), basis_matrix(bases[1], n, earlier))
            self._views[key] = self.coders[name].view(matrices, (key[2], key[3]))
        return self._views[key]

    def _key(self, name: str, bases: tuple[Basis, Basis], earlier: Sequence[Decoded]) -> tuple:
        """What tells a view from others: tensor, bases, and what these are inherited from."""
        return (name, bases, self._source(bases[0], earlier), self._source(bases[1], earlier))

    @staticmethod
    def _source(basis: Basis, earlier: Sequence[Decoded]) -> Decoded | None:
        return earlier[basis.parameter] if basis.kind == BasisKind.INHERITED else None

    @staticmethod
    def _usable(basis: Basis, earlier: Sequence[Decoded]) -> Basis:
        """The basis, unless its source turned out to be dropped."""
        if basis.kind == BasisKind.INHERITED and earlier[basis.parameter].representation.symbols is None:
            return IDENTITY
        return basis

    def params(self, assembly: Assembly) -> dict[str, Tensor]:
        """The decoded weights, as the tensors that the loss takes."""
        return {s.name: to_tensor(assembly.candidates[s.name].decoded, s.shape, s.dtype) for s in self.signatures}
