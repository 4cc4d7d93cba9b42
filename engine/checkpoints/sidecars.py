"""What Hugging Face trainers write beside the weights: the step, and the losses logged at it."""

import re
from pathlib import Path
from typing import Any

from .faults import broken, guarded
from .sources import read_json
from .steps import as_count, numbers

LARGEST_STATE = 100_000_000  # bytes; long runs log some megabytes

_WEIGHTS = re.compile(r"^(model|pytorch_model|adapter_model)(-\d{5}-of-\d{5})?\.(safetensors|bin)(\.index\.json)?$")


def stands_for_folder(path: Path) -> bool:
    """Whether a file is what Hugging Face calls the one model in a folder, so that the folder's name says more."""
    return _WEIGHTS.match(path.name) is not None


def is_save_counter(folder: Path) -> bool:
    """Whether a folder is of accelerate's save_state, whose `checkpoint_3` is the fourth save and not step 3."""
    numbered = re.fullmatch(r"checkpoint_\d+", folder.name) is not None
    return numbered and not (folder / "trainer_state.json").exists() and any(folder.glob("random_states_*.pkl"))


def trainer_state(path: Path) -> tuple[int | None, dict[str, float]]:
    """(step, metrics) from the trainer_state.json beside the weights at `path`; (None, {}) when there is none."""
    beside = path.parent / "trainer_state.json"
    if not stands_for_folder(path) or not beside.is_file():
        return None, {}
    with guarded(beside, "reading JSON"):
        state: Any = read_json(beside, LARGEST_STATE)
        if not isinstance(state, dict):
            raise broken(beside, "is not a JSON object", "the step is taken from the folder's name")
        step = as_count(state.get("global_step"))
        metrics = numbers({"epoch": state.get("epoch")})
        for entry in state.get("log_history", []):
            if as_count(entry.get("step")) == step:
                metrics |= numbers(entry)
        return step, metrics
