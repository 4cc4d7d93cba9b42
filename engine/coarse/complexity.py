"""Complexity C_ε: the bytes of the smallest real file found whose decoded weights keep the training loss within ε.

result = complexity(params, loss, epsilon=1.0)
result.bytes, result.loss, result.per_tensor
result.save("network.kolmo")
"""

import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

from torch import Tensor

from ..arguments import at_least_one, checked_epsilons, checked_method, several
from ..codec.container import decode
from ..codec.representation import BasisKind, Kind, Representation
from ..errors import CodecError
from ..files import write_bytes
from ..tasks import Task, as_task
from .search import Point, Search

ByteString = bytes  # `bytes` names a field below
LossFunction = Callable[[Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True)
class TensorCost:
    """What one tensor took of the file, in bytes (a share: neighbours share bytes), and how it was coded."""

    bytes: float
    transform: str


@dataclass(frozen=True)
class Complexity:
    """One ε's result. `loss` is that of the *decoded* weights; sizes are of a file that exists in `encoded`.

    Where there is none `bytes` is NaN, no tensor has a cost, and `status` says why.
    """

    epsilon: float
    bytes: int | float
    loss: float
    original_loss: float
    per_tensor: dict[str, TensorCost]
    evaluations: int
    seconds: float
    status: str = "ok"
    encoded: ByteString | None = field(default=None, repr=False)
    frontier: tuple[tuple[float, float], ...] = field(default=(), repr=False)
    """The states that the search passed: (estimated bytes, loss)."""

    def save(self, path: str | Path) -> None:
        """Write the .kolmo file."""
        if self.encoded is None:
            raise CodecError(f"{path}: there is no file to save: {self.status}")
        write_bytes(path, self.encoded)

    def decode(self) -> dict[str, Tensor]:
        """The weights that the file stands for."""
        if self.encoded is None:
            raise CodecError(f"there is nothing to decode: {self.status}")
        return decode(self.encoded, sys.maxsize)


@dataclass(frozen=True)
class ComplexityCurve:
    """Complexity of one checkpoint at several ε, from one search."""

    original_loss: float
    results: tuple[Complexity, ...]


@overload
def complexity(
    params: Mapping[str, Tensor],
    loss: Task | LossFunction,
    epsilon: float = 1.0,
    *,
    method: str = "kolmogram",
    seed: int = 0,
    moves: int | None = None,
) -> Complexity: ...
@overload
def complexity(
    params: Mapping[str, Tensor],
    loss: Task | LossFunction,
    epsilon: Iterable[float],
    *,
    method: str = "kolmogram",
    seed: int = 0,
    moves: int | None = None,
) -> list[Complexity]: ...
def complexity(
    params: Mapping[str, Tensor],
    loss: Task | LossFunction,
    epsilon: float | Iterable[float] = 1.0,
    *,
    method: str = "kolmogram",
    seed: int = 0,
    moves: int | None = None,
) -> Complexity | list[Complexity]:
    """C_ε of a network: `loss(params)` is its mean training loss in nats per example, ε the rise it may have.

    Several ε are answered by one search and gives a list in its order; each size is what it would be alone. So
    many `moves` of descent (100 unless told) are for the first ε on the way, and half as many for each further one.
    Fewer are faster and find larger files. Raises KolmogramError if the loss of the network itself is not a finite
    number.
    """
    results = complexity_curve(params, loss, epsilon, method=method, seed=seed, moves=moves).results
    return list(results) if several(epsilon) else results[0]


def complexity_curve(
    params: Mapping[str, Tensor],
    task: Task | LossFunction,
    epsilons: float | Iterable[float],
    *,
    method: str = "kolmogram",
    seed: int = 0,
    moves: int | None = None,
) -> ComplexityCurve:
    """C_ε of one checkpoint at every ε of `epsilons` (nats, positive)."""
    epsilons = checked_epsilons(epsilons)
    checked = as_task(task)
    moves = None if moves is None else at_least_one("moves", moves)
    if checked_method(method) == "paper":
        from .paper import paper_curve  # needs the extra `paper`

        return paper_curve(params, checked, epsilons, seed)
    began = time.perf_counter()
    search = Search(checked, params, seed, moves)
    points = search.run(epsilons)
    seconds = time.perf_counter() - began
    results = (_result(search, point, epsilon, seconds) for epsilon, point in zip(epsilons, points, strict=True))
    return ComplexityCurve(search.loss.original, tuple(results))


def _result(search: Search, point: Point | None, epsilon: float, seconds: float) -> Complexity:
    """Decode the file, look at the loss of what comes out, and only then report its size."""
    if point is None:
        point = search.exact_point()
    loss = search.loss(decode(point.encoded.data, sys.maxsize))
    costs = {
        name: TensorCost(point.encoded.tensor_bytes[name], transform_name(code)) for name, code in point.codes.items()
    }
    feasible = loss <= search.loss.original + epsilon
    return Complexity(
        epsilon,
        len(point.encoded.data) if feasible else math.nan,
        loss,
        search.loss.original,
        costs if feasible else {},
        search.loss.evaluations,
        seconds,
        "ok" if feasible else f"the decoded loss {loss:.6g} exceeds {search.loss.original:.6g} + {epsilon:g}",
        point.encoded.data if feasible else None,
        tuple(search.trace),
    )


def transform_name(code: Representation) -> str:
    """How a tensor was coded, in words: `zero`, `exact`, `direct`, `factors`, with its bases."""
    words = {
        BasisKind.IDENTITY: "",
        BasisKind.FOURIER: "fourier",
        BasisKind.MULTIPLICATIVE: "multiplicative",
        BasisKind.INHERITED: "inherited",
    }
    name = Kind(code.kind).name.lower()
    if code.kind in (Kind.ZERO, Kind.EXACT):
        return name
    bases = [words[basis.kind] for basis in code.bases]
    return name if not any(bases) else f"{name}({', '.join(word or 'plain' for word in bases)})"
