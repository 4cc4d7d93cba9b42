"""The files that torch.save writes, as archives and streams of bytes: what is damaged in them is found."""

import io
import struct
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kolmogram.engine.checkpoints import open_run
from kolmogram.engine.errors import CheckpointError

from .test_torch_save import CONTAINERS


def test_checksums_may_be_off(tmp_path, assert_same):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.ones(3)}, tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert_same(open_run(tmp_path)[0], {"w": torch.ones(3)})


def test_a_structure_that_is_damaged_but_can_be_parsed_is_an_error(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"weight": torch.ones(3)}, path)
    path.write_bytes(path.read_bytes().replace(b"weight", b"wright"))
    with pytest.raises(CheckpointError, match=r"data\.pkl is damaged \(checksum\)"):
        open_run(tmp_path)


def test_compressed_records_are_refused(tmp_path):
    torch.save({"w": torch.zeros(1000)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as old,
        zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(CheckpointError, match="compressed"):
        open_run(tmp_path / "a.pt")


def test_encrypted_records_are_refused(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"w": torch.ones(3)}, path)
    data, at = bytearray(path.read_bytes()), 0
    while (at := data.find(b"PK\x01\x02", at)) >= 0:  # entries of the directory
        data[at + 8] |= 1
        at += 4
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="compressed or encrypted"):
        open_run(tmp_path)


@pytest.mark.parametrize("container", CONTAINERS)
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damage_anywhere_is_an_error_or_harmless(tmp_path_factory, container, data):
    stream = io.BytesIO()
    payload = {
        "model": {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3).bfloat16()},
        "iter_num": 3,
        "args": Path("x"),
    }
    torch.save(payload, stream, _use_new_zipfile_serialization=CONTAINERS[container])
    whole = stream.getvalue()
    at = data.draw(st.integers(0, len(whole) - 1))
    flipped = whole[:at] + bytes([data.draw(st.integers(0, 255))]) + whole[at + 1 :]
    path = tmp_path_factory.mktemp("damage") / "a.pt"
    path.write_bytes(data.draw(st.sampled_from([flipped, whole[:at]])))
    with suppress(CheckpointError):  # and nothing else
        for _, tensor in open_run(path)[0].items():
            assert tensor.numel() < 1000


def test_truncated_streams_are_named(tmp_path):
    torch.save({"w": torch.ones(10)}, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    data = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(data[:-1])
    with pytest.raises(CheckpointError, match="truncated"):
        open_run(tmp_path)
    (tmp_path / "a.pt").write_bytes(data[:-48] + struct.pack("<Q", 2**60) + data[-40:])
    with pytest.raises(CheckpointError, match="truncated or lies"):
        open_run(tmp_path)
