"""The same weights, saved by the frameworks themselves, are the same checkpoint."""

import json
import logging

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from kolmogram.engine.checkpoints import open_run
from safetensors.torch import save_file
from torch import nn

pytestmark = pytest.mark.filterwarnings("ignore")


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2, dtype=torch.float64))


def examples():
    return [{"input_ids": torch.arange(8) + index, "labels": torch.arange(8) + index} for index in range(4)]


@pytest.fixture
def lightning():
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    return pytest.importorskip("lightning.pytorch")


def lightning_run(lightning, folder, attribute):
    """A real Trainer with ModelCheckpoint, three saves and `last.ckpt`; the weights at each save, by step."""
    kept = {}

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.save_hyperparameters({"rate": 0.1, "folder": folder})  # a Path: weights_only refuses such files
            setattr(self, attribute, network())

        def training_step(self, batch, _):
            return getattr(self, attribute)[:2](batch).square().sum()

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters())

        def on_save_checkpoint(self, checkpoint):
            state = getattr(self, attribute).state_dict()
            kept[checkpoint["global_step"]] = {name: tensor.clone() for name, tensor in state.items()}

    saving = lightning.callbacks.ModelCheckpoint(folder, every_n_train_steps=2, save_top_k=-1, save_last="link")
    trainer = lightning.Trainer(
        max_steps=6,
        callbacks=[saving],
        logger=False,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(), torch.utils.data.DataLoader(torch.randn(15, 4), batch_size=5))
    return kept


@pytest.mark.parametrize(("attribute", "prefix"), [("model", ""), ("net", ""), ("decoder", "decoder.")])
def test_lightning(tmp_path, lightning, assert_same, attribute, prefix):
    kept = lightning_run(lightning, tmp_path, attribute)
    run = open_run(tmp_path)
    assert [checkpoint.step for checkpoint in run] == [2, 4, 6]
    for checkpoint in run:
        assert checkpoint.format == "lightning"
        assert_same(checkpoint, {prefix + name: tensor for name, tensor in kept[checkpoint.step].items()})
        assert {"optimizer_states", "loops", "callbacks"} <= checkpoint.skipped.keys()
        assert "epoch" in checkpoint.metrics
    assert torch.load(run[0].path, weights_only=False)["global_step"] == 2
    with pytest.raises(Exception, match=r"[Ww]eights"):
        torch.load(run[0].path, weights_only=True)


def test_transformers(tmp_path, assert_same):
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    config = transformers.GPT2Config(vocab_size=40, n_positions=16, n_embd=8, n_layer=1, n_head=2)
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config)
    kept = {}

    class Keep(transformers.TrainerCallback):
        def on_save(self, args, state, control, **_):
            kept[state.global_step] = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=20,
        save_steps=10,
        logging_steps=10,
        per_device_train_batch_size=2,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
    )
    trainer = transformers.Trainer(model, arguments, train_dataset=examples(), callbacks=[Keep()])
    trainer.train()
    run = open_run(tmp_path)
    assert [(checkpoint.name, checkpoint.step) for checkpoint in run] == [("checkpoint-10", 10), ("checkpoint-20", 20)]
    for checkpoint in run:
        state = kept[checkpoint.step]
        assert_same(checkpoint, {name: tensor for name, tensor in state.items() if name != "lm_head.weight"})
        logged = next(entry for entry in trainer.state.log_history if entry["step"] == checkpoint.step)
        assert checkpoint.metrics["loss"] == logged["loss"]
        assert checkpoint.metrics["epoch"] == logged["epoch"]

    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    (by_torch,) = open_run(tmp_path / "pytorch_model.bin")
    assert by_torch.aliases == {"lm_head.weight": "transformer.wte.weight"}
    assert set(by_torch.names()) == set(run[-1].names())
    model.save_pretrained(tmp_path / "sharded", max_shard_size="2KB")
    assert json.loads((tmp_path / "sharded" / "model.safetensors.index.json").read_text())["weight_map"]
    (sharded,) = open_run(tmp_path / "sharded")
    assert_same(sharded, dict(run[-1].items()))


def test_one_state_is_the_same_checkpoint_whoever_saved_it(tmp_path, lightning, assert_same):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    (tmp_path / "lightning").mkdir()
    step, state = list(lightning_run(lightning, tmp_path / "lightning", "model").items())[-1]
    assert step == 6
    optimiser = torch.optim.Adam(network().parameters()).state_dict()
    ddp = {f"module.{name}": tensor for name, tensor in state.items()}
    compiled = {f"_orig_mod.{name}": tensor for name, tensor in state.items()}
    module = network()
    module.load_state_dict(state)

    writers = {
        "safetensors": lambda folder: save_file(state, folder / "step-00000006.safetensors", {"step": "6"}),
        "compiled safetensors": lambda folder: save_file(compiled, folder / "step-00000006.safetensors"),
        "hub": lambda folder: huggingface_hub.save_torch_state_dict(state, folder / "checkpoint-6"),
        "hub shards": lambda folder: huggingface_hub.save_torch_state_dict(
            state, folder / "checkpoint-6", max_shard_size=40
        ),
        "hub bin": lambda folder: huggingface_hub.save_torch_state_dict(
            state, folder / "checkpoint-6", safe_serialization=False
        ),
        "torch": lambda folder: torch.save(state, folder / "model_000006.pt"),
        "torch stream": lambda folder: torch.save(state, folder / "step_6.pth", _use_new_zipfile_serialization=False),
        "torch module": lambda folder: torch.save(module, folder / "model-6.pt"),
        "ddp": lambda folder: torch.save(
            {"model_state_dict": ddp, "step": 6, "optimizer_state_dict": optimiser}, folder / "a.pt"
        ),
        "nanogpt": lambda folder: torch.save(
            {"model": compiled, "optimizer": optimiser, "iter_num": 6, "model_args": {}}, folder / "ckpt.pt"
        ),
        "dcp": lambda folder: dcp.save(
            {"model": ddp, "optim": optimiser}, checkpoint_id=folder / "step-6", no_dist=True
        ),
        "npz": lambda folder: np.savez(folder / "w.npz", step=6, **{name: t.numpy() for name, t in state.items()}),
        "npz deflated": lambda folder: np.savez_compressed(
            folder / "6.npz", **{name: t.numpy() for name, t in state.items()}
        ),
    }
    for name, write in writers.items():
        (tmp_path / name / "checkpoint-6" if name.startswith("hub") else tmp_path / name).mkdir(parents=True)
        write(tmp_path / name)
    for name in (*writers, "lightning"):
        checkpoint = open_run(tmp_path / name)[-1]
        assert checkpoint.step == 6, name
        assert_same(checkpoint, state)
