"""Proton, Triton's own profiler: the time of every kernel on the GPU, in a file for `proton-viewer`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ..engine.errors import BackendError

SUFFIX = ".hatchet"  # which proton appends itself


@contextmanager
def session(path: Path, device: torch.device) -> Iterator[None]:
    """Record the kernels of a `with` block; BackendError if there is no GPU, or no proton in this Triton."""
    if path.suffix != SUFFIX:
        raise BackendError(f"{path}: a proton profile ends in {SUFFIX}")
    if device.type != "cuda":
        raise BackendError(
            f"proton records kernels on a GPU, and this profile is of the {device.type.upper()}: leave it out"
        )
    try:
        import triton.profiler as proton
    except ImportError as error:
        raise BackendError(f"this Triton has no profiler ({error}): leave proton out, or use --trace") from None
    recording = proton.start(str(path.with_suffix("")))
    try:
        yield
    finally:
        proton.finalize(recording)
