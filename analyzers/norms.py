"""Norms: cheap controls. If these explain a trajectory, complexity is not needed to."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from .base import TensorAnalyzer, TensorStatistics, TensorValues, analyzer


@analyzer("norms")
class NormsAnalyzer(TensorAnalyzer):
    """Euclidean norm, largest magnitude, and how many weights are not finite."""

    units: ClassVar = {"l2_norm": "weight", "abs_max": "weight", "nonfinite": "weights"}

    def tensor(self, statistics: TensorStatistics) -> dict[str, float]:
        """Values of one tensor; norms over its finite entries."""
        moments = statistics.moments
        return {"l2_norm": moments.frobenius, "abs_max": moments.abs_max, "nonfinite": float(moments.nonfinite)}

    def columns(self, tensors: Sequence[TensorValues]) -> dict[str, float]:
        """Values of the network as one vector."""
        return {
            "l2_norm": float(np.linalg.norm([t.values["l2_norm"] for t in tensors])) if tensors else float("nan"),
            "abs_max": max((t.values["abs_max"] for t in tensors), default=float("nan")),
            "nonfinite": sum(t.values["nonfinite"] for t in tensors),
        }
