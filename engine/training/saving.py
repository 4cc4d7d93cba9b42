"""A checkpoint in the plainest form there is: one safetensors file whose name and header say the step."""

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from ..files import atomic_path


def save_checkpoint(folder: str | Path, step: int, weights: Mapping[str, Tensor], **metadata: object) -> Path:
    """Write `weights` to FOLDER/step-XXXXXXXX.safetensors, atomically; returns the path.

    `metadata` joins the step in the header, as text. Weights must not share storage (drop tied names).
    """
    path = Path(folder) / f"step-{step:08d}.safetensors"
    tensors = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
    header = {"format": "pt", "step": step} | metadata
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, {key: str(value) for key, value in header.items()})
    return path
