"""Modular arithmetic as in "The Complexity Dynamics of Grokking": six operations on Z/p."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ..codec.exact import is_prime
from ..errors import TaskError
from .labels import drawn_labels
from .networks import ARCHITECTURES, HEADS, WIDTH, build
from .task import Task, check_names

Params = Mapping[str, Tensor]


@dataclass(frozen=True)
class Operation:
    """One of the paper's operations, with the settings the paper trains it at."""

    result: Callable[[Tensor, Tensor, int], Tensor]
    """(a, b, p) -> c before reduction mod p"""
    train_fraction: float
    layers: int
    noise: float
    """Standard deviation of the weight noise in the paper's recipe."""


OPERATIONS = {
    "addition": Operation(lambda a, b, p: a + b, train_fraction=0.2, layers=1, noise=1e-2),
    "subtraction": Operation(lambda a, b, p: a - b, train_fraction=0.3, layers=2, noise=1e-3),
    "multiplication": Operation(lambda a, b, p: a * b, train_fraction=0.2, layers=1, noise=1e-2),
    "division": Operation(lambda a, b, p: a * _inverse(b, p), train_fraction=0.3, layers=2, noise=1e-3),
    "x2_plus_y2": Operation(lambda a, b, p: a * a + b * b, train_fraction=0.4, layers=1, noise=1e-3),
    "x2_plus_xy_plus_y2": Operation(lambda a, b, p: a * a + a * b + b * b, train_fraction=0.6, layers=1, noise=1e-3),
}

# Of what a config.json may ask for. All pairs are held in memory: 230 MB at the largest modulus.
LIMITS = {"modulus": (2, 2_000), "layers": (1, 100), "width": (HEADS, 16_384), "seed": (-(2**63), 2**64 - 1)}


@dataclass(frozen=True)
class Examples:
    """Operand pairs (n, 2) and results (n,), int64."""

    pairs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def split_examples(operation: str, modulus: int, train_fraction: float, seed: int) -> tuple[Examples, Examples]:
    """All pairs (division: those with b ≠ 0) in an order drawn from `seed`; the first part trains, the rest tests."""
    residues = torch.arange(modulus)
    pairs = torch.cartesian_prod(residues, residues[1:] if operation == "division" else residues)
    labels = OPERATIONS[operation].result(pairs[:, 0], pairs[:, 1], modulus) % modulus
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))
    train, test = order.tensor_split([int(train_fraction * len(pairs))])
    return Examples(pairs[train], labels[train]), Examples(pairs[test], labels[test])


def _inverse(b: Tensor, modulus: int) -> Tensor:
    table = torch.tensor([0] + [pow(x, -1, modulus) for x in range(1, modulus)])
    return table[b]


class ModularTask(Task):
    """Loss of a modular-arithmetic network on its training pairs: the task of all runs by `kolmogram train`."""

    def __init__(
        self,
        operation: str,
        *,
        modulus: int = 113,
        architecture: str = "transformer",
        layers: int | None = None,
        width: int = WIDTH,
        train_fraction: float | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if operation not in OPERATIONS:
            raise TaskError(f"unknown operation {operation!r:.40}; choose from {', '.join(OPERATIONS)}")
        if architecture not in ARCHITECTURES:
            raise TaskError(f"unknown architecture {architecture!r:.40}; choose from {', '.join(ARCHITECTURES)}")
        paper = OPERATIONS[operation]
        layers = paper.layers if layers is None else layers
        fraction = paper.train_fraction if train_fraction is None else train_fraction
        _check_numbers(fraction, modulus=modulus, layers=layers, width=width, seed=seed)
        if not is_prime(modulus):
            raise TaskError(f"modulus {modulus} is not a prime; division needs inverses, choose e.g. 97 or 113")
        if width % HEADS:
            raise TaskError(f"width {width} is not a multiple of the {HEADS} heads; choose e.g. 32 or 128")
        train, test = split_examples(operation, modulus, fraction, seed)
        if not len(train) or not len(test):
            raise TaskError(f"train_fraction {fraction} leaves {len(train)} training and {len(test)} test examples")
        self.config = {
            "operation": operation,
            "modulus": modulus,
            "architecture": architecture,
            "layers": layers,
            "width": width,
            "train_fraction": fraction,
            "seed": seed,
        }
        self.network = build(architecture, modulus, layers, width)
        self.train = Examples(train.pairs.to(device), train.labels.to(device))
        self.test = Examples(test.pairs.to(device), test.labels.to(device))
        self.device = torch.device(device)
        self.num_examples = len(train)
        self.population = len(train) + len(test)
        self.num_classes = modulus

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any] | None, where: Path | str, device: torch.device | str = "cpu"
    ) -> "ModularTask":
        """The task of a run from its config.json; `where` names the run in errors."""
        keys = ("operation", "modulus", "architecture", "layers", "train_fraction", "seed")
        if missing := [key for key in keys if key not in (config or {})]:
            raise TaskError(f"{where}: config.json does not describe a modular run, it lacks {', '.join(missing)}")
        assert config is not None
        try:
            return cls(**{key: config[key] for key in keys}, width=config.get("width", WIDTH), device=device)
        except (TypeError, ValueError, TaskError) as error:
            raise TaskError(f"{where}: config.json does not describe a modular run: {error}") from error

    def loss(self, params: Params) -> Tensor:
        return F.cross_entropy(self._logits(params, self.train), self.train.labels)

    def per_example_loss(self, params: Params) -> Tensor:
        """(n,) nats, in the order of `train`."""
        return F.cross_entropy(self._logits(params, self.train), self.train.labels, reduction="none")

    def sampled_loss(self, params: Params, generator: torch.Generator | None = None) -> Tensor:
        """(n,) nats with labels drawn from the network's own prediction."""
        logits = self._logits(params, self.train)
        labels = drawn_labels(logits, generator)
        return F.cross_entropy(logits, labels, reduction="none")

    def subset(self, examples: Tensor) -> "ModularTask":
        """The same task on these of its training pairs."""
        part = copy.copy(self)
        part.train = Examples(self.train.pairs[examples], self.train.labels[examples])
        part.num_examples = len(part.train)
        return part

    def test_loss(self, params: Params) -> Tensor:
        return F.cross_entropy(self._logits(params, self.test), self.test.labels)

    def error_rate(self, params: Params) -> float:
        """Share of wrong answers on the training pairs."""
        return 1 - self.evaluate(params, self.train)[1]

    def accuracies(self, params: Params) -> dict[str, float]:
        return {f"{part}_accuracy": self.evaluate(params, getattr(self, part))[1] for part in ("train", "test")}

    @torch.no_grad()
    def predictions(self, params: Params) -> Tensor:
        """The answers (pairs,) int64 to all pairs, seen and unseen, in the order of (a, b)."""
        pairs = torch.cat([self.train.pairs, self.test.pairs])
        order = (pairs[:, 0] * self.config["modulus"] + pairs[:, 1]).argsort()
        return self.network.logits(params, pairs[order]).argmax(-1)

    @torch.no_grad()
    def evaluate(self, params: Params, examples: Examples) -> tuple[float, float]:
        """(mean loss in nats, accuracy) on `train` or `test`, from one forward pass."""
        logits = self._logits(params, examples)
        accuracy = (logits.argmax(-1) == examples.labels).double().mean()
        return F.cross_entropy(logits, examples.labels).item(), accuracy.item()

    def _logits(self, params: Params, examples: Examples) -> Tensor:
        check_names(self.network.shapes, params)
        return self.network.logits(params, examples.pairs)


def _check_numbers(fraction: Any, **numbers: Any) -> None:
    """Nothing is computed from what a file says before it is known to be a number, and none that is too large."""
    for name, value in numbers.items():
        least, most = LIMITS[name]
        if type(value) is not int or not least <= value <= most:
            raise TaskError(f"{name} has to be a whole number from {least} to {most}, not {value!r:.40}")
    if type(fraction) not in (int, float) or not 0 <= fraction <= 1:
        raise TaskError(f"train_fraction has to be a number from 0 to 1, not {fraction!r:.40}")
