"""Names that agree along a run: wrapper prefixes stripped, and the order in which people read numbered names."""

import re
from collections import Counter
from collections.abc import Iterable

# What torch.compile, FSDP and activation checkpointing put into names, at any depth.
_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


def strip_wrappers(names: Iterable[str], attributes: Iterable[str] = ()) -> dict[str, str]:
    """Map each stored name to the name the module itself would use.

    `module.` (DataParallel, DDP, DeepSpeed) is stripped where every name starts with it, and so is one of `attributes`
    (the attribute of a LightningModule that holds the network). Names that would collide are left as they are stored.
    """
    stored = list(names)
    plain = [".".join(part for part in name.split(".") if part not in _WRAPPERS) or name for name in stored]
    while _all_start_with("module.", plain):
        plain = [name.removeprefix("module.") for name in plain]
    for attribute in attributes:
        if _all_start_with(f"{attribute}.", plain):
            plain = [name.removeprefix(f"{attribute}.") for name in plain]
            break
    uses = Counter(plain)
    plain = [short if uses[short] == 1 else name for name, short in zip(stored, plain, strict=True)]
    return dict(zip(stored, plain if len(set(plain)) == len(plain) else stored, strict=True))


def natural(name: str) -> tuple[tuple[int, int | str], ...]:
    """Sort key that puts `part-10` after `part-9`."""
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", name) if part)


def _all_start_with(prefix: str, names: list[str]) -> bool:
    return bool(names) and all(name.startswith(prefix) and name != prefix for name in names)
