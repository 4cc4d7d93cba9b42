"""Callbacks for Lightning: the spectral-entropy penalty, and checkpoints evenly spaced in log time.

    Trainer(callbacks=[SpectralEntropyCallback(SpectralEntropyRegularizer(0.1)), LogCheckpointCallback("run")])

Needs lightning (`pip install kolmogram[lightning]`).
"""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from .regularizer import SpectralEntropyRegularizer
from .schedule import CheckpointSchedule


class SpectralEntropyCallback(Callback):
    """Adds the penalty's gradient before every optimiser step and logs its numbers.

    The gradient comes once per optimiser step, whatever the gradient accumulation, unscaled, and before gradient
    clipping. Logged are `spectral_penalty`, `spectral_entropy` (nats) and `effective_rank`, means over matrices.
    """

    def __init__(self, penalty: SpectralEntropyRegularizer) -> None:
        self.penalty = penalty

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        weights = {name: p for name, p in pl_module.named_parameters() if id(p) in stepped and p.requires_grad}
        value = self.penalty.add_gradient(weights)
        pl_module.log_dict({"spectral_penalty": value, **self.penalty.tensor_means()})

    def state_dict(self) -> dict[str, Any]:
        return self.penalty.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.penalty.load_state_dict(state_dict)


class LogCheckpointCallback(Callback):
    """Saves FOLDER/step-XXXXXXXX.ckpt, weights only, at step 0, the steps of a schedule, and the end."""

    def __init__(self, folder: str | Path, schedule: CheckpointSchedule | None = None) -> None:
        self.folder = Path(folder)
        self.schedule = schedule or CheckpointSchedule()
        self._saved = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save_if_due(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._save_if_due(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)

    def _save_if_due(self, trainer: Trainer) -> None:
        if trainer.global_step in self.schedule:
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        step = trainer.global_step
        if step != self._saved:  # several batches may share an optimiser step
            trainer.save_checkpoint(self.folder / f"step-{step:08d}.ckpt", weights_only=True)
            self._saved = step
