import json
import os
import pickle

import numpy as np
import pytest
import torch
from kolmogram.engine.checkpoints import Checkpoint, open_run
from kolmogram.engine.errors import CheckpointError
from safetensors.torch import save_file

WRITERS = {
    "safetensors": save_file,
    "pt": torch.save,
    "ckpt": torch.save,
    "npz": lambda state, path: np.savez(path, **{name: tensor.numpy() for name, tensor in state.items()}),
}


COMPANIONS = (
    *("optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state.pth", "training_args.bin", "resume.pt"),
    *("optim_000001.pt", "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"),
)


def weights(value):
    return {"w": torch.full((3,), float(value))}


def steps(run):
    return [checkpoint.step for checkpoint in run]


@pytest.mark.parametrize("suffix", WRITERS)
def test_many_checkpoints_in_one_folder_are_ordered_by_step(tmp_path, suffix):
    for step in (1000, 9, 100, 0):
        WRITERS[suffix](weights(step), tmp_path / f"step_{step}.{suffix}")
    run = open_run(tmp_path)
    assert steps(run) == [0, 9, 100, 1000]
    assert [checkpoint.tensor("w")[0].item() for checkpoint in run] == [0, 9, 100, 1000]
    assert steps(run[1:3]) == [9, 100]
    assert run[-1].name == f"step_1000.{suffix}"
    assert not run.problems


def test_all_formats_in_one_run(tmp_path):
    for step, (suffix, write) in enumerate(WRITERS.items()):
        write(weights(step), tmp_path / f"step_{step}.{suffix}")
    assert [checkpoint.tensor("w")[0].item() for checkpoint in open_run(tmp_path)] == [0, 1, 2, 3]


def test_contents_come_before_names(tmp_path):
    torch.save({"global_step": 50, "model": weights(0)}, tmp_path / "step_1.pt")
    torch.save({"step": torch.tensor(40), "model": weights(0)}, tmp_path / "step_2.pt")
    save_file(weights(0), tmp_path / "step_3.safetensors", {"step": "30"})
    assert steps(open_run(tmp_path)) == [30, 40, 50]


def test_equal_steps_are_all_kept_and_no_step_comes_last(tmp_path):
    for name in ("b", "a10", "a9", "step_5", "x/step_5", "step_7"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        torch.save(weights(0), tmp_path / f"{name}.pt")
    run = open_run(tmp_path)
    assert [checkpoint.name for checkpoint in run] == [
        "step_5.pt",
        "x/step_5.pt",
        "step_7.pt",
        "a9.pt",
        "a10.pt",
        "b.pt",
    ]
    assert steps(run) == [5, 5, 7, None, None, None]


def test_epochs_stand_in_only_where_nothing_has_a_step(tmp_path):
    torch.save({"epoch": 3, "model_state_dict": weights(0)}, tmp_path / "c.pt")
    torch.save(weights(0), tmp_path / "epoch=1.ckpt")
    assert steps(open_run(tmp_path)) == [1, 3]
    torch.save(weights(0), tmp_path / "step_200.pt")
    assert steps(open_run(tmp_path)) == [200, None, None]


def test_one_file_or_a_glob_is_a_run_too(tmp_path, monkeypatch):
    for step in (10, 20, 30):
        (tmp_path / f"checkpoint-{step}").mkdir()
        save_file(weights(step), tmp_path / f"checkpoint-{step}" / "model.safetensors")
    (only,) = open_run(tmp_path / "checkpoint-20" / "model.safetensors")
    assert (only.step, only.name) == (20, "model.safetensors")
    (only,) = open_run(tmp_path / "checkpoint-20")
    assert only.step == 20
    assert steps(open_run(f"{tmp_path}/checkpoint-[12]0/*.safetensors")) == [10, 20]
    assert steps(open_run(f"{tmp_path}/checkpoint-[12]0")) == [10, 20]
    monkeypatch.chdir(tmp_path)
    assert [checkpoint.name for checkpoint in open_run("*-30/model*")] == ["checkpoint-30"]
    assert steps(open_run("**")) == [10, 20, 30]


def test_a_folder_whose_name_looks_like_a_glob_is_a_folder(tmp_path):
    (tmp_path / "run[1]").mkdir()
    torch.save(weights(0), tmp_path / "run[1]" / "step_3.pt")
    assert steps(open_run(tmp_path / "run[1]")) == [3]


def test_what_lies_beside_the_weights_is_no_checkpoint(tmp_path):
    torch.save(weights(0), tmp_path / "step_1.pt")
    for name in COMPANIONS:
        torch.save({"state": weights(0)}, tmp_path / name)
    (tmp_path / ".step_2.pt").write_bytes(b"half a file")
    (tmp_path / ".cache").mkdir()
    torch.save(weights(0), tmp_path / ".cache" / "step_3.pt")
    (tmp_path / "train.bin").write_bytes(bytes(100))
    (tmp_path / "notes.txt").write_text("hello")
    os.mkfifo(tmp_path / "step_4.pt")
    assert [checkpoint.name for checkpoint in open_run(tmp_path)] == ["step_1.pt"]


def test_a_link_to_a_checkpoint_of_the_run_is_not_another_one(tmp_path):
    torch.save(weights(0), tmp_path / "step_1.pt")
    (tmp_path / "last.pt").symlink_to("step_1.pt")
    (tmp_path / "gone.pt").symlink_to("nowhere.pt")
    assert [checkpoint.name for checkpoint in open_run(tmp_path)] == ["step_1.pt"]


def test_links_to_one_file_elsewhere_are_both_kept(tmp_path):
    """As in the hub's cache, where two revisions that should differ may be links to one blob."""
    (tmp_path / "blobs").mkdir()
    save_file(weights(0), tmp_path / "blobs" / "abc")
    for step in (1, 2):
        (tmp_path / "snapshots" / f"step{step}").mkdir(parents=True)
        (tmp_path / "snapshots" / f"step{step}" / "model.safetensors").symlink_to(tmp_path / "blobs" / "abc")
    assert steps(open_run(tmp_path)) == [1, 2]


def test_the_same_weights_in_two_formats_are_one_checkpoint(tmp_path):
    save_file(weights(1), tmp_path / "model.safetensors")
    torch.save(weights(1), tmp_path / "pytorch_model.bin")
    assert [checkpoint.format for checkpoint in open_run(tmp_path)] == ["safetensors"]


def test_accelerates_save_counter_is_not_a_step(tmp_path):
    for counter in (0, 1):
        folder = tmp_path / f"checkpoint_{counter}"
        folder.mkdir()
        save_file(weights(0), folder / "model.safetensors")
        (folder / "random_states_0.pkl").write_bytes(pickle.dumps({}))
    run = open_run(tmp_path)
    assert steps(run) == [None, None]
    assert [checkpoint.name for checkpoint in run] == ["checkpoint_0", "checkpoint_1"]


def test_trainer_state_gives_step_and_losses(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    save_file(weights(0), folder / "model.safetensors")
    history = [{"loss": 2.0, "step": 10}, {"loss": 1.0, "step": 20, "epoch": 2.0}, {"eval_loss": 1.5, "step": 20}]
    history += [{"loss": 0.5, "grad_norm": 3.0, "step": 30}]
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 20, "epoch": 2.0, "log_history": history}))
    (checkpoint,) = open_run(tmp_path)
    assert (checkpoint.step, checkpoint.name) == (20, "out")
    assert checkpoint.metrics == {"epoch": 2.0, "loss": 1.0, "eval_loss": 1.5}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"log_history": [3]}', '{"log_history": 3}'])
def test_a_bad_trainer_state_costs_only_itself(tmp_path, text):
    (tmp_path / "checkpoint-30").mkdir()
    save_file(weights(0), tmp_path / "checkpoint-30" / "model.safetensors")
    (tmp_path / "checkpoint-30" / "trainer_state.json").write_text(text)
    run = open_run(tmp_path)
    assert steps(run) == [30]
    assert "trainer_state.json" in str(run.problems[0])
    assert run[0].tensor("w").tolist() == [0, 0, 0]


def test_config(tmp_path):
    torch.save(weights(0), tmp_path / "step_1.pt")
    assert open_run(tmp_path).config is None
    (tmp_path / "config.json").write_text('{"task": "modular"}')
    assert open_run(tmp_path).config == {"task": "modular"}
    assert open_run(tmp_path / "step_1.pt").config == {"task": "modular"}
    (tmp_path / "config.json").write_text("{")
    run = open_run(tmp_path)
    assert run.config is None
    assert "config.json" in str(run.problems[0])


@pytest.mark.parametrize("name", ["config.json", "trainer_state.json", "model.safetensors.index.json"])
def test_a_file_of_json_that_is_absurdly_large_is_not_read(tmp_path, name):
    save_file(weights(1), tmp_path / ("weights.safetensors" if "index" in name else "model.safetensors"))
    with (tmp_path / name).open("wb") as file:
        file.truncate(100_000_001)  # takes no room on the disk
    run = open_run(tmp_path)
    assert f"{name}: has 100000001 bytes, which is absurd" in str(run.problems[0])
    assert run[-1].tensor("w").tolist() == [1, 1, 1]


def test_an_empty_config_costs_only_itself(tmp_path):
    torch.save(weights(0), tmp_path / "step_1.pt")
    (tmp_path / "config.json").touch()
    run = open_run(tmp_path)
    assert run.config is None
    assert "config.json: is empty" in str(run.problems[0])


def test_a_broken_checkpoint_stays_in_the_run_and_leaves_the_others_alone(tmp_path):
    for step in (1, 2, 3):
        save_file(weights(step), tmp_path / f"step_{step}.safetensors")
    whole = (tmp_path / "step_2.safetensors").read_bytes()
    (tmp_path / "step_2.safetensors").write_bytes(whole[:-4])
    run = open_run(tmp_path)
    assert steps(run) == [1, 2, 3]
    assert [checkpoint.broken is not None for checkpoint in run] == [False, True, False]
    assert run.problems == [run[1].broken]
    assert "truncated" in str(run[1].broken)
    for use in (run[1].names, lambda: run[1].tensor("w"), lambda: run[1].aliases, lambda: list(run[1].items())):
        with pytest.raises(CheckpointError, match="truncated"):
            use()
    assert run[1].fingerprint() != run[0].fingerprint()
    assert run[2].tensor("w").tolist() == [3, 3, 3]


def test_a_sound_file_without_weights_is_a_problem_and_not_a_checkpoint(tmp_path):
    torch.save(weights(1), tmp_path / "step_1.pt")
    torch.save({"lr": 0.1}, tmp_path / "arguments.pt")
    run = open_run(tmp_path)
    assert steps(run) == [1]
    assert "arguments.pt: holds no weights" in str(run.problems[0])


def test_damage_is_told_before_what_is_no_checkpoint_at_all(tmp_path):
    torch.save({"lr": 0.1}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"b\.pt: is empty .* \(and 1 more"):
        open_run(tmp_path)


def test_where_there_is_nothing_to_read_the_line_says_why(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        open_run(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        open_run(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        open_run(tmp_path)
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        open_run(tmp_path / "notes.txt")
    with pytest.raises(CheckpointError, match="nothing matches"):
        open_run(tmp_path / "*.nothing")
    for name in ("a.pt", "b.pt", "c.pt"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"a\.pt: is empty .* \(and 2 more"):
        open_run(tmp_path)


def test_an_unreadable_file_is_an_error_like_any_other(tmp_path, monkeypatch):
    torch.save(weights(0), tmp_path / "step_1.pt")

    def refuse(self, *_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(CheckpointError, match="Permission denied"):
        open_run(tmp_path)


def test_fingerprints_follow_contents_and_time(tmp_path):
    path = tmp_path / "step_1.safetensors"
    save_file(weights(1), path)
    first = open_run(path)[0].fingerprint()
    assert open_run(path)[0].fingerprint() == first
    stamp = path.stat().st_mtime_ns
    save_file(weights(2), path)
    os.utime(path, ns=(stamp, stamp))
    assert open_run(path)[0].fingerprint() != first


def test_checkpoints_travel_to_other_processes(tmp_path):
    torch.save(weights(1), tmp_path / "step_1.pt")
    (tmp_path / "step_2.pt").write_bytes(b"")
    torch.save({"lr": 0.1}, tmp_path / "none.pt")
    run = pickle.loads(pickle.dumps(open_run(tmp_path)))
    assert isinstance(run[0], Checkpoint)
    assert run[0].tensor("w").tolist() == [1, 1, 1]
    assert "is empty" in str(run[1].broken)
    assert len(run.problems) == 2


def test_nothing_is_read_but_what_is_asked_for(tmp_path):
    """Every byte that belongs to no tensor asked for may be lost after the listing."""
    save_file({"a": torch.ones(1000), "b": torch.full((1000,), 2.0)}, tmp_path / "step_1.safetensors")
    (checkpoint,) = open_run(tmp_path)
    stamp = checkpoint.path.stat().st_mtime_ns
    data = checkpoint.path.read_bytes()
    checkpoint.path.write_bytes(bytes(len(data) - 4000) + data[-4000:])
    os.utime(checkpoint.path, ns=(stamp, stamp))
    assert checkpoint.tensor("b").tolist() == [2.0] * 1000
    assert checkpoint.tensor("a").tolist() == [0.0] * 1000
