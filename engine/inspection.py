"""One checkpoint, tensor by tensor: what `kolmogram inspect` prints."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..analyzers import ANALYZERS, TensorAnalyzer
from .checkpoints import Checkpoint, TensorInfo, open_run
from .errors import CheckpointError
from .statistics import tensor_statistics


@dataclass(frozen=True)
class InspectedTensor:
    """A tensor's header, and what every measure says of it (nothing for integers and the like)."""

    info: TensorInfo
    values: dict[str, float] = field(default_factory=dict)


def single_checkpoint(path: str | Path) -> Checkpoint:
    """The one checkpoint that a path names; CheckpointError if there are several or it cannot be read."""
    run = open_run(path)
    if len(run) > 1:
        raise CheckpointError(f"{path}: holds {len(run)} checkpoints; name one of them, e.g. {run[-1].path}")
    if run[0].broken is not None:
        raise run[0].broken
    return run[0]


def inspect_tensors(checkpoint: Checkpoint) -> Iterator[InspectedTensor]:
    """Every tensor in file order, one group in memory at a time."""
    statistics = tensor_statistics(checkpoint.items())
    analyzers = [analyzer for analyzer in ANALYZERS.values() if isinstance(analyzer, TensorAnalyzer)]
    for name in checkpoint.names():
        info = checkpoint.info(name)
        if not info.dtype.is_floating_point:
            yield InspectedTensor(info)
            continue
        one = next(statistics)
        yield InspectedTensor(info, {key: value for a in analyzers for key, value in a.tensor(one).items()})


def weights_of(checkpoint: Checkpoint) -> int:
    """Number of weights: floating-point entries, tied storage once; read from the headers alone."""
    infos = (checkpoint.info(name) for name in checkpoint.names())
    return sum(math.prod(info.shape) for info in infos if info.dtype.is_floating_point)
