"""What to train a grokking network with: the paper's recipe and its parts."""

from dataclasses import dataclass

from ..errors import KolmogramError
from ..tasks.modular import OPERATIONS


@dataclass(frozen=True)
class Recipe:
    """Regularisation of one run; zero switches a part off."""

    weight_decay: float = 0.0
    spectral_weight: float = 0.0
    noise: float = 0.0
    """Standard deviation of the weight noise."""
    spectra_every: int = 32
    """Steps that share one decomposition of the matrices; 1 is the paper's way, at ten times the price."""


RECIPES = ("paper", "weight_decay", "spectral", "noise", "none")


def recipe_for(name: str, operation: str) -> Recipe:
    """The recipe of that name; the noise of the paper's depends on the operation."""
    noise = OPERATIONS[operation].noise
    match name:
        case "paper":
            return Recipe(weight_decay=1.0, spectral_weight=0.1, noise=noise)
        case "weight_decay":
            return Recipe(weight_decay=1.0)
        case "spectral":
            return Recipe(spectral_weight=0.1)
        case "noise":
            return Recipe(noise=noise)
        case "none":
            return Recipe()
    raise KolmogramError(f"unknown recipe {name!r}; choose from {', '.join(RECIPES)}")
