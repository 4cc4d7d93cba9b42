"""`analyze`: the main job. A run's checkpoints in, its complexity trajectory out."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ..analyzers import ANALYZERS
from ..kernels.dispatch import choose_backend
from .arguments import at_least_one, checked_epsilons, checked_method
from .checkpoints import Run, open_run
from .checkpoints.discovery import fixed_part
from .checkpoints.location import is_url, location
from .devices import usable
from .errors import CheckpointError, KolmogramError, TaskError
from .executor import run_local
from .files import write_bytes
from .measurement import COMPLEXITY, Outcome, Settings, measure_checkpoint
from .provenance import describe, task_identity
from .report.page import write_report
from .store import Key, Store
from .tables import file_labels, make_trajectory, results
from .tasks import as_task, load_task
from .trajectory import Trajectory


@dataclass(frozen=True)
class Progress:
    """How far `analyze` is: checkpoints done by this call, to do in all, and found finished in the store."""

    done: int
    total: int
    finished_before: int
    checkpoint: str = ""
    problem: str = ""


def analyze(
    run: Run | str | Path,
    task: Any = None,
    measures: str | Sequence[str] | None = None,
    epsilons: float | Iterable[float] = (1.0,),
    out: str | Path | None = None,
    device: str = "auto",
    *,
    method: str = "kolmogram",
    workers: int = 1,
    seed: int = 0,
    seeds: int = 1,
    moves: int | None = None,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> Trajectory:
    """Measure every checkpoint of a run.

    `task`: an object with `loss(params)`, or that function alone, a specification as for `--task`, or None (a run that
    names its own task in config.json uses that; any other is measured without one, in weight space). `measures`: names
    in `kolmogram.analyzers.ANALYZERS`, all by default. `epsilons`: allowed rise of the loss, nats per example.
    `moves`: of the complexity search, at most; fewer are faster and find larger files. `seeds`: how many searches there
    are for every ε, with `seed` and those after it; the smallest file counts, and the largest size stands beside it.
    `out`: folder for tables, report, and the store that makes the next call repeat nothing; None writes nothing.

    A checkpoint or measure that fails is NaN in the table, with the reason in `status`; everything else goes on.
    """
    known, method = _known(measures), checked_method(method)
    epsilons = tuple(dict.fromkeys(checked_epsilons(epsilons)))
    workers, seeds = at_least_one("workers", workers), at_least_one("seeds", seeds)
    moves = None if moves is None else at_least_one("moves", moves)
    run = run if isinstance(run, Run) else open_run(run)
    device = usable(device)
    loaded = load_task(task, run, device) if task is None or isinstance(task, str) else as_task(task)
    backend = choose_backend(device)
    if loaded is None and measures is not None and COMPLEXITY in known:
        raise TaskError(f"{run.path}: complexity needs a task, and its run names none; give --task FILE.py")
    settings = Settings(
        measures=known,
        epsilons=epsilons,
        method=method,
        seed=seed,
        seeds=seeds,
        moves=moves,
        task=task_identity(loaded, task if isinstance(task, str) else None),
        device=device,
    )
    out = None if out is None else Path(out)
    with Store(out / "store.sqlite" if out else None) as store:
        plan, broken = _plan(run, settings)
        jobs = [Job(i, todo) for i, c in enumerate(run) if (todo := [key for key in plan[c.name] if key not in store])]
        setup = partial(_start, run, settings, task if workers > 1 else loaded)
        outcomes = _reported(run_local(setup, jobs, workers), len(jobs), len(run) - len(broken), progress)
        failures = _keep(outcomes, store)
        trajectory = make_trajectory(run, plan, store, failures, broken)
        if out:
            _write_files(run, plan, store, failures, out / "kolmo")
    trajectory.provenance.update(describe(run.path, settings, backend))
    if out:
        trajectory.save(out)
        write_report([out], out / "report.html")
    return trajectory


def default_out(run: str | Path) -> Path:
    """Where a run's tables go unless told otherwise: `RUN/kolmogram`, or beside a single checkpoint.

    RUN of a glob is the folder that it begins in. Tables of a run behind a URL go to `NAME.kolmogram`, where we are.
    """
    if is_url(run):
        name = fixed_part(str(run)).rstrip("/").split("/")[-1]
        of_revisions = re.search(r"([^/]+)@[^/]*[*?[]", str(run))
        return Path(f"{of_revisions[1] if of_revisions else name}.kolmogram")
    path = location(run)
    if path.is_file():
        return path.with_name(f"{path.stem}.kolmogram")
    return (path if path.is_dir() else Path(fixed_part(str(path)))) / "kolmogram"


class Job(NamedTuple):
    """Work on one checkpoint: its place in the run, and what is still to do."""

    number: int
    work: list[Key]


def _start(run: Run, settings: Settings, task: Any) -> Callable[[Job], Outcome]:
    """The function that does jobs in this process, with the task made here unless it came as an object."""
    task = load_task(task, run, settings.device) if task is None or isinstance(task, str) else as_task(task)
    return lambda job: measure_checkpoint(run[job.number], job.work, settings, task)


def _plan(run: Run, settings: Settings) -> tuple[dict[str, list[Key]], dict[str, str]]:
    """The work that the settings mean for each checkpoint, and why some checkpoints can have none."""
    plan: dict[str, list[Key]] = {}
    broken: dict[str, str] = {}
    for checkpoint in run:
        try:
            if checkpoint.broken is not None:
                raise checkpoint.broken
            plan[checkpoint.name] = settings.work(checkpoint)
        except CheckpointError as error:
            plan[checkpoint.name], broken[checkpoint.name] = [], str(error)
    return plan, broken


def _keep(outcomes: Iterable[Outcome], store: Store) -> dict[Key, str]:
    """Store what is finished, one transaction per checkpoint; failures are returned: next time, again."""
    failures: dict[Key, str] = {}
    for outcome in outcomes:
        store.put(outcome.results.items())
        failures |= outcome.failures
    return failures


def _write_files(
    run: Run, plan: Mapping[str, Sequence[Key]], store: Store, failures: Mapping[Key, str], folder: Path
) -> None:
    """The file behind every coded size in the table, as STEP@ε.kolmo; and no others."""
    labels = file_labels({checkpoint.name: checkpoint.step for checkpoint in run})
    written: set[Path] = set()
    for name, work in plan.items():
        for key, result in results(work, store, failures):
            if result.file is not None:
                path = folder / f"{labels[name]}@{json.loads(key.settings)['epsilon']}.kolmo"
                if not path.is_file() or path.read_bytes() != result.file:
                    write_bytes(path, result.file)
                written.add(path)
    for path in set(folder.glob("*@*.kolmo")) - written:
        path.unlink()


def _reported(
    outcomes: Iterable[Outcome], total: int, measurable: int, progress: Callable[[Progress], None]
) -> Iterator[Outcome]:
    """Pass outcomes on, telling how far we are after each has been kept."""
    state = Progress(0, total, measurable - total)
    progress(state)
    for done, outcome in enumerate(outcomes, 1):
        yield outcome
        problem = next(iter(outcome.failures.values()), "")
        progress(replace(state, done=done, checkpoint=outcome.checkpoint, problem=problem))


def _known(measures: str | Sequence[str] | None) -> tuple[str, ...]:
    measures = (measures,) if isinstance(measures, str) else measures
    if unknown := set(measures or ()) - set(ANALYZERS):
        raise KolmogramError(f"unknown measure {', '.join(sorted(unknown))}; there are {', '.join(ANALYZERS)}")
    return tuple(name for name in ANALYZERS if measures is None or name in measures)
