"""The real Lightning on the CPU, against the same training written out."""

import copy

import pytest
import torch
from kolmogram import SpectralEntropyRegularizer
from kolmogram.engine.training.schedule import CheckpointSchedule
from torch import nn

lightning = pytest.importorskip("lightning.pytorch")

from kolmogram.engine.training.callbacks_lightning import (  # noqa: E402
    LogCheckpointCallback,
    SpectralEntropyCallback,
)

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


class Regression(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5))

    def training_step(self, batch, _):
        x, y = batch
        return (self.layers(x) - y).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def batches():
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 6, generator=generator), torch.randn(8, 5, generator=generator)) for _ in range(8)]


def loader():
    return torch.utils.data.DataLoader(batches(), batch_size=None)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Regression()


def trainer(folder, callbacks, steps, **settings):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "accelerator": "cpu", "max_steps": steps}
    return lightning.Trainer(default_root_dir=folder, callbacks=callbacks, **(quiet | settings))


def written_out(model, steps, every, accumulation=1):
    model, penalty = copy.deepcopy(model), SpectralEntropyRegularizer(0.5, every=every)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    data = batches()
    for step in range(steps):
        micro = [data[(step * accumulation + i) % 8] for i in range(accumulation)]
        loss = sum((model.layers(x) - y).square().mean() for x, y in micro) / accumulation
        optimizer.zero_grad()
        (loss + penalty(model)).backward()
        optimizer.step()
    return model.state_dict()


def assert_same(state, expected):
    for name, weight in expected.items():
        torch.testing.assert_close(state[name], weight, msg=name)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_same_weights_as_a_loop_with_the_penalty_in_the_loss(model, tmp_path, accumulation):
    expected = written_out(model, 4, every=1, accumulation=accumulation)
    callback = SpectralEntropyCallback(SpectralEntropyRegularizer(0.5))
    run = trainer(tmp_path, [callback], 4, accumulate_grad_batches=accumulation)
    run.fit(model, loader())
    assert_same(model.state_dict(), expected)
    logged = run.logged_metrics
    assert logged["spectral_penalty"].item() == pytest.approx(0.5 * logged["spectral_entropy"].item())
    assert 1 <= logged["effective_rank"] <= 6


def test_a_resumed_run_goes_on_with_what_the_penalty_kept(model, tmp_path, monkeypatch):
    same = batches()[:1] * 8  # which batch comes after a restart is Lightning's affair
    monkeypatch.setitem(globals(), "batches", lambda: same)
    expected = written_out(model, 6, every=4)
    first = trainer(tmp_path, [SpectralEntropyCallback(SpectralEntropyRegularizer(0.5, every=4))], 3)
    first.fit(model, loader())
    first.save_checkpoint(tmp_path / "last.ckpt")
    second = trainer(tmp_path, [SpectralEntropyCallback(SpectralEntropyRegularizer(0.5, every=4))], 6)
    resumed = Regression()
    second.fit(resumed, loader(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert_same(resumed.state_dict(), expected)


def test_an_optimiser_adds_the_penalty_of_what_it_steps_only(monkeypatch):
    monkeypatch.setattr(Regression, "log_dict", lambda self, values: None)  # there is no trainer
    model = Regression()
    first, _, last = model.layers
    callback = SpectralEntropyCallback(SpectralEntropyRegularizer(0.5))
    callback.on_before_optimizer_step(None, model, torch.optim.SGD(first.parameters(), 0.1))
    assert first.weight.grad.any()
    assert last.weight.grad is None


def test_log_spaced_checkpoints(model, tmp_path):
    callback = LogCheckpointCallback(tmp_path / "run", CheckpointSchedule(2))
    trainer(tmp_path, [callback], 5, accumulate_grad_batches=2).fit(model, loader())
    steps = [0, 1, 2, 4, 5]
    paths = sorted((tmp_path / "run").iterdir())
    assert [path.name for path in paths] == [f"step-{step:08d}.ckpt" for step in steps]
    states = [torch.load(path, weights_only=True) for path in paths]
    assert [state["global_step"] for state in states] == steps
    assert "optimizer_states" not in states[-1]
    assert not torch.equal(states[0]["state_dict"]["layers.0.weight"], states[1]["state_dict"]["layers.0.weight"])


def test_an_end_that_is_of_the_schedule_is_saved_once(model, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(lightning.Trainer, "save_checkpoint", lambda self, path, weights_only: saved.append(path.name))
    trainer(tmp_path, [LogCheckpointCallback(tmp_path, CheckpointSchedule(2))], 4).fit(model, loader())
    assert saved == [f"step-{step:08d}.ckpt" for step in (0, 1, 2, 4)]
