"""Which files under a path are checkpoints, by their names alone; nothing is opened here."""

import glob
import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

from .contents import Claim
from .location import is_remote, is_url, location, revisions
from .names import natural
from .readers import readers

# What trainers write beside the weights. It has tensors in it and is never a checkpoint of the model.
_COMPANIONS = ("optim*", "*optim_states.pt", "scheduler*", "scaler*", "rng_state*", "training_args.bin", "resume.*")


def discover(root: Path) -> Iterator[tuple[str, Claim]]:
    """(reader, claim) for every checkpoint below a folder, in natural order; nothing hidden."""
    for folder, subfolders, names in walk(root):
        claims = list(claims_in(folder, names))
        if any(claim.path == folder for _, claim in claims):
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


def walk(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Every folder from `root` down with its subfolders, those that are to be entered, and its files."""
    if is_remote(root):
        yield from root.walk()  # pyright: ignore[reportAttributeAccessIssue]  (of UPath; Path has it from 3.12 on)
    else:
        yield from ((Path(folder), subfolders, names) for folder, subfolders, names in os.walk(root))


def matches(pattern: str) -> Iterator[tuple[str, Claim]]:
    """(reader, claim) for every checkpoint that a glob pattern names, or that lies below a folder it names."""
    files: dict[Path, list[str]] = {}
    for match in (match for url in revisions(pattern) for match in _glob(url)):
        if match.is_dir():
            yield from discover(match)
        else:
            files.setdefault(match.parent, []).append(match.name)
    for folder, names in files.items():
        yield from claims_in(folder, names)


def fixed_part(pattern: str) -> str:
    """The folder that everything matching a glob pattern lies in; for a URL, of its path."""
    fixed, _ = _split(pattern)
    return fixed


def _glob(pattern: str) -> Iterator[Path]:
    """What a pattern matches; what has no wildcard is itself."""
    if not is_url(pattern):
        yield from map(Path, glob.glob(pattern, recursive=True))  # noqa: PTH207  (a pattern may be absolute)
        return
    fixed, rest = _split(pattern)
    yield from location(fixed).glob(rest) if rest else [location(fixed)]


def _split(pattern: str) -> tuple[str, str]:
    """A pattern before and from the first part with a wildcard."""
    parts = pattern.split("/")
    first = next((index for index, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return "/".join(parts[:first]) or ("/" if pattern.startswith("/") else "."), "/".join(parts[first:])


def _is_candidate(path: Path) -> bool:
    return (
        not path.name.startswith(".")
        and not any(fnmatch(path.name, companion) for companion in _COMPANIONS)
        and path.is_file()  # neither a pipe nor a broken link
    )
