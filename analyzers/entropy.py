"""Entropy of quantised weights: an estimate of rate that needs no task and one pass over the weights.

Steps are relative to each tensor's own spread: Δ = σ · 2⁰, 2⁻¹, … 2⁻⁴. The pairs (bits per weight, relative error) of
those steps are the weight-space rate–distortion curve. Nothing here is a coded size.
"""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from .base import TensorAnalyzer, TensorStatistics, TensorValues, analyzer, mean_over_tensors

STEPS = (1.0, 0.5, 0.25, 0.125, 0.0625)
"""Δ/σ: quantisation step over the tensor's standard deviation."""


@analyzer("entropy")
class EntropyAnalyzer(TensorAnalyzer):
    """Bits per weight and relative squared error at each Δ/σ."""

    units: ClassVar = {"entropy_bits": "bits per weight (estimate)", "relative_error": "squared error / squared norm"}

    def tensor(self, statistics: TensorStatistics) -> dict[str, float]:
        """Values of one tensor; one without spread (empty, constant) costs nothing and loses nothing."""
        if statistics.moments.count == 0:
            return {}
        sigma = statistics.moments.std
        if not sigma > 0:
            return {f"{name}@{step}": 0.0 for step in STEPS for name in self.units}
        rates = statistics.histogram.rates(sigma * np.asarray(STEPS))
        bits, mse = np.asarray(rates.entropy_bits)[0], np.asarray(rates.mse)[0]
        relative = mse * statistics.moments.count / statistics.moments.frobenius**2
        return {f"entropy_bits@{step}": float(b) for step, b in zip(STEPS, bits, strict=True)} | {
            f"relative_error@{step}": float(e) for step, e in zip(STEPS, relative, strict=True)
        }

    def columns(self, tensors: Sequence[TensorValues]) -> dict[str, float]:
        """Means over all tensors by number of weights: bits per weight of the network, relative error per weight."""
        return {f"{name}@{step}": mean_over_tensors(tensors, f"{name}@{step}") for name in self.units for step in STEPS}
