"""`audit`: every checkpoint is read once, the evidence is kept, and the rules say what they see in it."""

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ..analysis import Progress
from ..arguments import at_least_one
from ..checkpoints import Checkpoint, Run, open_run
from ..errors import CheckpointError
from ..executor import run_local
from ..files import write_text
from ..measurement import one_line
from ..provenance import canonical
from ..store import Key, Result, Store
from .evidence import VERSION, Evidence, gather
from .findings import Finding, findings, missing_steps

MEASURE = "audit"


@dataclass(frozen=True)
class Audit:
    """What was seen in so many checkpoints, in their order; what is of the whole run comes last."""

    checkpoints: int
    findings: list[Finding]

    @property
    def wrong(self) -> list[Finding]:
        """The findings that are no mere notes."""
        return [finding for finding in self.findings if finding.is_wrong]


class Gathered(NamedTuple):
    """The evidence of one checkpoint as bytes, or why there is none."""

    number: int
    evidence: bytes | None
    problem: str = ""


def audit(
    run: Run | str | Path,
    out: str | Path | None = None,
    *,
    workers: int = 1,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> Audit:
    """Whether a run's checkpoints are what they say they are: copies, stale parts, wrong steps, noise, other tensors.

    Needs no data, reads every tensor once, and executes nothing. `out`: folder for audit.csv, and for the store that
    makes the next call read only what is new; None writes nothing. A checkpoint that cannot be read is a finding.
    Raises CheckpointError if none can.
    """
    workers = at_least_one("workers", workers)
    run = run if isinstance(run, Run) else open_run(run)
    out = None if out is None else Path(out)
    with Store(out / "store.sqlite" if out else None) as store:
        keys, unread = _plan(run)
        jobs = [number for number, key in keys.items() if key not in store]
        state = Progress(0, len(jobs), len(keys) - len(jobs))
        progress(state)
        for done, found in enumerate(run_local(partial(_start, run), jobs, workers), 1):
            if found.evidence is None:
                unread[found.number] = found.problem
            else:
                store.put([(keys[found.number], Result({}, [], file=found.evidence))])
            name = run[found.number].name
            progress(Progress(done, state.total, state.finished_before, name, found.problem))
        evidence = [_evidence(run[n], store.get(key)) for n, key in keys.items() if n not in unread]
    place = {checkpoint.name: number for number, checkpoint in enumerate(run)}
    found = [*_unreadable(run, unread), *findings(evidence), *missing_steps(checkpoint.step for checkpoint in run)]
    seen = Audit(len(run), sorted(found, key=lambda finding: place.get(finding.checkpoint, len(run))))
    if out:
        write_text(out / "audit.csv", _as_csv(seen.findings))
    return seen


def _plan(run: Run) -> tuple[dict[int, Key], dict[int, str]]:
    """The key of each checkpoint's evidence in the store, by number; and why some have none."""
    keys, unread = {}, {}
    for number, checkpoint in enumerate(run):
        try:
            if checkpoint.broken is not None:
                raise checkpoint.broken
            keys[number] = Key(checkpoint.name, checkpoint.fingerprint(), MEASURE, canonical({"version": VERSION}))
        except CheckpointError as error:
            unread[number] = str(error)
    return keys, unread


def _start(run: Run) -> Callable[[int], Gathered]:
    return lambda number: _gathered(run, number)


def _gathered(run: Run, number: int) -> Gathered:
    try:
        return Gathered(number, gather(run[number]).to_bytes())
    except Exception as error:
        return Gathered(number, None, one_line(error))


def _evidence(checkpoint: Checkpoint, result: Result | None) -> Evidence:
    assert result is not None
    assert result.file is not None
    return Evidence.from_bytes(checkpoint, result.file)


def _unreadable(run: Run, unread: dict[int, str]) -> list[Finding]:
    """Checkpoints without evidence, and what else could not be opened."""
    found = [Finding(run[n].name, run[n].step, "cannot be read", reason) for n, reason in sorted(unread.items())]
    said = set(unread.values())
    return found + [Finding("", None, "cannot be read", str(p)) for p in run.problems if str(p) not in said]


def _as_csv(found: list[Finding]) -> str:
    buffer = io.StringIO()
    table = csv.writer(buffer, lineterminator="\n")
    table.writerow(Finding._fields)
    table.writerows(["" if value is None else value for value in finding] for finding in found)
    return buffer.getvalue()
