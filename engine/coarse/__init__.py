"""Coarse-graining: transforms, quantisers, and the rate–distortion search."""

from .complexity import Complexity, ComplexityCurve, TensorCost, complexity, complexity_curve

__all__ = ["Complexity", "ComplexityCurve", "TensorCost", "complexity", "complexity_curve"]
