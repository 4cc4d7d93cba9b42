"""A network into a .kolmo file and back: within a rise of its loss, or within an error of its weights."""

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from .checkpoints import open_run
from .coarse import complexity
from .coarse.weightspace import compress_weights
from .coarse.weightspace import relative_error as measured_error
from .codec.coders import Coder
from .codec.container import decode, transcode
from .errors import CodecError, KolmogramError, TaskError
from .files import atomic_path, write_bytes
from .inspection import single_checkpoint
from .tasks import Task, as_parameter, load_task

EPSILON = 1.0  # nats, where a task is given and no ε


@dataclass(frozen=True)
class Compression:
    """What a file turned out to be, seen from its decoded weights.

    `relative_error` is ‖W − Ŵ‖² / ‖W‖² of what was coarse-grained; losses are nats per example, NaN without a loss.
    """

    bytes: int
    original_bytes: int
    relative_error: float
    loss: float = math.nan
    original_loss: float = math.nan

    @property
    def ratio(self) -> float:
        """Bytes of the tensors as they were, per byte of the file."""
        return self.original_bytes / self.bytes


def compress(
    params: Mapping[str, Tensor],
    path: str | Path,
    loss: Task | Callable[[Mapping[str, Tensor]], Tensor] | None = None,
    epsilon: float | None = None,
    relative_error: float | None = None,
    *,
    coder: str = "mixing",
    seed: int = 0,
) -> Compression:
    """Write the smallest .kolmo file found that keeps a network close enough.

    Either `loss(params)`, which may rise by `epsilon` nats (1 unless said), or `relative_error`, which the squared
    error of all weights together may reach, in squared weights. `coder` is mixing (the smallest), ans (fast), zstd or
    bzip2; `seed` is that of the search by loss. KolmogramError for what does not go together or cannot be met.
    """
    chosen = Coder.named(coder)
    if (loss is None) == (relative_error is None) or (loss is None and epsilon is not None):
        raise KolmogramError("say how close the file must be: a loss (with epsilon) or a relative error, one of them")
    losses = math.nan, math.nan
    if loss is not None:
        found = complexity(params, loss, EPSILON if epsilon is None else epsilon, seed=seed)
        if found.encoded is None:
            raise KolmogramError(f"{path}: nothing was written: {found.status}")
        data = found.encoded if chosen == Coder.MIXING else transcode(found.encoded, chosen).data
        losses = found.loss, found.original_loss
    else:
        assert relative_error is not None
        if not relative_error > 0:
            raise KolmogramError(f"the relative error must be positive, not {relative_error:g}")
        data = compress_weights(params, relative_error, chosen).data
    error = measured_error(params, decode(data, sys.maxsize))
    if relative_error is not None and not error <= relative_error:
        raise CodecError(f"{path}: nothing was written: the decoded error {error:g} exceeds {relative_error:g}")
    write_bytes(path, data)
    return Compression(len(data), sum(value.nbytes for value in params.values()), error, *losses)


def compress_checkpoint(
    checkpoint: str | Path,
    path: str | Path,
    task: str | None = None,
    epsilon: float | None = None,
    relative_error: float | None = None,
    *,
    coder: str = "mixing",
    seed: int = 0,
) -> Compression:
    """`compress` of a checkpoint file by the task that `task` names, or the run's own; or to a relative error.

    A task gets, and the file then holds, half precision widened to float32, as when a run is analysed.
    """
    params = dict(single_checkpoint(checkpoint).items())
    loss = None if relative_error is not None and task is None else load_task(task, open_run(checkpoint))
    if loss is not None:
        params = {name: as_parameter(value, loss) for name, value in params.items()}
    elif relative_error is None:
        raise TaskError(f"{checkpoint}: its run names no task; give --task FILE.py, or --relative-error")
    return compress(params, path, loss, epsilon, relative_error, coder=coder, seed=seed)


def decompress(path: str | Path, max_weights: int | None = None) -> dict[str, Tensor]:
    """The weights in a .kolmo file, in the order of the file; CodecError if it is not one of ours, or damaged.

    A file may declare 2^24 weights, or 2^10 for each of its bytes; `max_weights` is another bound.
    """
    try:
        return decode(Path(path).read_bytes(), max_weights)
    except CodecError as error:
        raise CodecError(f"{path}: {error}") from None


def decompress_file(path: str | Path, out: str | Path, max_weights: int | None = None) -> int:
    """`decompress` into a safetensors file; its number of tensors."""
    tensors = decompress(path, max_weights)
    try:
        with atomic_path(out) as temporary:
            save_file(tensors, temporary, metadata={"format": "pt"})
    except (SafetensorError, KeyError, UnicodeError, ValueError) as error:
        raise CodecError(
            f"{out}: safetensors cannot hold a tensor of {path} ({error}); use kolmogram.decompress"
        ) from None
    return len(tensors)
