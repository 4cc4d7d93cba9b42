"""The runs of the grid, in the order in which they are made: cheap ones and what matters most first."""

from dataclasses import dataclass
from typing import Any

from kolmogram.engine.training.recipes import Recipe

OPERATIONS = ("addition", "multiplication", "subtraction", "division")
"""The four panels of the paper's figure; the last two have two layers and cost four times as much a step."""

EPOCHS = {"addition": 917, "multiplication": 917, "subtraction": 705, "division": 705}
"""Until all that the recipe grokks has been grokked for a while; multiples in the schedule int(1.3ⁿ)."""

RECIPES = (("paper", 0), ("none", 0), ("weight_decay", 0), ("paper", 1), ("none", 1), ("noiseless", 0))
"""Recipe and seed; "noiseless" is the paper's without weight noise: weight decay and the regulariser alone."""

NOISELESS = Recipe(weight_decay=1.0, spectral_weight=0.1)


@dataclass(frozen=True)
class GridRun:
    """One training run of the grid."""

    operation: str
    recipe: str
    seed: int
    epochs: int
    network: tuple[tuple[str, int], ...] = ()
    """Other than the paper's sizes: options of `train`."""

    @property
    def name(self) -> str:
        """The name of its folder and of its table."""
        return f"{self.operation}-{self.recipe}-{self.seed}"

    def options(self) -> dict[str, Any]:
        """As keyword arguments of `train`."""
        recipe = NOISELESS if self.recipe == "noiseless" else self.recipe
        return {"recipe": recipe, "seed": self.seed, "epochs": self.epochs, **dict(self.network)}


def grid(quick: bool = False) -> list[GridRun]:
    """All runs; `quick` makes them tiny, to see the command at work: nothing is grokked."""
    tiny = (("modulus", 11), ("width", 16)) if quick else ()
    return [
        GridRun(operation, recipe, seed, 6 if quick else EPOCHS[operation], tiny)
        for layers in (OPERATIONS[:2], OPERATIONS[2:])
        for recipe, seed in RECIPES
        for operation in layers
    ]
