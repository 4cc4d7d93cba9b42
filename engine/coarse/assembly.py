"""Tensors coded in the order of the file, each with the bases that those before it offer."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ...kernels.threads import with_one_blas_thread_each
from ..codec.exact import FloatArray
from ..codec.header import Signature
from ..codec.representation import IDENTITY, Basis, BasisKind, Decoded, Kind, basis_matrix
from .curvature import Curvature
from .tensor_coder import ALL_KINDS, Candidate, TensorCoder, View
from .transforms import choose_basis

GRID = 64  # log noise levels are tried on a grid of 1/64, so that codes can be reused


@dataclass(eq=False)
class Assembler:
    """Codes every tensor at given noise levels under one curvature; remembers what it coded."""

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
            coder, noise = self.coders[name], math.exp(2 * levels[name])
            if coder.weights.shape[1] == 1 or coder.dead:
                return IDENTITY, IDENTITY
            (rows, columns), (left, right), earlier = coder.plain.rounding, self.fourier[name], previous[:index]
            return (
                choose_basis(coder.weights, rows, noise / columns.conditional, left, earlier),
                choose_basis(coder.weights.T, columns, noise / rows.conditional, right, earlier),
            )

        chosen = with_one_blas_thread_each(choose, range(len(self.signatures)))
        self.bases = {s.name: bases for s, bases in zip(self.signatures, chosen, strict=True)}

    def code(
        self, name: str, level: float, earlier: Sequence[Decoded] = (), kinds: frozenset[Kind] = ALL_KINDS
    ) -> Candidate:
        """The best code of one tensor at log noise `level`, after the `earlier` ones of the file."""
        planned = self.bases.get(name, (IDENTITY, IDENTITY))
        bases = (self._usable(planned[0], earlier), self._usable(planned[1], earlier))
        rounded = round(level * GRID)
        key = (*self._key(name, bases, earlier), rounded, kinds)
        if key not in self._codes:
            noise = math.exp(rounded / GRID)
            self._codes[key] = self.coders[name].best(noise, bases, self.view(name, bases, earlier), kinds)
        return self._codes[key]

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
