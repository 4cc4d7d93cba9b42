"""Kolmogram: the trace of a network's complexity along its training run.

    run = kolmogram.open_run("runs/my-run")
    table = kolmogram.analyze(run, task=my_task, epsilons=(1.0,))

Every name below is loaded when it is first used, so that importing the package (and `kolmogram --help`) needs neither
torch nor triton.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "KolmogramError": ".engine.errors",
    "open_run": ".engine.checkpoints",
    "Checkpoint": ".engine.checkpoints",
    "Run": ".engine.checkpoints",
    "Task": ".engine.tasks",
    "analyze": ".engine.analysis",
    "audit": ".engine.audit",
    "complexity": ".engine.coarse",
    "compress": ".engine.compression",
    "decompress": ".engine.compression",
    "bound": ".engine.certificate",
    "certify": ".engine.certificate",
    "quantized_entropy": ".kernels.dispatch",
    "spectrum": ".analyzers.spectrum",
    "SpectralEntropyRegularizer": ".engine.training.regularizer",
    "WeightNoise": ".engine.training.noise",
    "CheckpointSchedule": ".engine.training.schedule",
}

__all__ = [*_WHERE, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Load a public name where it lives."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_WHERE[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from .analyzers.spectrum import spectrum
    from .engine.analysis import analyze
    from .engine.audit import audit
    from .engine.certificate import bound, certify
    from .engine.checkpoints import Checkpoint, Run, open_run
    from .engine.coarse import complexity
    from .engine.compression import compress, decompress
    from .engine.errors import KolmogramError
    from .engine.tasks import Task
    from .engine.training.noise import WeightNoise
    from .engine.training.regularizer import SpectralEntropyRegularizer
    from .engine.training.schedule import CheckpointSchedule
    from .kernels.dispatch import quantized_entropy
