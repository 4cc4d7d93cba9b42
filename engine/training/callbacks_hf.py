"""Callbacks for the Hugging Face Trainer: the spectral-entropy penalty, and checkpoints evenly spaced in log time.

    Trainer(..., callbacks=[SpectralEntropyCallback(SpectralEntropyRegularizer(0.1)), LogCheckpointCallback()])

Needs transformers (`pip install kolmogram[hf]`).
"""

from pathlib import Path
from typing import Any

from safetensors.torch import save_model
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
    """Has the Trainer save at the optimiser steps of a schedule and at the end, beside its own `save_strategy`.

    That one may be "no". The Trainer saves after steps only: step 0 is written here, weights and trainer state, unless
    they are sharded (FSDP, DeepSpeed). `save_only_model=True` makes the checkpoints a third as large.
    """

    def __init__(self, schedule: CheckpointSchedule | None = None) -> None:
        self.schedule = schedule or CheckpointSchedule()
        self._saved = -1

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        if args.save_total_limit is not None:
            raise KolmogramError("LogCheckpointCallback: save_total_limit would delete the trajectory; leave it unset")
        if state.global_step == 0 and 0 in self.schedule and args.should_save and not (args.fsdp or args.deepspeed):
            assert model is not None  # the Trainer always passes it
            _save_start(model, state, Path(str(args.output_dir)) / "checkpoint-0")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step in self.schedule:
            control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._saved = state.global_step

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # Whatever ends a training, be it the last step or another callback, ends its epoch first: the last moment at
        # which the Trainer can be asked to save.
        if control.should_training_stop and self._saved != state.global_step:
            control.should_save = True


def _save_start(model: nn.Module, state: TrainerState, folder: Path) -> None:
    """What the Trainer would write of a model at step 0, had it begun to save by then."""
    folder.mkdir(parents=True, exist_ok=True)
    if hasattr(model, "save_pretrained"):
        model.save_pretrained(folder)  # pyright: ignore[reportCallIssue]
    else:
        save_model(model, str(folder / "model.safetensors"))
    state.save_to_json(str(folder / "trainer_state.json"))
