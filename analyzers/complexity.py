"""Complexity C_ε: the bytes of a real file whose decoded weights keep the loss within ε.

The search is `engine.coarse`; this file says which columns its results become.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from .base import Analyzer, analyzer

if TYPE_CHECKING:
    from ..engine.coarse import Complexity

PREFIX = {"kolmogram": "complexity", "paper": "paper"}
"""Column prefix per method: numbers of different methods never share a column."""


@analyzer("complexity")
class ComplexityAnalyzer(Analyzer):
    """Bytes and decoded loss per ε, and where the bytes went."""

    version = 15
    units: ClassVar = {
        "complexity_bytes": "bytes",
        "complexity_largest": "bytes",
        "complexity_loss": "nats per example",
        "paper_bytes": "bytes",
        "paper_largest": "bytes",
        "paper_loss": "nats per example",
    }

    def columns(self, method: str, epsilon: float, result: "Complexity | None") -> dict[str, float]:
        """Columns of one ε; all NaN where no feasible description was found."""
        size, loss = (
            (result.bytes, float(result.loss)) if result and result.status == "ok" else (float("nan"), float("nan"))
        )
        return {f"{PREFIX[method]}_bytes@{epsilon}": size, f"{PREFIX[method]}_loss@{epsilon}": loss}

    def several(
        self, method: str, epsilon: float, searches: Sequence[Mapping[str, float]]
    ) -> tuple[int, dict[str, float]]:
        """Of the columns of several searches for one ε: which found the smallest file, and its columns with the largest
        size beside them.
        """
        name = f"{PREFIX[method]}_bytes@{epsilon}"
        sizes = {i: columns[name] for i, columns in enumerate(searches) if not math.isnan(columns.get(name, math.nan))}
        smallest = min(sizes, key=lambda i: sizes[i], default=0)
        largest = {f"{PREFIX[method]}_largest@{epsilon}": max(sizes.values(), default=math.nan)}
        own = dict(searches[smallest])
        return smallest, {name: own.pop(name, math.nan)} | largest | own

    def tensors(self, method: str, epsilon: float, result: "Complexity") -> Mapping[str, tuple[str, float, str]]:
        """Tensor → (value's name, bytes, the transform that was chosen for it)."""
        name = f"{PREFIX[method]}_bytes@{epsilon}"
        return {tensor: (name, cost.bytes, cost.transform) for tensor, cost in result.per_tensor.items()}
