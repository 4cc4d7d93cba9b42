"""Norms: cheap controls. If these explain a trajectory, complexity is not needed to."""

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from .base import TensorAnalyzer, TensorStatistics, TensorValues, analyzer


@analyzer("norms")
class NormsAnalyzer(TensorAnalyzer):
    """Euclidean norm, largest magnitude, and how many weights are not finite."""

    version = 2
    units: ClassVar = {"l2_norm": "weight", "abs_max": "weight", "nonfinite": "weights"}

    def tensor(self, statistics: TensorStatistics) -> dict[str, float]:
        """Values of one tensor, over its finite entries; a tensor without any has no norm."""
        moments = statistics.moments
        values = {"nonfinite": moments.nonfinite}
        return values | ({"l2_norm": moments.frobenius, "abs_max": moments.abs_max} if moments.count else {})

    def columns(self, tensors: Sequence[TensorValues]) -> dict[str, float]:
        """Values of the network as one vector; NaN where it has weights and none is finite."""
        measured = [tensor.values for tensor in tensors if "l2_norm" in tensor.values]
        nonfinite = sum(tensor.values["nonfinite"] for tensor in tensors)
        if not measured and nonfinite:
            return {"l2_norm": math.nan, "abs_max": math.nan, "nonfinite": nonfinite}
        return {
            "l2_norm": float(np.linalg.norm([values["l2_norm"] for values in measured])),
            "abs_max": max((values["abs_max"] for values in measured), default=0.0),
            "nonfinite": nonfinite,
        }
