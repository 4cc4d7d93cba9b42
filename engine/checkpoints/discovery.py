"""Which files under a path are checkpoints, by their names alone; nothing is opened here."""

import glob
import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

from .contents import Claim
from .names import natural
from .readers import readers

# What trainers write beside the weights. It has tensors in it and is never a checkpoint of the model.
_COMPANIONS = ("optim*", "*optim_states.pt", "scheduler*", "scaler*", "rng_state*", "training_args.bin", "resume.*")


def discover(root: Path) -> Iterator[tuple[str, Claim]]:
    """(reader, claim) for every checkpoint below a folder, in natural order; nothing hidden."""
    for folder, subfolders, names in os.walk(root):
        claims = list(claims_in(Path(folder), names))
        if any(claim.path == Path(folder) for _, claim in claims):
            subfolders.clear()
        subfolders[:] = sorted((name for name in subfolders if not name.startswith(".")), key=natural)
        yield from claims


def claims_in(folder: Path, names: Sequence[str]) -> Iterator[tuple[str, Claim]]:
    """(reader, claim) for every checkpoint among the files of one folder."""
    visible = sorted((name for name in names if _is_candidate(folder / name)), key=natural)
    if any(name.startswith("model.safetensors") for name in visible):  # the same weights again, in the older format
        visible = [name for name in visible if not name.startswith("pytorch_model")]
    claims = [(reader, claim) for reader, module in readers().items() for claim in module.claim(folder, visible)]
    whole = [(reader, claim) for reader, claim in claims if claim.path == folder]
    parts = {file for _, claim in claims if len(claim.files) > 1 for file in claim.files}
    yield from whole or (item for item in claims if len(item[1].files) > 1 or item[1].path not in parts)


def matches(pattern: str) -> Iterator[tuple[str, Claim]]:
    """(reader, claim) for every checkpoint that a glob pattern names, or that lies below a folder it names."""
    files: dict[Path, list[str]] = {}
    for match in map(Path, glob.glob(pattern, recursive=True)):  # noqa: PTH207  (a pattern may be absolute)
        if match.is_dir():
            yield from discover(match)
        else:
            files.setdefault(match.parent, []).append(match.name)
    for folder, names in files.items():
        yield from claims_in(folder, names)


def fixed_part(pattern: str) -> Path:
    """The folder that everything matching a glob pattern lies in."""
    parts = Path(pattern).parts
    first_magic = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:first_magic])


def _is_candidate(path: Path) -> bool:
    return (
        not path.name.startswith(".")
        and not any(fnmatch(path.name, companion) for companion in _COMPANIONS)
        and path.is_file()  # neither a pipe nor a broken link
    )
