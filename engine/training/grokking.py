"""Grokking runs: modular arithmetic trained by the paper's recipe, with checkpoints evenly spaced in log time.

A run's folder holds config.json (which the built-in task reads), step-XXXXXXXX.safetensors, metrics.csv and resume.pt.
A run that was killed at any moment goes on from resume.pt and ends with the same weights, bit for bit, as if it had not
been (on the same machine with the same number of threads).
"""

import csv
import io
import json
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ..devices import usable
from ..errors import KolmogramError
from ..files import atomic_path, write_text
from ..tasks.modular import ModularTask
from ..tasks.networks import WIDTH
from .noise import WeightNoise
from .recipes import Recipe, recipe_for
from .regularizer import SpectralEntropyRegularizer
from .saving import save_checkpoint
from .schedule import CheckpointSchedule

LEARNING_RATE = 1e-3
BETAS = (0.9, 0.98)
BATCH_SIZE = 512
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
EVALUATE_EVERY = 20  # epochs; about a second of the paper's network on two cores


@dataclass(frozen=True)
class Metrics:
    """One row of metrics.csv: losses in nats per example, mean spectral entropy in nats, seconds of training so far."""

    step: int
    epoch: int
    train_loss: float
    test_loss: float
    train_accuracy: float
    test_accuracy: float
    spectral_entropy: float
    seconds: float


def train(
    operation: str,
    out: str | Path,
    *,
    modulus: int = 113,
    architecture: str = "transformer",
    width: int = WIDTH,
    train_fraction: float | None = None,
    recipe: str | Recipe = "paper",
    seed: int = 0,
    epochs: int = 1000,
    until_accuracy: float | None = None,
    schedule: CheckpointSchedule | None = None,
    device: str = "cpu",
    compiled: bool = False,
    precision: str = "float32",
    progress: Callable[[Metrics], None] | None = None,
) -> list[Metrics]:
    """Train for `epochs`, or until the test accuracy reaches `until_accuracy`; returns the rows of metrics.csv.

    Checkpoints are kept at the epochs of `schedule` (default: 0 and int(1.3ⁿ)) and at the end. `progress` gets every
    row when it has been measured. The share of pairs to train on is by default the paper's for the operation. With
    `compiled` the loss goes through torch.compile; `precision` (of `PRECISIONS`) is that of its matrix products, while
    weights and optimiser are always float32. Raises KolmogramError if `out` holds a run with other settings.
    """
    schedule = schedule or CheckpointSchedule()
    if precision not in PRECISIONS:
        raise KolmogramError(f"unknown precision {precision!r}; choose from {', '.join(PRECISIONS)}")
    device = usable(device)
    shape = {"modulus": modulus, "architecture": architecture, "width": width, "train_fraction": train_fraction}
    task = ModularTask(operation, **shape, seed=seed, device=device)
    regularisation = recipe_for(recipe, operation) if isinstance(recipe, str) else recipe
    name = recipe if isinstance(recipe, str) else "custom"
    arithmetic = {"compiled": compiled, "precision": precision}
    run = _Run(Path(out), task, regularisation, seed, device, **arithmetic)
    run.open({"task": "modular", **task.config, "recipe": name, **asdict(regularisation), **arithmetic})

    def finished() -> bool:
        reached = until_accuracy is not None and bool(run.rows) and run.rows[-1].test_accuracy >= until_accuracy
        return run.epoch >= epochs or reached

    def note() -> None:
        run.measure()
        if run.epoch in schedule or finished():
            run.keep_checkpoint()
        run.save_state()
        if progress:
            progress(run.rows[-1])

    if not run.rows:
        note()
    while not finished():
        run.train_epoch()
        if run.epoch in schedule or run.epoch % EVALUATE_EVERY == 0 or run.epoch == epochs:
            note()
    return run.rows


class _Run:
    """The state of one run: weights, optimiser, random numbers, and the rows measured so far."""

    def __init__(
        self,
        folder: Path,
        task: ModularTask,
        recipe: Recipe,
        seed: int,
        device: str,
        *,
        compiled: bool,
        precision: str,
    ) -> None:
        self._folder = folder
        self._task = task
        self._recipe = recipe
        self._device = device
        self._loss = task_loss(task, device, compiled, precision)
        self._order = torch.Generator().manual_seed(seed)
        self._random = torch.Generator(device).manual_seed(seed)
        self._noise = WeightNoise(recipe.noise, self._random)
        initial = task.network.initial(torch.Generator().manual_seed(seed))
        self._weights = {name: weight.to(device).requires_grad_() for name, weight in initial.items()}
        self._optimizer = torch.optim.AdamW(
            self._weights.values(), LEARNING_RATE, BETAS, weight_decay=recipe.weight_decay, fused=True
        )
        self._penalty = SpectralEntropyRegularizer(recipe.spectral_weight, every=recipe.spectra_every)
        self._seconds = 0.0
        self._started = time.perf_counter()
        self._step = 0
        self.epoch = 0
        self.rows: list[Metrics] = []

    def train_epoch(self) -> None:
        """All batches once, in a fresh order; the last one may be smaller."""
        examples = self._task.train
        order = torch.randperm(len(examples), generator=self._order).to(examples.labels.device)
        for batch in order.split(max(min(BATCH_SIZE, len(examples) // 2), 1)):
            self._train_step(examples.pairs[batch], examples.labels[batch])
        self.epoch += 1

    def _train_step(self, pairs: Tensor, labels: Tensor) -> None:
        with self._noise(self._weights) if self._recipe.noise else nullcontext():
            loss = self._loss(self._weights, pairs, labels)
            if self._recipe.spectral_weight:
                loss = loss + self._penalty(self._weights)
            loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._step += 1

    def measure(self) -> None:
        """Add a row for the weights as they are, without noise."""
        train_loss, train_accuracy = self._task.evaluate(self._weights, self._task.train)
        test_loss, test_accuracy = self._task.evaluate(self._weights, self._task.test)
        with torch.no_grad():
            entropy = SpectralEntropyRegularizer(1.0)(self._weights).item()
        seconds = self._seconds + time.perf_counter() - self._started
        losses = (train_loss, test_loss, train_accuracy, test_accuracy)
        self.rows.append(Metrics(self._step, self.epoch, *losses, entropy, seconds))

    def keep_checkpoint(self) -> None:
        save_checkpoint(self._folder, self._step, self._weights, epoch=self.epoch)

    def open(self, config: dict[str, object]) -> None:
        """Take up the run in the folder if there is one, else begin it there."""
        path, resume = self._folder / "config.json", self._folder / "resume.pt"
        if path.is_file():
            found = _read_config(path)
            if other := [key for key in config | found if found.get(key) != config.get(key)]:
                was = ", ".join(f"{key} {found.get(key)!r}" for key in other)
                raise KolmogramError(f"{path}: another run is here ({was}); give another folder or the same settings")
        else:
            write_text(path, json.dumps(config, indent=2) + "\n")
        if resume.is_file():
            try:
                self._load_state(torch.load(resume, map_location=self._device, weights_only=True))
            except (OSError, EOFError, RuntimeError, UnpicklingError, KeyError, TypeError, ValueError) as error:
                raise KolmogramError(
                    f"{resume}: cannot go on from it ({_first_line(error)}); delete the folder"
                ) from error

    def save_state(self) -> None:
        """Write metrics.csv, and resume.pt with everything that the next step depends on."""
        table = io.StringIO()
        writer = csv.DictWriter(table, [field.name for field in fields(Metrics)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in self.rows)
        write_text(self._folder / "metrics.csv", table.getvalue())
        state = {
            "weights": {name: weight.detach() for name, weight in self._weights.items()},
            "optimizer": self._optimizer.state_dict(),
            "penalty": self._penalty.state_dict(),
            "order": self._order.get_state(),
            "noise": self._random.get_state(),
            "step": self._step,
            "epoch": self.epoch,
            "rows": [asdict(row) for row in self.rows],
        }
        with atomic_path(self._folder / "resume.pt") as temporary:
            torch.save(state, temporary)

    def _load_state(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            for name, weight in self._weights.items():
                weight.copy_(state["weights"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        self._penalty.load_state_dict(state["penalty"])
        self._order.set_state(state["order"].cpu())
        self._random.set_state(state["noise"].cpu())
        self._step, self.epoch = state["step"], state["epoch"]
        self.rows = [Metrics(**row) for row in state["rows"]]
        self._seconds = self.rows[-1].seconds


def task_loss(task: ModularTask, device: str, compiled: bool, precision: str) -> Callable[..., Tensor]:
    """The function (weights, pairs, labels) -> mean cross-entropy in nats that a step differentiates."""

    def loss(weights: Mapping[str, Tensor], pairs: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(torch.device(device).type, PRECISIONS[precision], enabled=precision != "float32"):
            return F.cross_entropy(task.network.logits(weights, pairs), labels)

    return torch.compile(loss, dynamic=False) if compiled else loss


def _read_config(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise KolmogramError(f"{path}: not JSON ({error}); give another folder") from error
    if not isinstance(found, dict):
        raise KolmogramError(f"{path}: not the config of a run; give another folder")
    return found


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
