import json

import pytest
import torch
from huggingface_hub import save_torch_state_dict
from kolmogram.engine.checkpoints import open_run
from kolmogram.engine.errors import CheckpointError
from safetensors.torch import save_file

STATE = {f"layers.{index}.weight": torch.full((50, 10), float(index)) for index in range(6)}
KINDS = {"safetensors": True, "bin": False}


@pytest.fixture(params=KINDS)
def folder(request, tmp_path):
    save_torch_state_dict(STATE, tmp_path, safe_serialization=KINDS[request.param], max_shard_size=4500)
    assert len(list(tmp_path.glob("*-of-00003.*"))) == 3
    return tmp_path


def index_of(folder):
    (path,) = folder.glob("*.index.json")
    return path


def test_shards_are_one_checkpoint(folder, assert_same):
    (checkpoint,) = open_run(folder)
    assert_same(checkpoint, STATE)
    assert checkpoint.format in {"sharded safetensors", "sharded torch"}


def test_without_their_index_too(folder, assert_same):
    index_of(folder).unlink()
    (checkpoint,) = open_run(folder)
    assert_same(checkpoint, STATE)


def test_the_index_alone_and_a_glob_open_the_same(folder, assert_same):
    assert_same(open_run(index_of(folder))[0], STATE)
    (checkpoint,) = open_run(f"{folder}/*-of-*")
    assert_same(checkpoint, STATE)


def test_a_missing_shard_is_named(folder):
    shard = sorted(folder.glob("*-00002-of-*"))[0]
    shard.unlink()
    with pytest.raises(CheckpointError, match=f"shard '{shard.name}' is missing"):
        open_run(folder)
    index_of(folder).unlink()
    with pytest.raises(CheckpointError, match=f"shard '{shard.name}' is missing"):
        open_run(folder)


def test_an_index_left_beside_the_whole_model_is_no_checkpoint(tmp_path):
    save_file(STATE, tmp_path / "model.safetensors")
    index = {"weight_map": dict.fromkeys(STATE, "model-00001-of-00002.safetensors")}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    run = open_run(tmp_path)
    assert [checkpoint.path.name for checkpoint in run] == ["model.safetensors"]
    assert not run.problems


def test_no_shard_at_all_is_an_error_too(folder):
    for shard in folder.glob("*-of-*"):
        shard.unlink()
    with pytest.raises(CheckpointError, match="missing"):
        open_run(folder)


@pytest.mark.parametrize("given", [lambda folder: folder, index_of], ids=["folder", "index"])
def test_the_fingerprint_covers_every_shard(folder, given):
    (checkpoint,) = open_run(given(folder))
    before = checkpoint.fingerprint()
    assert before == open_run(given(folder))[0].fingerprint()
    for shard in folder.glob("*-of-*"):
        data = bytearray(shard.read_bytes())
        data[-1] ^= 1
        shard.write_bytes(data)
        after = checkpoint.fingerprint()
        assert after != before
        before = after


def edited(folder, change):
    path = index_of(folder)
    index = json.loads(path.read_text())
    path.write_text(json.dumps(change(index)))
    return folder


@pytest.mark.parametrize(
    "shard", ["../secret.safetensors", "/etc/passwd", "..", "", "a/b.safetensors", "a\\b", None, 3]
)
def test_an_index_cannot_point_out_of_its_folder(folder, shard):
    with pytest.raises(CheckpointError, match="not a file beside it"):
        open_run(edited(folder, lambda index: index | {"weight_map": index["weight_map"] | {"x": shard}}))


@pytest.mark.parametrize("index", [[], {}, {"weight_map": {}}, {"weight_map": [1]}])
def test_an_index_without_a_map_is_an_error(folder, index):
    with pytest.raises(CheckpointError, match="weight_map"):
        open_run(edited(folder, lambda _: index))


def test_a_tensor_that_no_shard_holds_is_an_error(folder):
    def change(index):
        shard = next(iter(index["weight_map"].values()))
        return index | {"weight_map": index["weight_map"] | {"lost": shard}}

    with pytest.raises(CheckpointError, match="'lost' is in none"):
        open_run(edited(folder, change))


def test_a_tensor_that_the_index_does_not_know_is_skipped(folder):
    def change(index):
        index["weight_map"].pop("layers.0.weight")
        return index

    (checkpoint,) = open_run(edited(folder, change))
    assert set(checkpoint.names()) == STATE.keys() - {"layers.0.weight"}
    assert checkpoint.skipped.keys() == {"layers.0.weight"}
