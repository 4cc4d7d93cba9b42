"""`analyze` gives the same numbers whichever framework wrote the weights."""

import json

import kolmogram
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

pytestmark = pytest.mark.filterwarnings("ignore")

TASK = """
import torch, kolmogram

def task():
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    inputs = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    batches = [(inputs, inputs[:, :3].argmax(1))]
    return kolmogram.Task.from_module(model, batches, torch.nn.functional.cross_entropy)
"""


@pytest.fixture(scope="module")
def module():
    """A network that has learned a little, so that there is something to describe."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    inputs = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(model.parameters(), 0.03)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), inputs[:, :3].argmax(1)).backward()
        optimizer.step()
    return model, optimizer


def safetensors(folder, model, optimizer):
    save_file(model.state_dict(), folder / "step-00000060.safetensors", metadata={"step": "60"})


def sharded_safetensors(folder, model, optimizer):
    state = model.state_dict()
    shards = {name: f"model-{i + 1:05d}-of-00004.safetensors" for i, name in enumerate(state)}
    folder = folder / "checkpoint-60"
    folder.mkdir()
    for name, shard in shards.items():
        save_file({name: state[name]}, folder / shard, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}))


def torch_zip(folder, model, optimizer):
    torch.save(model.state_dict(), folder / "step_60.pt")


def torch_legacy(folder, model, optimizer):
    torch.save(model.state_dict(), folder / "step_60.pth", _use_new_zipfile_serialization=False)


def nanogpt(folder, model, optimizer):
    state = {f"_orig_mod.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"model": state, "optimizer": optimizer.state_dict(), "iter_num": 60, "config": {}}, folder / "ckpt.pt")


def npz(folder, model, optimizer):
    np.savez(folder / "step_60.npz", **{name: tensor.numpy() for name, tensor in model.state_dict().items()})


def trainer_folder(folder, model, optimizer):
    hub = pytest.importorskip("huggingface_hub")
    folder = folder / "checkpoint-60"
    folder.mkdir()
    hub.save_torch_model(model, folder)
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 60, "epoch": 3.0, "log_history": []}))


def lightning(folder, model, optimizer):
    pl = pytest.importorskip("lightning.pytorch")

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = model

        def configure_optimizers(self):
            return optimizer

        def training_step(self, batch, index):
            raise AssertionError

    trainer = pl.Trainer(accelerator="cpu", logger=False, barebones=True)
    trainer.strategy.connect(Module())
    trainer.save_checkpoint(folder / "epoch=3-step=60.ckpt", weights_only=True)
    saved = torch.load(folder / "epoch=3-step=60.ckpt", weights_only=False)
    torch.save(saved | {"global_step": 60}, folder / "epoch=3-step=60.ckpt")


WRITERS = [sharded_safetensors, torch_zip, torch_legacy, nanogpt, npz, trainer_folder, lightning]


@pytest.fixture(scope="module")
def analyze(module, tmp_path_factory):
    task = tmp_path_factory.mktemp("task") / "task.py"
    task.write_text(TASK)

    def analyze(write, measures):
        folder = tmp_path_factory.mktemp(write.__name__)
        write(folder, *module)
        return kolmogram.analyze(folder, str(task), measures, epsilons=(0.05,))

    return analyze


@pytest.fixture(scope="module")
def expected(analyze):
    return analyze(safetensors, None)


def assert_same(table, expected):
    assert len(table) == 1
    assert table["status"] == ["ok"]
    (row,), (other,) = table.rows, expected.rows
    assert row["step"] == other["step"] == 60
    assert row["parameters"] == other["parameters"] == 83
    for name in set(table.columns[4:]) - {"epoch"}:  # some frameworks write it down, some do not
        assert row[name] == pytest.approx(other[name], rel=1e-6), name  # sums over tensors, in the file's order


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_same_numbers(write, analyze, expected):
    table = analyze(write, ["entropy", "norms", "spectrum"])
    assert {"loss", "effective_rank", "l2_norm", "entropy_bits@0.25"} <= set(table.columns)
    assert_same(table, expected)


def test_same_bytes_and_decoded_loss(analyze, expected):
    """nanoGPT's files differ most from safetensors: prefixes, another order, an optimiser beside the weights."""
    table = analyze(nanogpt, ["complexity"])
    assert table["complexity_bytes@0.05"] == expected["complexity_bytes@0.05"]
    assert table["complexity_bytes@0.05"][0] > 60
    assert_same(table, expected)
