"""What a reader says about a checkpoint, before any tensor is read, and the rules that all formats share."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from .names import strip_wrappers
from .steps import EPOCH_KEYS, STEP_KEYS, as_count
from .stored import Stored


@dataclass(frozen=True, slots=True)
class Claim:
    """One checkpoint that a reader recognises in a folder by its file names; nothing has been opened yet."""

    path: Path  # the file, the index or the folder that stands for the checkpoint
    files: tuple[Path, ...]  # every file it consists of, as far as names tell


@dataclass(frozen=True, slots=True)
class Contents:
    """The tensors of one checkpoint (still in their files) and what it says about itself."""

    format: str
    tensors: Mapping[str, Stored]  # in file order
    step: int | None = None
    epoch: int | None = None  # stands in for the step where no checkpoint of a run has one
    metrics: Mapping[str, float] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)  # stored name -> why it is not given
    aliases: Mapping[str, str] = field(default_factory=dict)  # tied name -> the name that holds the storage
    attributes: tuple[str, ...] = ()  # stripped when every name starts with the same one
    files: tuple[Path, ...] = ()  # that it consists of besides those claimed: an index names them


def tidied(contents: Contents) -> Contents:
    """The same contents with counters taken out, wrapper prefixes stripped and tied storage given once."""
    return _without_ties(_with_plain_names(_without_counters(contents)))


def _without_counters(contents: Contents) -> Contents:
    """A scalar integer called `step` (or `epoch`) in a flat archive is the step, not a weight."""
    tensors, skipped = dict(contents.tensors), dict(contents.skipped)
    found = {"step": contents.step, "epoch": contents.epoch}
    for what, keys in (("step", STEP_KEYS), ("epoch", EPOCH_KEYS)):
        for key in keys:
            stored = tensors.get(key)
            if stored is None or stored.shape not in ((), (1,)) or not _is_integer(stored.dtype):
                continue
            count = as_count(tensors.pop(key).read().item())
            found[what] = count if found[what] is None else found[what]
            skipped[key] = f"the {what}, not a weight"
    return replace(contents, tensors=tensors, skipped=skipped, **found)


def _with_plain_names(contents: Contents) -> Contents:
    plain = strip_wrappers(contents.tensors, contents.attributes)
    return replace(contents, tensors={plain[name]: stored for name, stored in contents.tensors.items()})


def _without_ties(contents: Contents) -> Contents:
    holders: dict[Stored, str] = {}
    tensors: dict[str, Stored] = {}
    aliases: dict[str, str] = {}
    for name, stored in contents.tensors.items():
        if 0 not in stored.shape and holders.setdefault(stored, name) != name:
            aliases[name] = holders[stored]
        else:
            tensors[name] = stored
    return replace(contents, tensors=tensors, aliases=aliases)


def _is_integer(dtype: torch.dtype) -> bool:
    return not dtype.is_floating_point and not dtype.is_complex and dtype is not torch.bool
