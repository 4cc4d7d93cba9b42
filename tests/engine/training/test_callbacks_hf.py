"""The real Trainer on the CPU, against the same training written out."""

import argparse
import copy

import pytest
import torch
from kolmogram import SpectralEntropyRegularizer
from kolmogram.engine.checkpoints import open_run
from kolmogram.engine.errors import KolmogramError
from kolmogram.engine.training.schedule import CheckpointSchedule
from safetensors.torch import load_file
from torch import nn

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from kolmogram.engine.training.callbacks_hf import LogCheckpointCallback, SpectralEntropyCallback  # noqa: E402

pytestmark = pytest.mark.slow


class Regression(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5))

    def forward(self, x, labels=None):
        return {"loss": (self.layers(x) - labels).square().mean()}


class Data(torch.utils.data.Dataset):
    def __init__(self):
        generator = torch.Generator().manual_seed(1)
        self.x, self.y = torch.randn(64, 6, generator=generator), torch.randn(64, 5, generator=generator)

    def __len__(self):
        return 64

    def __getitem__(self, i):
        return {"x": self.x[i], "labels": self.y[i]}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Regression()


def trainer(model, folder, callbacks, **settings):
    settings = {
        "max_steps": 6,
        "per_device_train_batch_size": 8,
        "learning_rate": 0.1,
        "lr_scheduler_type": "constant",
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "save_strategy": "no",
        "logging_steps": 2,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "train_sampling_strategy": "sequential",
        **settings,
    }
    arguments = transformers.TrainingArguments(output_dir=str(folder), **settings)
    return transformers.Trainer(
        model=model, args=arguments, train_dataset=Data(), eval_dataset=Data(), callbacks=callbacks
    )


def written_out(model, steps, batch):
    model, penalty, data = copy.deepcopy(model), SpectralEntropyRegularizer(0.5), Data()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for step in range(steps):
        rows = slice(step * batch % 64, step * batch % 64 + batch)
        optimizer.zero_grad()
        (model(data.x[rows], data.y[rows])["loss"] + penalty(model)).backward()
        optimizer.step()
    return model.state_dict()


def assert_same(state, expected):
    for name, weight in expected.items():
        torch.testing.assert_close(state[name], weight, msg=name)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_same_weights_as_a_loop_with_the_penalty_in_the_loss(model, tmp_path, accumulation):
    expected = written_out(model, 6, 8 * accumulation)
    callback = SpectralEntropyCallback(SpectralEntropyRegularizer(0.5))
    run = trainer(model, tmp_path, [callback], gradient_accumulation_steps=accumulation)
    run.train()
    assert_same(model.state_dict(), expected)
    logged = [entry for entry in run.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in logged] == [2, 4, 6]
    assert all(entry["spectral_penalty"] == pytest.approx(0.5 * entry["spectral_entropy"]) for entry in logged)
    assert all(1 <= entry["effective_rank"] <= 6 for entry in logged)


def test_log_spaced_checkpoints_that_a_run_resumes_from(model, tmp_path):
    expected = written_out(model, 12, 8)
    schedule = CheckpointSchedule(2)
    trainer(model, tmp_path, [LogCheckpointCallback(schedule)], max_steps=1).train()
    start = copy.deepcopy(model)
    fresh = [SpectralEntropyCallback(SpectralEntropyRegularizer(0.5)), LogCheckpointCallback(schedule)]
    torch.manual_seed(0)
    model = Regression()
    trainer(model, tmp_path / "run", fresh, max_steps=5).train()
    saved = {path.name for path in (tmp_path / "run").glob("checkpoint-*")}
    assert saved == {f"checkpoint-{step}" for step in (0, 1, 2, 4, 5)}
    again = [SpectralEntropyCallback(SpectralEntropyRegularizer(0.5)), LogCheckpointCallback(schedule)]
    trainer(start, tmp_path / "run", again, max_steps=12).train(resume_from_checkpoint=True)
    assert_same(start.state_dict(), expected)


def saved_steps(folder):
    """Steps of the checkpoints as the product reads them."""
    return [checkpoint.step for checkpoint in open_run(folder)]


def test_the_start_is_kept_as_it_was(model, tmp_path):
    start = copy.deepcopy(model.state_dict())
    trainer(model, tmp_path, [LogCheckpointCallback()], max_steps=1).train()
    assert saved_steps(tmp_path) == [0, 1]
    assert_same(load_file(tmp_path / "checkpoint-0" / "model.safetensors"), start)
    again = trainer(Regression(), tmp_path, [LogCheckpointCallback()], max_steps=2)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-0"))
    assert saved_steps(tmp_path) == [0, 1, 2]


class StopAfterEvaluation(transformers.TrainerCallback):
    """Ends a training as EarlyStoppingCallback does."""

    def on_evaluate(self, args, state, control, **kwargs):
        control.should_training_stop = True


class CountSaves(transformers.TrainerCallback):
    def __init__(self):
        self.steps = []

    def on_save(self, args, state, control, **kwargs):
        self.steps.append(state.global_step)


@pytest.mark.parametrize(
    ("settings", "stop", "steps"),
    [
        ({"max_steps": 5}, [], [1, 2, 4, 5]),
        ({"max_steps": 4}, [], [1, 2, 4]),  # 4 is of the schedule: saved once
        ({"max_steps": 5, "save_strategy": "steps", "save_steps": 3}, [], [1, 2, 3, 4, 5]),
        ({"max_steps": -1, "num_train_epochs": 1, "save_strategy": "epoch"}, [], [1, 2, 4, 8, 8]),
        ({"max_steps": 9, "eval_strategy": "steps", "eval_steps": 3}, [StopAfterEvaluation()], [1, 2, 3]),
    ],
)
def test_the_end_is_kept_however_it_comes(model, tmp_path, settings, stop, steps):
    count = CountSaves()
    run = trainer(model, tmp_path, [LogCheckpointCallback(CheckpointSchedule(2)), *stop, count], **settings)
    run.train()
    assert count.steps == steps


def test_settings_that_would_defeat_them_are_refused(model, tmp_path):
    with pytest.raises(KolmogramError, match="save_total_limit would delete"):
        trainer(model, tmp_path, [LogCheckpointCallback()], save_total_limit=2).train()


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"deepspeed": "ds.json"}, "DeepSpeed hides"), ({"fp16": True, "max_grad_norm": 0.0}, "stay scaled"), ({}, None)],
    ids=["deepspeed", "scaled", "usual"],
)
def test_settings_under_which_gradients_are_not_the_true_ones_are_refused(settings, words):
    """That they are asked for is enough: DeepSpeed need not be installed, nor a GPU be there."""
    arguments = argparse.Namespace(**({"deepspeed": None, "fp16": False, "max_grad_norm": 1.0} | settings))
    callback = SpectralEntropyCallback(SpectralEntropyRegularizer(0.5))
    if words is None:
        callback.on_train_begin(arguments, None, None)
        return
    with pytest.raises(KolmogramError, match=words):
        callback.on_train_begin(arguments, None, None)


def test_only_entries_of_the_training_loss_get_its_numbers():
    callback = SpectralEntropyCallback(SpectralEntropyRegularizer(0.5))
    callback.on_pre_optimizer_step(None, None, None, model=nn.Linear(4, 3))
    for logs, added in (({"loss": 1.0}, True), ({"eval_loss": 1.0}, False), ({"train_runtime": 1.0}, False)):
        state = argparse.Namespace(log_history=[{}])
        callback.on_log(None, state, None, logs=logs)
        assert ("spectral_penalty" in logs) == ("spectral_penalty" in state.log_history[-1]) == added
