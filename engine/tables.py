"""From results in the store to the two tables."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast
from urllib.parse import quote

from ..analyzers import ANALYZERS, ComplexityAnalyzer, unit_of
from .checkpoints import Checkpoint, Run
from .errors import CheckpointError
from .inspection import weights_of
from .logged import RunLog
from .measurement import COMPLEXITY
from .store import Key, Result, Store, TensorValue
from .trajectory import TENSOR_COLUMNS, Trajectory, make_rows


def make_trajectory(
    run: Run, plan: Mapping[str, Sequence[Key]], store: Store, failures: Mapping[Key, str], broken: Mapping[str, str]
) -> Trajectory:
    """Tables of a run: results from the store, failures of this call, and what the run logged about itself."""
    log = RunLog(run)
    rows: list[dict[str, Any]] = []
    tensors: dict[str, list[Any]] = {name: [] for name in TENSOR_COLUMNS}
    for checkpoint in run:
        columns: dict[str, float] = {}
        failed: dict[str, list[str]] = {}  # reason → measures
        for key, result in results(plan[checkpoint.name], store, failures):
            columns |= result.columns
            _append(tensors, checkpoint, result.tensors)
            if result.status != "ok":
                failed.setdefault(result.status, []).append(key.measure)
                _append(tensors, checkpoint, [TensorValue("", key.measure, math.nan, result.status)])
        problems = [f"{', '.join(dict.fromkeys(measures))}: {reason}" for reason, measures in failed.items()]
        status = broken.get(checkpoint.name) or "; ".join(problems) or "ok"
        identity = _identity(checkpoint, status)
        rows.append(identity | log.columns(checkpoint) | columns | identity)  # first, and nobody's but ours
    return Trajectory(make_rows(rows), tensors)


def results(work: Sequence[Key], store: Store, failures: Mapping[Key, str]) -> Iterator[tuple[Key, Result]]:
    """What came of the work on one checkpoint. Of several searches for one ε the smallest file counts."""
    searches: dict[float, list[Key]] = {}
    for key in work:
        if key.measure == COMPLEXITY:
            searches.setdefault(json.loads(key.settings)["epsilon"], []).append(key)
    for key in work:
        together = next((keys for keys in searches.values() if key in keys), [key])
        if key == together[0]:
            yield key, _together(together, [_result(each, store, failures) for each in together])


def _result(key: Key, store: Store, failures: Mapping[Key, str]) -> Result:
    return store.get(key) or Result({}, [], failures[key])


def _together(keys: Sequence[Key], found: Sequence[Result]) -> Result:
    """One result of several searches; a search that failed is told of, and leaves the others to count."""
    if len(found) == 1:
        return found[0]
    asked = json.loads(keys[0].settings)
    analyzer = cast("ComplexityAnalyzer", ANALYZERS[COMPLEXITY])
    smallest, columns = analyzer.several(asked["method"], asked["epsilon"], [result.columns for result in found])
    failed = next((result.status for result in found if not result.columns), found[smallest].status)
    return replace(found[smallest], columns=columns, status=failed)


def file_labels(steps: Mapping[str, float | None]) -> dict[str, str]:
    """Checkpoint → a short name for its files: the step where it is unique, else its name without slashes."""
    known = {name: int(step) for name, step in steps.items() if step is not None and not math.isnan(step)}
    times = Counter(known.values())
    plain = Counter(name.replace("/", "_") for name in steps)

    def label(name: str) -> str:
        if times[known.get(name, -1)] == 1:
            return str(known[name])
        short = name.replace("/", "_")
        return short if plain[short] == 1 else quote(name, safe="")

    return {name: label(name) for name in steps}


def _identity(checkpoint: Checkpoint, status: str) -> dict[str, Any]:
    step = math.nan if checkpoint.step is None else checkpoint.step
    return {"step": step, "checkpoint": checkpoint.name, "parameters": _parameters(checkpoint), "status": status}


def _parameters(checkpoint: Checkpoint) -> float:
    try:
        return weights_of(checkpoint)
    except CheckpointError:
        return math.nan


def _append(table: dict[str, list[Any]], checkpoint: Checkpoint, values: Iterable[TensorValue]) -> None:
    step = math.nan if checkpoint.step is None else checkpoint.step
    for value in values:
        row = (step, checkpoint.name, value.tensor, value.measure, value.value, unit_of(value.measure), value.status)
        for name, cell in zip(TENSOR_COLUMNS, (*row, value.detail), strict=True):
            table[name].append(cell)
