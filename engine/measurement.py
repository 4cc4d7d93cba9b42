"""One checkpoint, measured: what `analyze` does for each of them, alone, in any process."""

import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from ..analyzers import ANALYZERS, ComplexityAnalyzer, TensorAnalyzer, TensorValues
from .checkpoints import Checkpoint
from .checkpoints.names import natural
from .errors import KolmogramError
from .provenance import canonical
from .statistics import Source, tensor_statistics
from .store import Key, Result, TensorValue
from .tasks import as_parameter

_log = logging.getLogger(__name__)

COMPLEXITY = "complexity"
TASK = "task"


@dataclass(frozen=True)
class Settings:
    """What is measured and how; with a checkpoint's content it determines every number."""

    measures: tuple[str, ...]
    epsilons: tuple[float, ...] = ()
    method: str = "kolmogram"
    seed: int = 0
    seeds: int = 1  # searches for every ε, with this seed and those after it
    moves: int | None = None  # of the complexity search; None: as many as usual
    task: str | None = None  # identity of the task; None without one
    device: str = "cpu"  # where tensors are measured; not part of the result's identity: all backends count alike

    def work(self, checkpoint: Checkpoint) -> list[Key]:
        """All the work that these settings mean for one checkpoint, in the order of the columns."""
        identity = (checkpoint.name, checkpoint.fingerprint())
        work: list[Key] = []
        if self.task is not None:
            if COMPLEXITY in self.measures:
                version = ANALYZERS[COMPLEXITY].version
                common = {"task": self.task, "method": self.method, "moves": self.moves, "version": version}
                work += [
                    Key(*identity, COMPLEXITY, canonical(common | {"epsilon": epsilon, "seed": seed}))
                    for epsilon in self.epsilons
                    for seed in range(self.seed, self.seed + self.seeds)
                ]
            work.append(Key(*identity, TASK, canonical({"task": self.task})))
        work += [
            Key(*identity, name, canonical({"version": ANALYZERS[name].version}))
            for name in self.measures
            if name != COMPLEXITY
        ]
        return work


@dataclass
class Outcome:
    """What came out for one checkpoint: finished work, and failed work with its reason."""

    checkpoint: str
    results: dict[Key, Result] = field(default_factory=dict)
    failures: dict[Key, str] = field(default_factory=dict)

    def finish(self, key: Key, result: Result) -> None:
        """Keep the result of one piece of work."""
        self.results[key] = result

    @contextmanager
    def recording(self, work: Sequence[Key]) -> Iterator[None]:
        """Turn an exception into the reason why `work` failed, as far as it is not finished."""
        try:
            yield
        except Exception as error:
            _log.debug("%s: %s failed", self.checkpoint, [key.measure for key in work], exc_info=True)
            reason = one_line(error)
            self.failures |= {key: reason for key in work if key not in self.results and key not in self.failures}


def measure_checkpoint(checkpoint: Checkpoint, work: Sequence[Key], settings: Settings, task: Any) -> Outcome:
    """Do the given pieces of work; what fails is recorded with one line and does not stop the rest.

    Without task work the tensors stream through memory one group at a time; a task needs all of them at once.
    """
    outcome = Outcome(checkpoint.name)
    on_task = [key for key in work if key.measure in (TASK, COMPLEXITY)]
    on_tensors = [key for key in work if key not in on_task]
    with outcome.recording(work):
        # In the order of their names: a file's own order tells who wrote it.
        names = sorted(checkpoint.names(), key=natural) if on_task else ()
        stored = {name: checkpoint.tensor(name) for name in names}
        with outcome.recording(on_tensors):  # as they were saved: what a task gets may be wider
            _measure_tensors(outcome, on_tensors, stored.items() if stored else checkpoint.unread(), settings.device)
        params = {name: as_parameter(stored.pop(name), task) for name in names}
        _measure_on_task(outcome, on_task, params, settings, task)
    return outcome


def _measure_tensors(outcome: Outcome, work: Sequence[Key], tensors: Iterable[tuple[str, Source]], device: str) -> None:
    """All measures of single tensors, in one pass."""
    if not work:
        return
    start = time.perf_counter()
    analyzers = {key: cast("TensorAnalyzer", ANALYZERS[key.measure]) for key in work}
    measured: dict[Key, list[TensorValues]] = {key: [] for key in work}
    spectra = any(analyzer.needs_singular_values for analyzer in analyzers.values())
    for statistics in tensor_statistics(tensors, device=device, spectra=spectra):
        for key, analyzer in analyzers.items():
            if key not in outcome.failures:
                with outcome.recording([key]):
                    values = analyzer.tensor(statistics)
                    measured[key].append(TensorValues(statistics.name, statistics.numel, values))
    seconds = time.perf_counter() - start
    for key, analyzer in analyzers.items():
        if key not in outcome.failures:
            with outcome.recording([key]):
                rows = [TensorValue(t.name, name, value) for t in measured[key] for name, value in t.values.items()]
                outcome.finish(key, Result(analyzer.columns(measured[key]), rows, seconds=seconds))


def _measure_on_task(
    outcome: Outcome, work: Sequence[Key], params: Mapping[str, Tensor], settings: Settings, task: Any
) -> None:
    searches: dict[int, dict[float, Key]] = {}  # seed → ε → what to do
    for key in work:
        if key.measure == TASK:
            with outcome.recording([key]):
                outcome.finish(key, Result(_task_columns(task, params), []))
        else:
            asked = json.loads(key.settings)
            searches.setdefault(asked["seed"], {})[asked["epsilon"]] = key
    for seed, keys in searches.items():
        with outcome.recording(list(keys.values())):
            _measure_complexity(outcome, keys, params, settings, seed, task)


@torch.no_grad()
def _task_columns(task: Any, params: Mapping[str, Tensor]) -> dict[str, float]:
    """Losses and accuracies of the weights as they are."""
    columns = {"loss": float(task.loss(params))}
    if hasattr(task, "test_loss"):
        columns["test_loss"] = float(task.test_loss(params))
    if hasattr(task, "accuracies"):
        columns = {name: float(value) for name, value in task.accuracies(params).items()} | columns
    return columns


def _measure_complexity(
    outcome: Outcome, work: Mapping[float, Key], params: Mapping[str, Tensor], settings: Settings, seed: int, task: Any
) -> None:
    """One search for all ε that are still to do for a seed."""
    from .coarse import complexity_curve

    analyzer = cast("ComplexityAnalyzer", ANALYZERS[COMPLEXITY])
    curve = complexity_curve(params, task, list(work), method=settings.method, seed=seed, moves=settings.moves)
    for (epsilon, key), found in zip(work.items(), curve.results, strict=True):
        columns = analyzer.columns(settings.method, epsilon, found)
        rows = analyzer.tensors(settings.method, epsilon, found) if found.status == "ok" else {}
        values = [TensorValue(tensor, name, size, "ok", transform) for tensor, (name, size, transform) in rows.items()]
        outcome.finish(key, Result(columns, values, found.status, found.seconds, found.encoded))


def one_line(error: BaseException) -> str:
    """An exception as a status: our own say everything themselves, others need their type."""
    text = " ".join(str(error).split())
    return text if isinstance(error, KolmogramError) else f"{type(error).__name__}: {text}".rstrip(": ")
