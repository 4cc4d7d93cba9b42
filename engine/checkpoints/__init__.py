"""Any run as an ordered sequence of lazy checkpoints: `open_run(path)`, whatever framework wrote it."""

from .checkpoint import Checkpoint, TensorInfo, Unread
from .run import Run, open_run

__all__ = ["Checkpoint", "Run", "TensorInfo", "Unread", "open_run"]
