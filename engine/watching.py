"""A run that is still going, whenever there is something new in it: what `analyze --watch` measures."""

import time
from collections.abc import Iterator
from pathlib import Path

from .checkpoints import Checkpoint, Run, open_run
from .checkpoints.location import is_remote, location
from .errors import CheckpointError

EVERY = 30.0  # seconds between looks


def changes(path: str | Path, every: float = EVERY) -> Iterator[tuple[Run, frozenset[str]]]:
    """The run whenever checkpoints have come or changed, and the names of these; without an end.

    What is there at first is given at once; what comes, when it has been the same for `every` seconds: before, it may
    be in the middle of being written, and the run is given without it. A folder may still be empty; CheckpointError
    where there is no such path.
    """
    path = location(path)
    given: dict[str, str] = {}
    before: dict[str, str] = {}
    while True:
        run = _opened(path, first=not given)
        now = {checkpoint.name: _state(checkpoint) for checkpoint in run or ()}
        settled = {name: state for name, state in now.items() if not given or before.get(name) == state}
        fresh = frozenset(name for name, state in settled.items() if given.get(name) != state)
        gone = given.keys() - now.keys()
        if run is not None and (fresh or gone):
            given = {name: state for name, state in given.items() if name in now} | settled
            yield run.only(given), fresh
        before = now
        time.sleep(every)


def _opened(path: Path, first: bool) -> Run | None:
    """The run; None as long as there is nothing to read in its folder, or a URL cannot be reached for a while."""
    try:
        return open_run(path)
    except CheckpointError:
        if path.is_dir() if not is_remote(path) else not first:
            return None
        raise


def _state(checkpoint: Checkpoint) -> str:
    """What changes when the checkpoint is written again."""
    try:
        return checkpoint.fingerprint()
    except CheckpointError as error:
        return str(error)
