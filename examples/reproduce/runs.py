"""The runs of the grid, in the order in which they are made: cheap ones first, seed 0 before seed 1."""

from dataclasses import dataclass
from typing import Any

OPERATIONS = ("addition", "multiplication", "subtraction", "division")
"""The four panels of the paper's figure; the last two have two layers and cost four times as much a step."""

EPOCHS = {"addition": 917, "multiplication": 917, "subtraction": 705, "division": 705}
"""Until all that the recipe grokks has been grokked for a while; multiples in the schedule int(1.3ⁿ)."""

RECIPES = {"paper": (0, 1), "none": (0, 1), "weight_decay": (0,)}
"""Recipe → seeds."""


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
        return {"recipe": self.recipe, "seed": self.seed, "epochs": self.epochs, **dict(self.network)}


def grid(quick: bool = False) -> list[GridRun]:
    """All runs; `quick` makes them tiny, to see the command at work: nothing is grokked."""
    tiny = (("modulus", 11), ("width", 16)) if quick else ()
    return [
        GridRun(operation, recipe, seed, 6 if quick else EPOCHS[operation], tiny)
        for layers in (OPERATIONS[:2], OPERATIONS[2:])
        for seed in (0, 1)
        for recipe, seeds in RECIPES.items()
        for operation in layers
        if seed in seeds
    ]
