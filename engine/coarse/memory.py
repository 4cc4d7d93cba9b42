"""What a search has learnt about the tensors."""

import math
from dataclasses import dataclass, field

import numpy as np

from .tensor_coder import Candidate

GAIN = 2.0  # bytes an e-fold of the step saves, in nonzero symbols · log₂ e / 8, before it has been measured
FIRST_STIFFNESS = 4.0  # tensors answer to each other, which the metric of one knows nothing of


@dataclass
class Memory:
    """What earlier sweeps and refinements have learnt."""

    gains: dict[str, float] = field(default_factory=dict)
    """Bytes that an e-fold of the step saves."""
    reaches: dict[str, float] = field(default_factory=dict)
    """How far the log step may move at the next visit."""
    zero_rises: dict[str, float] = field(default_factory=dict)
    """By how much the loss rose when a tensor was left out."""
    stiffnesses: dict[str, float] = field(default_factory=dict)
    """How many times as much as its metric says the loss minds when a tensor's integers move."""

    correction: float = 1.0
    """Of the price of a nat in sweeps, where scaling says 1."""
    thrift: float = 0.2
    """The same in refinements, which make a nat cheap."""
    overshoot: float = 1.6
    """Rise in ε that a sweep may cause, as refinement has shown to make up for."""

    def gain(self, name: str, candidate: Candidate) -> float:
        """Bytes that an e-fold of the step saves: as measured, within a factor of two of what theory says."""
        symbols = candidate.code.symbols
        theory = 0.0 if symbols is None else GAIN * np.count_nonzero(symbols) / math.log(2) / 8
        return min(max(self.gains.get(name, theory), theory / 2), 2 * theory)

    def stiffness(self, name: str) -> float:
        """Of a tensor; a guess before it has been moved."""
        return self.stiffnesses.get(name, FIRST_STIFFNESS)
