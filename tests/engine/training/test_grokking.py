import csv
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial

import pytest
import torch
from kolmogram.engine.errors import KolmogramError
from kolmogram.engine.tasks.modular import OPERATIONS, ModularTask
from kolmogram.engine.tasks.networks import ARCHITECTURES
from kolmogram.engine.training import grokking
from kolmogram.engine.training.grokking import Metrics, train
from kolmogram.engine.training.recipes import RECIPES, Recipe, recipe_for
from kolmogram.engine.training.schedule import CheckpointSchedule
from safetensors import safe_open
from safetensors.torch import load_file

SMALL = {"modulus": 11}


def checkpoints(folder):
    return {path.name: load_file(path) for path in sorted(folder.glob("*.safetensors"))}


def assert_same_run(one, two):
    """Every checkpoint bit for bit, and every row but for the seconds."""
    a, b = checkpoints(one), checkpoints(two)
    assert a.keys() == b.keys()
    for name in a:
        for tensor in a[name]:
            assert torch.equal(a[name][tensor], b[name][tensor]), (name, tensor)
    rows = [[{**row, "seconds": 0} for row in csv.DictReader((f / "metrics.csv").open())] for f in (one, two)]
    assert rows[0] == rows[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    reported = []
    rows = train("addition", folder, epochs=45, seed=2, progress=reported.append, **SMALL)
    assert reported == rows
    return folder, rows


def test_checkpoints_follow_the_schedule_and_name_their_steps(run):
    folder, _ = run
    epochs = [*CheckpointSchedule().until(45), 45]
    steps_per_epoch = 2  # 24 pairs in batches of 12
    assert [*checkpoints(folder)] == [f"step-{steps_per_epoch * epoch:08d}.safetensors" for epoch in epochs]
    with safe_open(folder / "step-00000020.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "step": "20", "epoch": "10"}


def test_a_row_can_be_computed_again_from_its_checkpoint(run):
    folder, rows = run
    task = ModularTask.from_config(json.loads((folder / "config.json").read_text()), folder)
    weights = load_file(folder / "step-00000090.safetensors")
    last = rows[-1]
    assert (last.step, last.epoch) == (90, 45)
    assert last.train_loss == pytest.approx(task.loss(weights).item(), rel=1e-6)
    assert last.test_loss == pytest.approx(task.test_loss(weights).item(), rel=1e-6)
    assert task.accuracies(weights) == {"train_accuracy": last.train_accuracy, "test_accuracy": last.test_accuracy}
    written = list(csv.DictReader((folder / "metrics.csv").open()))
    assert [Metrics(*map(float, row.values())) for row in written] == rows
    assert last.train_loss < rows[0].train_loss
    assert last.spectral_entropy < rows[0].spectral_entropy


def test_the_config_says_everything(run):
    assert json.loads((run[0] / "config.json").read_text()) == {
        "task": "modular",
        "operation": "addition",
        "modulus": 11,
        "architecture": "transformer",
        "layers": 1,
        "width": 128,
        "train_fraction": 0.2,
        "seed": 2,
        "recipe": "paper",
        "weight_decay": 1.0,
        "spectral_weight": 0.1,
        "noise": 0.01,
        "spectra_every": 32,
        "compiled": False,
        "precision": "float32",
    }


def test_a_longer_run_continues_a_shorter_one(run, tmp_path):
    folder, _ = run
    for epochs in (7, 7, 22, 45):
        train("addition", tmp_path, epochs=epochs, seed=2, **SMALL)
    for leftover in ("step-00000014.safetensors", "step-00000044.safetensors"):  # ends of the shorter runs
        (tmp_path / leftover).unlink()
    kept = {row.epoch for row in run[1]}
    table = (tmp_path / "metrics.csv").read_text().splitlines()
    table = [table[0], *(line for line in table[1:] if int(line.split(",")[1]) in kept)]
    (tmp_path / "metrics.csv").write_text("\n".join(table) + "\n")
    assert_same_run(folder, tmp_path)


def test_seconds_go_on_where_they_were(tmp_path):
    options = {"recipe": "none", "width": 16, **SMALL}
    train("addition", tmp_path, epochs=1, **options)
    state = torch.load(tmp_path / "resume.pt", weights_only=True)
    state["rows"][-1]["seconds"] = 1000.0
    torch.save(state, tmp_path / "resume.pt")
    assert train("addition", tmp_path, epochs=2, **options)[-1].seconds > 1000


def test_a_checkpoint_is_on_disk_before_the_state_that_knows_of_it(tmp_path, monkeypatch):
    """Or a run that is killed in between never writes it."""

    def killed(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(grokking._Run, "save_state", killed)
    with pytest.raises(KeyboardInterrupt):
        train("addition", tmp_path, epochs=1, recipe="none", width=16, **SMALL)
    assert (tmp_path / "step-00000000.safetensors").is_file()


SCRIPT = """
import sys, torch
from kolmogram.engine.training.grokking import train
torch.set_num_threads(1)
train("addition", sys.argv[1], epochs=10**6, seed=2, modulus=11)
"""


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_weights(tmp_path):
    """Killed at some moment after the state of epoch 20 is on disk, then continued."""
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(killed)])
    table = killed / "metrics.csv"
    while not (table.exists() and ",20," in table.read_text()):
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    last = int(table.read_text().splitlines()[-1].split(",")[1])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for folder in (killed, undisturbed):
            train("addition", folder, epochs=last + 30, seed=2, **SMALL)
    finally:
        torch.set_num_threads(threads)
    assert_same_run(killed, undisturbed)


def test_the_papers_own_way_of_taking_spectra(tmp_path):
    """At every step and at the noisy weights: the reference is written out with autograd."""
    recipe = Recipe(spectral_weight=0.5, noise=0.05, spectra_every=1)
    train("addition", tmp_path, epochs=1, recipe=recipe, **SMALL)
    kept = checkpoints(tmp_path)
    task = ModularTask("addition", **SMALL)
    initial = kept["step-00000000.safetensors"]
    weights = {name: initial[name].double().requires_grad_() for name in task.network.shapes}
    optimizer = torch.optim.AdamW(weights.values(), 1e-3, (0.9, 0.98), weight_decay=0)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    noise = torch.Generator().manual_seed(0)
    for batch in order.split(12):
        noisy = {name: w + torch.empty(w.shape).normal_(0, 0.05, generator=noise) for name, w in weights.items()}
        loss = torch.nn.functional.cross_entropy(
            task.network.logits(noisy, task.train.pairs[batch]), task.train.labels[batch]
        )
        matrices = [w for w in noisy.values() if w.ndim > 1]
        for matrix in matrices:
            sigma = torch.linalg.svdvals(matrix)
            p = sigma / sigma.sum()
            loss = loss - 0.5 * (p * p.log()).sum() / len(matrices)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    weights.pop("layers.0.attention.key.bias")  # softmax cancels its gradient; Adam makes steps of the rounding errors
    for name, weight in weights.items():
        torch.testing.assert_close(kept["step-00000002.safetensors"][name].double(), weight, rtol=0, atol=2e-5)


def test_it_stops_at_the_wanted_accuracy(tmp_path):
    wanted = 0.05
    rows = train("addition", tmp_path, epochs=1000, until_accuracy=wanted, **SMALL)
    assert rows[-1].test_accuracy >= wanted > max((row.test_accuracy for row in rows[:-1]), default=0)
    assert f"step-{rows[-1].step:08d}.safetensors" in checkpoints(tmp_path)
    assert train("addition", tmp_path, epochs=1000, until_accuracy=wanted, **SMALL) == rows


def test_other_settings_do_not_overwrite_a_run(run):
    with pytest.raises(KolmogramError, match=r"config.json: another run is here \(seed 2\)"):
        train("addition", run[0], epochs=45, seed=3, **SMALL)


def test_recipes():
    assert recipe_for("paper", "multiplication") == Recipe(weight_decay=1.0, spectral_weight=0.1, noise=1e-2)
    assert recipe_for("paper", "division").noise == 1e-3
    assert recipe_for("none", "addition") == Recipe(0, 0, 0)
    assert len({recipe_for(name, "addition") for name in RECIPES}) == len(RECIPES)
    with pytest.raises(KolmogramError, match="unknown recipe 'best'"):
        recipe_for("best", "addition")


@pytest.mark.parametrize("part", ["weight_decay", "spectral_weight", "noise"])
def test_every_part_of_a_recipe_changes_the_weights(part, tmp_path):
    weights = {}
    for name, recipe in (("none", Recipe()), (part, replace(Recipe(), **{part: 0.1}))):
        train("addition", tmp_path / name, epochs=1, recipe=recipe, **SMALL)
        weights[name] = checkpoints(tmp_path / name)["step-00000002.safetensors"]["layers.0.mlp.up.weight"]
    assert not torch.equal(weights["none"], weights[part])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("resume.pt", "not a pickle", r"resume.pt: cannot go on from it \(.+\); delete the folder"),
        ("config.json", "{", r"config.json: not JSON"),
        ("config.json", "[]", r"config.json: not the config of a run"),
    ],
)
def test_a_folder_that_is_no_run_says_so_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(KolmogramError, match=message) as error:
        train("addition", tmp_path, epochs=1, **SMALL)
    assert "\n" not in str(error.value)


def test_the_device_may_be_chosen_by_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    train("addition", tmp_path / "auto", epochs=1, device="auto", **SMALL)
    train("addition", tmp_path / "cpu", epochs=1, device="cpu", **SMALL)
    assert_same_run(tmp_path / "auto", tmp_path / "cpu")


def test_a_device_that_is_not_there(tmp_path):
    with pytest.raises(KolmogramError, match="device 'abacus' cannot be used here"):
        train("addition", tmp_path, epochs=1, device="abacus", **SMALL)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_operation_and_architecture_learns(operation, architecture, tmp_path):
    rows = train(operation, tmp_path, architecture=architecture, width=16, epochs=20, recipe="none", **SMALL)
    assert rows[-1].train_loss < rows[0].train_loss


def test_bfloat16_products_change_the_loss_a_little_and_the_weights_stay_float32(tmp_path):
    options = {"epochs": 10, "recipe": "none", "width": 16, **SMALL}
    exact = train("addition", tmp_path / "float32", **options)
    rounded = train("addition", tmp_path / "bfloat16", precision="bfloat16", **options)
    assert rounded[-1].train_loss != exact[-1].train_loss
    assert rounded[-1].train_loss == pytest.approx(exact[-1].train_loss, rel=0.05)
    weights = checkpoints(tmp_path / "bfloat16")["step-00000020.safetensors"]
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    with pytest.raises(KolmogramError, match="another run is here \\(precision 'bfloat16'\\)"):
        train("addition", tmp_path / "bfloat16", **options)
    with pytest.raises(KolmogramError, match="unknown precision 'int8'; choose from float32, bfloat16"):
        train("addition", tmp_path, precision="int8", **options)


def test_a_compiled_run_is_the_same_run(tmp_path, monkeypatch):
    """What is traced; the code that is made of it is the compiler's affair, and takes a minute."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    options = {"epochs": 2, "width": 16, **SMALL}
    train("addition", tmp_path / "eager", **options)
    train("addition", tmp_path / "compiled", compiled=True, **options)
    assert_same_run(tmp_path / "eager", tmp_path / "compiled")


def test_a_pretended_gpu_trains_the_same(pretended, tmp_path):
    losses = []
    for device in ("cpu", "cuda"):
        rows = train("addition", tmp_path / device, modulus=7, width=8, epochs=2, recipe="paper", device=device)
        losses.append([(row.train_loss, row.test_accuracy, row.spectral_entropy) for row in rows])
    assert losses[1] == [pytest.approx(row) for row in losses[0]]
