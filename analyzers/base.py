"""What a measure is: its input, its output, its place in the registry."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeVar

import numpy as np

if TYPE_CHECKING:
    from ..kernels.dispatch import Moments

RELATIVE_STEPS = (1.0, 0.5, 0.25, 0.125, 0.0625)
"""Quantisation steps Δ/σ that every tensor is measured at; σ is the tensor's own standard deviation."""


@dataclass(frozen=True)
class TensorStatistics:
    """What is known about one tensor after it has been read once. Every measure works from this."""

    name: str
    shape: tuple[int, ...]
    numel: int
    moments: "Moments"  # over the finite entries
    entropy_bits: np.ndarray  # (S,) bits per finite weight, quantised at RELATIVE_STEPS · std
    mse: np.ndarray  # (S,) mean squared error of that
    singular_values: np.ndarray | None  # (min(m, n),) float64, descending; None without a matrix, or a finite one

    @property
    def is_matrix(self) -> bool:
        """Whether the tensor has a spectrum: two or more axes, read as (out, everything else)."""
        return len(self.shape) >= 2 and self.numel > 0


@dataclass(frozen=True)
class TensorValues:
    """The numbers that one measure gave for one tensor; a number that is not defined for it is absent."""

    name: str
    numel: int
    values: Mapping[str, float]


class Analyzer:
    """A measure: a family of columns with one name on the command line."""

    name: ClassVar[str]
    version: ClassVar[int] = 1  # part of the store's key: a changed definition is measured again
    units: ClassVar[Mapping[str, str]]  # of every value this measure can give, by its name before any "@"


class TensorAnalyzer(Analyzer):
    """A measure of single tensors, and of the network through them. Needs no task."""

    needs_singular_values: ClassVar[bool] = False  # they cost more than all else: computed only if somebody asks

    def tensor(self, statistics: TensorStatistics) -> dict[str, float]:
        """The values of one tensor."""
        raise NotImplementedError

    def columns(self, tensors: Sequence[TensorValues]) -> dict[str, float]:
        """The values of the whole checkpoint: one column of the trajectory each."""
        raise NotImplementedError


ANALYZERS: dict[str, Analyzer] = {}

A = TypeVar("A", bound=Analyzer)


def analyzer(name: str) -> Callable[[type[A]], type[A]]:
    """Register a measure under its command-line name. The order of registration is the order of the columns."""

    def register(cls: type[A]) -> type[A]:
        cls.name = name
        ANALYZERS[name] = cls()
        return cls

    return register


def unit_of(value_name: str) -> str:
    """The unit of a value, e.g. "bytes" for `complexity_bytes@1.0`; "" for a name that no measure gives."""
    base = value_name.partition("@")[0]
    return next((measure.units[base] for measure in ANALYZERS.values() if base in measure.units), "")


def mean_over_tensors(tensors: Sequence[TensorValues], name: str, *, weighted: bool = True) -> float:
    """Mean of one value over the tensors that have it, by number of weights or each tensor once; NaN without any."""
    having = [tensor for tensor in tensors if name in tensor.values]
    if not having:
        return float("nan")
    weights = [tensor.numel if weighted else 1 for tensor in having]
    return float(np.average([tensor.values[name] for tensor in having], weights=weights))
