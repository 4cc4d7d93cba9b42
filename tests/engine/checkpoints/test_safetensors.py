import json
import os
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kolmogram.engine.checkpoints import open_run
from kolmogram.engine.checkpoints.readers.safetensors import _DTYPES
from kolmogram.engine.errors import CheckpointError
from safetensors.torch import _TYPES, load, save, save_file


def write(path, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def test_every_dtype_and_shape_comes_back_bit_for_bit(tmp_path, state, assert_same):
    save_file(state, tmp_path / "model.safetensors")
    (checkpoint,) = open_run(tmp_path)
    assert_same(checkpoint, state)
    assert checkpoint.format == "safetensors"
    assert not checkpoint.skipped
    assert not checkpoint.aliases


def test_every_dtype_the_library_knows_is_read():
    assert _DTYPES.items() >= _TYPES.items()


def test_names_come_in_file_order(tmp_path):
    save_file(
        {"b": torch.zeros(2), "a": torch.zeros(2), "c": torch.zeros(1, dtype=torch.float64)}, tmp_path / "m.safetensors"
    )
    header = json.loads((tmp_path / "m.safetensors").read_bytes()[8:].split(b"}}")[0] + b"}}")
    (checkpoint,) = open_run(tmp_path)
    assert checkpoint.names() == tuple(sorted(header, key=lambda name: header[name]["data_offsets"]))
    assert checkpoint.names() == ("c", "a", "b")


def test_step_and_numbers_come_from_the_metadata(tmp_path):
    save_file({"w": torch.zeros(2)}, tmp_path / "step-00000007.safetensors", {"step": "70", "epoch": "3", "by": "us"})
    (checkpoint,) = open_run(tmp_path)
    assert checkpoint.step == 70
    assert checkpoint.metrics == {"epoch": 3.0}


def test_a_dtype_without_torch_equivalent_is_skipped_by_name(tmp_path):
    header = {
        "known": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        "unknown": {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [4, 7]},
    }
    write(tmp_path / "m.safetensors", header, bytes(7))
    (checkpoint,) = open_run(tmp_path)
    assert checkpoint.names() == ("known",)
    assert "F6_E2M3" in checkpoint.skipped["unknown"]


def test_empty_tensors_are_not_tied(tmp_path):
    save_file({"a": torch.zeros(0, 3), "b": torch.zeros(0, 3), "w": torch.ones(1)}, tmp_path / "m.safetensors")
    (checkpoint,) = open_run(tmp_path)
    assert set(checkpoint.names()) == {"a", "b", "w"}
    assert not checkpoint.aliases


ONE = {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
BROKEN = {
    "empty": (b"", "is empty"),
    "shorter than a length": (b"\x01\x02", "truncated"),
    "text": (b"hello, I am not a tensor", "not a safetensors file"),
    "git lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
    "absurd header length": (struct.pack("<Q", 2**63) + b"{}", "not a safetensors file"),
    "header past the end": (struct.pack("<Q", 1000) + b"{}", "truncated"),
}
LYING = {
    "truncated": (ONE, bytes(4), "truncated"),
    "longer": (ONE, bytes(12), "longer than its header says"),
    "wrong size": ({"w": ONE["w"] | {"shape": [3]}}, bytes(8), "'w'"),
    "hole": ({"w": ONE["w"] | {"data_offsets": [4, 12]}}, bytes(12), "hole"),
    "overlap": (ONE | {"v": ONE["w"] | {"data_offsets": [4, 12]}}, bytes(12), "overlap"),
    "negative shape": ({"w": ONE["w"] | {"shape": [-1, -2]}}, bytes(8), "impossible"),
    "huge shape": ({"w": ONE["w"] | {"shape": [2**40, 2**40]}}, bytes(8), "impossible"),
    "fractional shape": ({"w": ONE["w"] | {"shape": [2.0]}}, bytes(8), "impossible"),
    "no dtype": ({"w": {"shape": [2], "data_offsets": [0, 8]}}, bytes(8), "no dtype"),
    "no offsets": ({"w": {"dtype": "F32", "shape": [2]}}, bytes(8), "'w'"),
    "reversed offsets": ({"w": ONE["w"] | {"data_offsets": [8, 0]}}, bytes(8), "'w'"),
    "metadata not an object": (ONE | {"__metadata__": [1]}, bytes(8), "not a JSON object"),
    "not JSON": (b"{oops", b"", "JSONDecodeError"),
    "nested without end": (b'{"a":' + b"[" * 100_000, b"", "failed"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_give_one_line(tmp_path, case):
    data, words = BROKEN[case]
    path = tmp_path / "m.safetensors"
    path.write_bytes(data)
    assert_one_line(path, words)


@pytest.mark.parametrize("case", LYING)
def test_lying_headers_give_one_line(tmp_path, case):
    header, data, words = LYING[case]
    assert_one_line(write(tmp_path / "m.safetensors", header, data), words)


def assert_one_line(path, words):
    with pytest.raises(CheckpointError) as caught:
        open_run(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert words in message
    assert "\n" not in message


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damage_anywhere_is_an_error_or_harmless_and_agrees_with_the_library(tmp_path_factory, data):
    whole = save({"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3, dtype=torch.bfloat16)}, {"step": "5"})
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = data.draw(
        st.sampled_from([whole[:at], whole[:at] + bytes([data.draw(st.integers(0, 255))]) + whole[at + 1 :]])
    )
    path = tmp_path_factory.mktemp("damage") / "m.safetensors"
    path.write_bytes(damaged)
    try:
        (checkpoint,) = open_run(path)
        ours = dict(checkpoint.items())
    except CheckpointError:
        return
    if checkpoint.skipped:  # a dtype that the library refuses with the whole file
        return
    theirs = load(damaged)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype
        assert torch.equal(tensor.reshape(-1).view(torch.uint8), theirs[name].reshape(-1).view(torch.uint8))


@pytest.mark.parametrize("size", [2, 3], ids=["as large", "larger"])
def test_a_file_that_changes_under_us_is_an_error(tmp_path, size):
    path = tmp_path / "m.safetensors"
    save_file({"w": torch.zeros(2)}, path)
    (checkpoint,) = open_run(path)
    stamp = path.stat().st_mtime_ns
    save_file({"w": torch.ones(size)}, path)
    os.utime(path, ns=(stamp, stamp + 1))
    with pytest.raises(CheckpointError, match="changed"):
        checkpoint.tensor("w")


def test_an_unknown_name_is_an_error(tmp_path):
    save_file({"w": torch.zeros(2)}, tmp_path / "m.safetensors")
    (checkpoint,) = open_run(tmp_path)
    with pytest.raises(CheckpointError, match="no tensor 'v'"):
        checkpoint.info("v")
