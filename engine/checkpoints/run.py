"""`open_run`: a folder, a single checkpoint or a glob as a sequence of checkpoints ordered by step."""

import glob
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload
from urllib.parse import unquote

from ..errors import CheckpointError
from .checkpoint import Checkpoint
from .contents import Claim
from .discovery import claims_in, discover, fixed_part, matches
from .faults import NoWeightsError, broken, guarded
from .location import forget_listings, is_remote, location, reached
from .names import natural
from .readers import readers
from .sidecars import is_save_counter, stands_for_folder, trainer_state
from .sources import read_json
from .steps import epoch_in_name, step_in_name

LARGEST_CONFIG = 10_000_000  # bytes of config.json


class Run(Sequence[Checkpoint]):
    """The checkpoints of a run by step; those without a step come last, by name. Equal steps are all kept, by name."""

    def __init__(
        self,
        path: Path,
        folder: Path,
        checkpoints: Iterable[Checkpoint],
        problems: Iterable[CheckpointError],
        config: dict[str, Any] | None,
    ) -> None:
        self.path = path  # as it was given
        self.folder = folder  # that all checkpoints are in
        self.problems = list(problems)  # what could not be opened, broken checkpoints included
        self.config = config  # config.json in that folder
        self._checkpoints = sorted(checkpoints, key=_order)

    def __len__(self) -> int:
        return len(self._checkpoints)

    @overload
    def __getitem__(self, index: int) -> Checkpoint: ...
    @overload
    def __getitem__(self, index: slice) -> "Run": ...
    def __getitem__(self, index: int | slice) -> "Checkpoint | Run":
        if isinstance(index, slice):
            return Run(self.path, self.folder, self._checkpoints[index], self.problems, self.config)
        return self._checkpoints[index]

    def only(self, names: Container[str]) -> "Run":
        """The same run without the checkpoints that have other names."""
        kept = [checkpoint for checkpoint in self._checkpoints if checkpoint.name in names]
        return Run(self.path, self.folder, kept, self.problems, self.config)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {len(self)} checkpoints, {len(self.problems)} problems)"


def open_run(path: str | Path) -> Run:
    """List the checkpoints that a folder, a file or a glob pattern names, here or behind a URL; no tensor is read.

    Raises CheckpointError, one line, when there is no checkpoint or none of them can be read. A broken checkpoint among
    good ones stays in the run with `broken` set.
    """
    given = location(path)
    forget_listings(given)
    with reached(given):
        return _run(given, *_listed(given))


def _listed(given: Path) -> tuple[Path, list[tuple[str, Claim]]]:
    """The folder that all checkpoints are in, and the claims on them."""
    if given.is_dir():
        root, claims, fault = given, list(discover(given)), "holds no checkpoint"
    elif given.exists():
        root, claims, fault = given.parent, list(claims_in(given.parent, [given.name])), "is not a checkpoint"
    elif glob.has_magic(str(given)):
        pattern = str(given)
        root, fault = location(fixed_part(pattern)), "nothing matches that is a checkpoint"
        claims = list(matches(pattern))
    else:
        raise broken(given, "does not exist", "give a run's folder, a checkpoint or a glob, or the URL of one")
    if not claims:
        known = ", ".join(reader.FORMAT for reader in readers().values())
        raise broken(given, fault, f"known formats are {known}")
    return root, claims


def _run(given: Path, root: Path, claims: list[tuple[str, Claim]]) -> Run:
    claims = list(_distinct(claims))
    names = _names([claim.path for _, claim in claims], root)
    found = [Checkpoint(claim, reader, name) for (reader, claim), name in zip(claims, names, strict=True)]
    problems = [checkpoint.broken for checkpoint in found if checkpoint.broken]
    if len(problems) == len(found):
        worst = min(problems, key=lambda error: isinstance(error, NoWeightsError))
        more = f" (and {len(problems) - 1} more that cannot be read)" if len(problems) > 1 else ""
        raise CheckpointError(f"{worst}{more}")
    checkpoints = [checkpoint for checkpoint in found if not isinstance(checkpoint.broken, NoWeightsError)]
    for checkpoint in checkpoints:
        try:
            _consult_surroundings(checkpoint)
        except CheckpointError as error:
            problems.append(error)
    if len(checkpoints) == 1:  # opened by itself, its folder's name belongs to it
        _take_step_from_name(checkpoints[0], f"{root.resolve().name}/{checkpoints[0].name}")
    if all(checkpoint.step is None for checkpoint in checkpoints):  # epochs and steps are never mixed on one axis
        for checkpoint in checkpoints:
            checkpoint.step = checkpoint.epoch
    config = None
    try:
        config = _config(root)
    except CheckpointError as error:
        problems.append(error)
    return Run(given, root, checkpoints, problems, config)


def _consult_surroundings(checkpoint: Checkpoint) -> None:
    """Fill in what the checkpoint itself did not say from the trainer's files beside it and, last, from its name."""
    if checkpoint.epoch is None:
        checkpoint.epoch = epoch_in_name(checkpoint.name)
    try:
        step, metrics = trainer_state(checkpoint.path)
        checkpoint.metrics |= metrics
        if checkpoint.step is None:
            checkpoint.step = step
    finally:
        _take_step_from_name(checkpoint, checkpoint.name)


def _take_step_from_name(checkpoint: Checkpoint, name: str) -> None:
    if checkpoint.step is None and not is_save_counter(checkpoint.path.parent):
        checkpoint.step = step_in_name(name)


def _distinct(claims: list[tuple[str, Claim]]) -> Iterator[tuple[str, Claim]]:
    """Every file once: a link to another checkpoint of the run (`last.ckpt`, `best.pt`) is not one more."""
    unique = {claim.path: (reader, claim) for reader, claim in claims}
    files = {path.resolve() for path in unique if not path.is_symlink()}
    for path, (reader, claim) in unique.items():
        if not path.is_symlink() or path.resolve() not in files:
            yield reader, claim


def _names(paths: list[Path], root: Path) -> list[str]:
    """Each path relative to the run; a Hugging Face folder stands for the model in it where there is just one."""
    models = Counter(path.parent for path in paths if stands_for_folder(path))

    def shown(path: Path) -> Path:
        return path.parent if stands_for_folder(path) and models[path.parent] == 1 and path.parent != root else path

    names = [shown(path).relative_to(root).as_posix() for path in paths]
    return [unquote(name) for name in names] if is_remote(root) else names


def _order(checkpoint: Checkpoint) -> tuple[bool, int, tuple[tuple[int, int | str], ...], str]:
    return checkpoint.step is None, checkpoint.step or 0, natural(checkpoint.name), checkpoint.name


def _config(root: Path) -> dict[str, Any] | None:
    path = root / "config.json"
    if not path.is_file():
        return None
    with guarded(path, "reading JSON"):
        config = read_json(path, LARGEST_CONFIG)
    return config if isinstance(config, dict) else None
