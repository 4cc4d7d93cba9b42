"""Entropy of quantised weights: an estimate of rate that needs no task and one pass over the weights.

Steps are relative to each tensor's own spread: Δ = σ · 2⁰, 2⁻¹, … 2⁻⁴. The pairs (bits per weight, relative error) of
those steps are the weight-space rate–distortion curve. Nothing here is a coded size.
"""

from collections.abc import Sequence
from typing import ClassVar

from .base import RELATIVE_STEPS, TensorAnalyzer, TensorStatistics, TensorValues, analyzer, mean_over_tensors


@analyzer("entropy")
class EntropyAnalyzer(TensorAnalyzer):
    """Bits per weight and relative squared error at each Δ/σ."""

    units: ClassVar = {"entropy_bits": "bits per weight (estimate)", "relative_error": "squared error / squared norm"}

    def tensor(self, statistics: TensorStatistics) -> dict[str, float]:
        """Values of one tensor; one without spread (empty, constant) costs nothing and loses nothing."""
        moments = statistics.moments
        if moments.count == 0:
            return {}
        if not moments.std > 0:
            return {f"{name}@{step}": 0.0 for name in self.units for step in RELATIVE_STEPS}
        relative = statistics.mse * moments.count / moments.frobenius**2
        bits = zip(RELATIVE_STEPS, statistics.entropy_bits, strict=True)
        errors = zip(RELATIVE_STEPS, relative, strict=True)
        return {f"entropy_bits@{step}": float(value) for step, value in bits} | {
            f"relative_error@{step}": float(value) for step, value in errors
        }

    def columns(self, tensors: Sequence[TensorValues]) -> dict[str, float]:
        """Means over all tensors by number of weights: bits per weight of the network, relative error per weight."""
        names = [f"{name}@{step}" for name in self.units for step in RELATIVE_STEPS]
        return {name: mean_over_tensors(tensors, name) for name in names}
