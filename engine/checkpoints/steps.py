"""The step of a checkpoint: from what its files say first, from what they are called second."""

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import PurePath
from typing import Any

# Counters of optimiser steps, most telling first: Lightning, nanoGPT, DeepSpeed, fairseq, everybody's own.
STEP_KEYS = ("global_step", "iter_num", "global_steps", "num_updates", "step", "iteration", "iter", "steps", "it")
EPOCH_KEYS = ("epoch", "epochs")

_END = r"(?!\d*(?:[A-Za-z]|[.,]\d|-of-))"  # neither step10k nor step1.5 nor step3,000; nor is 1-of-2 a step
_STEP = re.compile(rf"(?<![A-Za-z])(?:global[-_]?)?(?:steps?|iter(?:ation)?s?|itr|updates?)[-_=.]?(\d+){_END}", re.I)
_CHECKPOINT = re.compile(rf"(?<![A-Za-z])(?:checkpoint|ckpt|chkpt)[-_=.]?(\d+){_END}", re.I)
_EPOCH = re.compile(rf"(?<![A-Za-z])(?:epochs?|ep)[-_=.]?(\d+){_END}", re.I)
_NUMBER = re.compile(r"^(\d+)$")
_TRAILING = re.compile(r"(?:(?<!-of)[-_]|(?<!\d)\.)(\d+)$")  # theta.500, not acc_0.95
_SUFFIX = re.compile(r"\.(safetensors|npz|pth|pt|ckpt|bin|tar|index|json)$", re.I)


def as_count(value: Any) -> int | None:
    """`value` as a count of steps, if it can be one: 500, 500.0 or "500", but neither True nor -1 nor 1.5."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 19:
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 0 <= value < 2**63 and value == int(value) else None


def numbers(values: Mapping[Any, Any]) -> dict[str, float]:
    """What a checkpoint says about itself in numbers (loss, epoch, …), its step apart; "0.5" counts as a number."""
    found: dict[str, float] = {}
    for key, value in values.items():
        if key in STEP_KEYS or isinstance(value, bool) or not isinstance(value, int | float | str):
            continue
        with suppress(ValueError, OverflowError):
            found[str(key)] = float(value)
    return found


def count_among(values: Mapping[str, Any], keys: tuple[str, ...]) -> int | None:
    """The first of `keys` that holds a count."""
    return next((count for key in keys if (count := as_count(values.get(key))) is not None), None)


def step_in_name(name: str) -> int | None:
    """The step in a path relative to its run (`checkpoint-500/model.safetensors`, `epoch=3-step=120.ckpt`)."""
    file, *folders = reversed(_parts(name))
    step = _first((file, *folders), _STEP, _CHECKPOINT)
    if step is not None or _EPOCH.search(file):
        return step
    step = _first((file,), _NUMBER, _TRAILING)
    return _first(folders, _NUMBER) if step is None else step


def epoch_in_name(name: str) -> int | None:
    """The epoch in a path relative to its run (`epoch=3.ckpt`)."""
    return _first(reversed(_parts(name)), _EPOCH)


def _first(parts: Iterable[str], *patterns: re.Pattern[str]) -> int | None:
    """The first count that a pattern finds; what is too long for one (a time, a hash in digits) is passed over."""
    found = (match[1].lstrip("0") or "0" for part in parts for pattern in patterns if (match := pattern.search(part)))
    return next((count for digits in found if (count := as_count(digits)) is not None), None)


def _parts(name: str) -> list[str]:
    *folders, file = PurePath(name).parts or ("",)
    while (shorter := _SUFFIX.sub("", file)) != file:
        file = shorter
    return [*folders, file]
