"""Spectra: how many directions a matrix really uses.

Singular values come from `kernels`, once per matrix; everything here is arithmetic on them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .base import TensorAnalyzer, TensorStatistics, TensorValues, analyzer, mean_over_tensors


@dataclass(frozen=True)
class Spectrum:
    """The singular values σ of one matrix, descending, float64, shape (min(m, n),)."""

    singular_values: np.ndarray

    @property
    def spectral_entropy(self) -> float:
        """−Σ pᵢ ln pᵢ in nats, with pᵢ = σᵢ/Σσ (Roy & Vetterli 2007, eq. 2); NaN for the zero matrix."""
        total = self.singular_values.sum()
        if not total > 0:
            return float("nan")
        p = self.singular_values[self.singular_values > 0] / total
        return float(-(p * np.log(p)).sum())

    @property
    def effective_rank(self) -> float:
        """exp(spectral entropy): between 1 and min(m, n)."""
        return float(np.exp(self.spectral_entropy))

    @property
    def stable_rank(self) -> float:
        """‖W‖_F² / σ₁²; NaN for the zero matrix."""
        if not self.spectral_norm > 0:
            return float("nan")
        return float(np.square(self.singular_values / self.spectral_norm).sum())

    @property
    def spectral_norm(self) -> float:
        """σ₁, the largest gain in any direction."""
        return float(self.singular_values[0]) if self.singular_values.size else 0.0

    @property
    def frobenius_norm(self) -> float:
        """√(Σσ²)."""
        return float(np.linalg.norm(self.singular_values))


def spectrum(matrix: Any) -> Spectrum:
    """The spectrum of one matrix (tensor or array; more than two axes are read as (out, everything else))."""
    import torch

    from ..kernels.dispatch import singular_values

    weights = torch.as_tensor(matrix)
    if weights.ndim < 2:
        raise ValueError(f"a spectrum needs a matrix, got shape {tuple(weights.shape)}")
    return Spectrum(singular_values([as_matrix(weights)])[0].numpy())


def as_matrix(weights: Any) -> Any:
    """A tensor of two or more axes as (out, in·k), the convention for convolutions."""
    return weights.reshape(weights.shape[0], -1)


@analyzer("spectrum")
class SpectrumAnalyzer(TensorAnalyzer):
    """Spectral entropy, effective and stable rank, norms, and σ at ranks 1, 2, 4, 8, …"""

    needs_singular_values = True
    units: ClassVar = {
        "spectral_entropy": "nats",
        "effective_rank": "directions",
        "stable_rank": "directions",
        "spectral_norm": "weight",
        "frobenius_norm": "weight",
        "singular_value": "weight",
    }

    def tensor(self, statistics: TensorStatistics) -> dict[str, float]:
        """Values of one matrix; for the zero matrix, which has no pᵢ, only the norms and singular values."""
        if not statistics.is_matrix:
            return {}
        if statistics.singular_values is None:
            return dict.fromkeys([name for name in self.units if name != "singular_value"], float("nan"))
        spectrum = Spectrum(statistics.singular_values)
        values = {"spectral_norm": spectrum.spectral_norm, "frobenius_norm": spectrum.frobenius_norm}
        if spectrum.spectral_norm > 0:
            values["spectral_entropy"] = spectrum.spectral_entropy
            values["effective_rank"] = spectrum.effective_rank
            values["stable_rank"] = spectrum.stable_rank
        ranks = 2 ** np.arange(len(spectrum.singular_values).bit_length())
        return values | {f"singular_value@{k}": float(spectrum.singular_values[k - 1]) for k in ranks}

    def columns(self, tensors: Sequence[TensorValues]) -> dict[str, float]:
        """Means over the matrices: of the entropy, each matrix once, as the penalty has it; of the ranks, by size."""
        return {
            "spectral_entropy": mean_over_tensors(tensors, "spectral_entropy", weighted=False),
            "effective_rank": mean_over_tensors(tensors, "effective_rank"),
            "stable_rank": mean_over_tensors(tensors, "stable_rank"),
        }
