"""What the .kolmo files of an analysis prove: description lengths and generalisation bounds of the decoded networks.

Everything is evaluated on what the decoder gives back: the theorems are about that network and no other.
"""

import math
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..analyzers.bounds import ErrorBounds, LossBound, Sample, complexity_nats, error_bounds, loss_bound
from ..analyzers.description_length import DescriptionLength, describe_labels, prefix_bits
from .checkpoints import Run, open_run
from .codec.container import decode
from .errors import CheckpointError, KolmogramError, TaskError
from .provenance import task_identity
from .report.page import write_report
from .tables import file_labels
from .tasks import as_task, load_task
from .trajectory import Trajectory, make_rows, tables_folder

DELTA = 0.05
"""Probability that a bound may fail."""

_BEST = (
    "description_ratio", "population_description_ratio", "error_bound", "unseen_error_bound", "loss_bound",
    "unseen_loss_bound",
)  # fmt: skip
"""Columns that are also given without ε: the smallest, which costs nothing, as every file pays for itself."""

_COLUMNS = (
    *_BEST, "bound_epsilon", "bound_bytes", "train_errors", "description_bits", "error_bound_hoeffding",
    "error_bound_realisable", "error_bound_kl", "chance_error", "chance_loss",
)  # fmt: skip


@dataclass(frozen=True)
class Certificate:
    """What one file proves; NaN or None: not for this task."""

    size: int
    train_errors: int
    labels: DescriptionLength
    """Of the training labels."""
    population_labels: DescriptionLength | None
    """Of the labels of the whole population, seen and unseen."""
    errors: ErrorBounds
    loss: LossBound

    @property
    def strength(self) -> tuple[float, ...]:
        """What certificates are compared by, smaller is stronger: each number where those before it are equal.

        Bounds on errors, on unseen examples first (infinite where there is none), bounds on losses, the description.
        """
        bounds = self.errors.unseen, self.errors.population, self.loss.unseen, self.loss.population, self.labels.ratio
        return tuple(math.inf if math.isnan(bound) else bound for bound in bounds)

    def columns(self) -> dict[str, float]:
        """Trajectory columns of this file."""
        values: dict[str, float] = {
            "train_errors": self.train_errors,
            "description_bits": self.labels.total_bits,
            "description_ratio": self.labels.ratio,
            "error_bound": self.errors.population,
            "error_bound_hoeffding": self.errors.hoeffding,
            "error_bound_realisable": self.errors.realisable,
            "error_bound_kl": self.errors.kl,
            "unseen_error_bound": self.errors.unseen,
            "loss_bound": self.loss.population,
            "unseen_loss_bound": self.loss.unseen,
        }
        if self.population_labels is not None:
            values["population_description_ratio"] = self.population_labels.ratio
        return values


@torch.no_grad()
def certify(file: bytes, task: Any, delta: float = DELTA, *, max_weights: int | None = None) -> Certificate:
    """What the network in a .kolmo file is proved to do beyond its training examples, with probability 1 − `delta`.

    The task needs `per_example_loss`, `error_rate`, `num_examples` and `num_classes`; with `population` (and
    `test_loss` over the rest of it) the bounds are those for a random subset. If it says that its examples are not
    `exchangeable`, the bounds are NaN: no theorem here is about them. `max_weights` is what the file may declare, by
    default as in `decode`: 2^24, or 2^10 for each of its bytes.
    """
    _check(task)
    params = {name: value.to(getattr(task, "device", "cpu")) for name, value in decode(file, max_weights).items()}
    losses = task.per_example_loss(params).double().cpu().numpy()
    sample = Sample(int(task.num_examples), getattr(task, "population", None))
    classes, errors = int(task.num_classes), round(task.error_rate(params) * sample.size)
    everything = None
    if sample.unseen and hasattr(task, "test_loss"):
        total = float(losses.sum()) + float(task.test_loss(params)) * sample.unseen
        everything = describe_labels(len(file), total, sample.population or 0, classes)
    labels = describe_labels(len(file), float(losses.sum()), sample.size, classes)
    if not getattr(task, "exchangeable", True):
        nothing = ErrorBounds(*[math.nan] * 5), LossBound(*[math.nan] * 3)
        return Certificate(len(file), errors, labels, everything, *nothing)
    nats = complexity_nats(prefix_bits(len(file)) + 1, delta)  # the bit: errors and loss are bounded together
    bounds = error_bounds(errors, sample, nats), loss_bound(losses, classes, sample, nats)
    return Certificate(len(file), errors, labels, everything, *bounds)


def bound(out: str | Path, task: Any = None, delta: float = DELTA) -> Trajectory:
    """Add description lengths and bounds to the tables that `analyze` wrote into `out`, and to their report.

    `task` as for `analyze`, and the same one: without it that of the run. Every ε has its columns `NAME@ε`; those
    without ε are the smallest of them, which costs nothing (docs/bounds.md). A checkpoint without a file is NaN.
    """
    folder = tables_folder(Path(out))
    trajectory = Trajectory.load(folder)
    loaded = _task(trajectory, folder, task)
    epsilons = [name.partition("@")[2] for name in trajectory.columns if name.startswith("complexity_bytes@")]
    if not epsilons:
        raise KolmogramError(f"{folder}: no complexity_bytes here; analyze with a task and --method kolmogram first")
    labels = file_labels({row["checkpoint"]: row["step"] for row in trajectory.rows})
    rows = []
    for row in trajectory.rows:
        kept = {name: value for name, value in row.items() if name.partition("@")[0] not in _COLUMNS}
        paths = {epsilon: folder / "kolmo" / f"{labels[row['checkpoint']]}@{epsilon}.kolmo" for epsilon in epsilons}
        found = {e: _certify(path, loaded, delta) for e, path in paths.items() if not math.isnan(row[_size(e)])}
        rows.append(kept | _row_columns(found, int(loaded.num_classes)))
    statement = {"delta": delta, "confidence": 1 - delta, "assumptions": assumptions(loaded)}
    result = Trajectory(make_rows(rows), trajectory.tensors, trajectory.provenance | {"bounds": statement})
    result.save(folder)
    write_report([folder], folder / "report.html")
    return result


def assumptions(task: Any) -> list[str]:
    """What has to be true for the bounds on this task to hold, in sentences."""
    if not getattr(task, "exchangeable", True):
        return ["The examples are not independent of one another: only description lengths are given, no bounds."]
    population = getattr(task, "population", None)
    sampling = (
        f"The {task.num_examples:,} training examples are a uniformly random subset of a population of "
        f"{population:,}, drawn without replacement; the risk is that on the whole population, or on the unseen rest."
        if population is not None
        else f"The {task.num_examples:,} training examples are i.i.d.; the risk is that of their distribution."
    )
    return [
        sampling,
        "The decoder, and with it the code, was fixed before the data; what the encoder learned from the data is in "
        "the file and paid for, so is the choice of ε, method, seed and checkpoint.",
        "The architecture is given, free of charge, and was not chosen by looking at these examples.",
        "The bounds are about the decoded network, not about the checkpoint it came from.",
    ]


def _row_columns(found: Mapping[str, Certificate], classes: int) -> dict[str, float]:
    """Columns of every ε, the best of them, and the file that proves most about errors."""
    columns = {
        f"{name}@{e}": value for e, certificate in found.items() for name, value in certificate.columns().items()
    }
    if found:
        best = min(found, key=lambda e: found[e].strength)
        columns |= {"bound_epsilon": float(best), "bound_bytes": found[best].size}
    for name in _BEST:
        if values := [columns[f"{name}@{e}"] for e in found if f"{name}@{e}" in columns]:
            columns[name] = min(values)
    return columns | {"chance_error": 1 - 1 / classes, "chance_loss": math.log(classes)}


def _task(trajectory: Trajectory, folder: Path, task: Any) -> Any:
    """The task, checked to be the one that the tables were made with."""
    recorded = trajectory.provenance.get("task")
    if recorded is None:
        raise TaskError(f"{folder}: was analyzed without a task; run kolmogram analyze with --task first, then bound")
    loaded = load_task(task, _run(trajectory, folder)) if task is None or isinstance(task, str) else as_task(task)
    if loaded is None:
        raise TaskError(f"{folder}: the run brings no task; give the one of analyze with --task")
    if task_identity(loaded, task if isinstance(task, str) else None) != recorded:
        raise TaskError(f"{folder}: was analyzed with another task; give the same one, or analyze again")
    _check(loaded)
    return loaded


def _run(trajectory: Trajectory, folder: Path) -> Run:
    """The run that the tables are of: where it was, or else around them."""
    recorded = trajectory.provenance.get("run")
    for place in filter(None, (recorded, folder.parent)):
        with suppress(CheckpointError):
            return open_run(place)
    raise KolmogramError(f"{folder}: its run {recorded} is not there; start where it is")


def _check(task: Any) -> None:
    needed = ("per_example_loss", "error_rate", "num_examples", "num_classes")
    if missing := [name for name in needed if getattr(task, name, None) is None]:
        raise TaskError(
            f"bounds need a classification task with {', '.join(needed)}; this one lacks {', '.join(missing)}"
        )


def _certify(path: Path, task: Any, delta: float) -> Certificate:
    """Of a file that `analyze` wrote."""
    try:
        file = path.read_bytes()
    except OSError as error:
        raise KolmogramError(f"{path}: {error.strerror}; run kolmogram analyze again to write it") from error
    # The limit is against strangers' files that declare more than there is; this network was in memory to be encoded.
    return certify(file, task, delta, max_weights=sys.maxsize)


def _size(epsilon: str) -> str:
    return f"complexity_bytes@{epsilon}"
