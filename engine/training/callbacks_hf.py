"""Callbacks for the Hugging Face Trainer: the spectral-entropy penalty, and checkpoints evenly spaced in log time.

    Trainer(..., callbacks=[SpectralEntropyCallback(SpectralEntropyRegularizer(0.1)), LogCheckpointCallback()])

Needs transformers (`pip install kolmogram[hf]`).
"""

from typing import Any

from torch import nn
from transformers.trainer_callback import TrainerCallback, TrainerControl, TrainerState
from transformers.training_args import TrainingArguments

from ..errors import KolmogramError
from .regularizer import SpectralEntropyRegularizer
from .schedule import CheckpointSchedule


class SpectralEntropyCallback(TrainerCallback):
    """Adds the penalty's gradient before every optimiser step, and its numbers to every log entry.

    The gradient comes once per optimiser step, whatever the gradient accumulation, and after gradient clipping: the
    norm that is clipped and logged is the task's own. Logged are `spectral_penalty`, `spectral_entropy` (nats) and
    `effective_rank`, means over matrices. A run that is resumed decomposes at its first step. Reporters such as
    TensorBoard come before other callbacks and miss these numbers unless this one is put first:
    `trainer.callback_handler.callbacks.insert(0, callback)`.
    """

    def __init__(self, penalty: SpectralEntropyRegularizer) -> None:
        self.penalty = penalty
        self._value = float("nan")

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.deepspeed:
            raise KolmogramError("SpectralEntropyCallback: DeepSpeed hides gradients; add the penalty to your loss")
        if args.fp16 and not args.max_grad_norm:
            raise KolmogramError("SpectralEntropyCallback: fp16 gradients stay scaled here; set max_grad_norm or bf16")

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        assert model is not None  # the Trainer always passes it
        self._value = self.penalty.add_gradient(model)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs is None or "loss" not in logs or not self.penalty.entropies:
            return
        added = {"spectral_penalty": float(self._value), **self.penalty.means()}
        logs |= added
        state.log_history[-1] |= added


class LogCheckpointCallback(TrainerCallback):
    """Has the Trainer save at the optimiser steps of a schedule, beside its own `save_strategy` (which may be "no").

    Step 0 is not saved: the Trainer saves after steps only. `save_only_model=True` makes the checkpoints a third as
    large.
    """

    def __init__(self, schedule: CheckpointSchedule | None = None) -> None:
        self.schedule = schedule or CheckpointSchedule()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.save_total_limit is not None:
            raise KolmogramError("LogCheckpointCallback: save_total_limit would delete the trajectory; leave it unset")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step in self.schedule:
            control.should_save = True
