import io
import os
import pickle
import zipfile
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kolmogram.engine.checkpoints import open_run
from kolmogram.engine.checkpoints.readers import npz
from kolmogram.engine.checkpoints.stored import Span
from kolmogram.engine.errors import CheckpointError

WRITERS = {"plain": np.savez, "deflated": np.savez_compressed}


@pytest.fixture(params=WRITERS)
def write(request):
    return WRITERS[request.param]


def arrays(state):
    known = {name: tensor for name, tensor in state.items() if name != "bf16" and not name.startswith("f8")}
    return {name: tensor.numpy() for name, tensor in known.items()}


def test_every_dtype_and_shape_comes_back_bit_for_bit(tmp_path, state, assert_same, write):
    write(tmp_path / "weights.npz", **arrays(state))
    (checkpoint,) = open_run(tmp_path)
    assert_same(checkpoint, {name: torch.from_numpy(array) for name, array in arrays(state).items()})
    assert checkpoint.format == "npz"


def test_fortran_order_and_big_endian_give_the_same_values(tmp_path, assert_same, write):
    cube = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    write(
        tmp_path / "w.npz",
        f=np.asfortranarray(cube),
        big=cube.astype(">f4"),
        both=np.asfortranarray(cube.astype(">i2")),
    )
    expected = torch.from_numpy(cube)
    assert_same(open_run(tmp_path)[0], {"f": expected, "big": expected, "both": expected.short()})


def test_plain_members_are_read_in_place_and_deflated_ones_are_not(tmp_path):
    for name, writer in WRITERS.items():
        writer(tmp_path / f"{name}.npz", w=np.ones(4))
    assert isinstance(npz.read(tmp_path / "plain.npz").tensors["w"], Span)
    assert isinstance(npz.read(tmp_path / "deflated.npz").tensors["w"], npz.Member)


def test_a_scalar_called_step_is_the_step(tmp_path, write):
    write(tmp_path / "w.npz", w=np.ones(2), step=np.int64(300), epoch=2, loss=np.float32(0.5))
    (checkpoint,) = open_run(tmp_path)
    assert checkpoint.step == 300
    assert checkpoint.names() == ("w", "loss")
    assert checkpoint.skipped.keys() == {"step", "epoch"}


def test_a_weight_called_step_is_a_weight(tmp_path):
    np.savez(tmp_path / "w.npz", w=np.ones(2), step=np.float32(0.5))
    (checkpoint,) = open_run(tmp_path)
    assert checkpoint.names() == ("w", "step")
    assert checkpoint.step is None


@pytest.mark.parametrize("version", [(2, 0), (3, 0)])
def test_every_version_of_headers(tmp_path, version):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.arange(6.0).reshape(2, 3), version=version)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("w.npy", stream.getvalue())
    assert open_run(tmp_path)[0].tensor("w").tolist() == [[0, 1, 2], [3, 4, 5]]


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_object_arrays_are_never_unpickled(tmp_path, write):
    touched = tmp_path / "the-pickle-ran"
    write(tmp_path / "a.npz", w=np.ones(2), o=np.array([Hostile(touched)], dtype=object), text=np.array(["a"]))
    (checkpoint,) = open_run(tmp_path)
    assert checkpoint.names() == ("w",)
    assert "pickle" in checkpoint.skipped["o"]
    assert "dtype" in checkpoint.skipped["text"]
    write(tmp_path / "a.npz", o=np.array([Hostile(touched)], dtype=object))
    with pytest.raises(CheckpointError, match="no numeric array"):
        open_run(tmp_path)
    assert not touched.exists()


def test_files_that_are_something_else_give_one_line(tmp_path):
    for content, words in (
        (b"text", "not an npz archive"),
        (pickle.dumps([1]), "not an npz archive"),
        (b"", "is empty"),
    ):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(CheckpointError, match=words):
            open_run(tmp_path)
    np.savez(tmp_path / "a.npz", w=np.ones(100))
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:-30])
    with pytest.raises(CheckpointError, match="truncated"):
        open_run(tmp_path)


def member(shape, data, descr="<f4"):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue() + data


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (member((3,), bytes(8)), "has 8 bytes"),
        (member((2**40, 2**40), bytes(8)), "impossible"),
        (b"\x93NUMPY\x02\x00" + b"\xff\xff\xff\xff" + bytes(100), "header of"),
        (b"not npy at all", "failed"),
    ],
)
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_lying_members_give_one_line(tmp_path, content, words, compression):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", compression) as archive:
        archive.writestr("w.npy", content)
    with pytest.raises(CheckpointError, match=words):
        open_run(tmp_path)


def test_damaged_elements_of_a_deflated_array_are_an_error(tmp_path):
    data = np.arange(1 << 16, dtype=np.float32).tobytes()
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=0) as archive:
        archive.writestr("w.npy", member((1 << 16,), data))
    whole = bytearray((tmp_path / "a.npz").read_bytes())
    whole[whole.index(data[:400]) + 300] ^= 1  # inflates all the same
    (tmp_path / "a.npz").write_bytes(whole)
    (checkpoint,) = open_run(tmp_path)
    with pytest.raises(CheckpointError, match="CRC"):
        checkpoint.tensor("w")


def test_zip_bombs_are_refused_before_they_are_inflated(tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "SUSPICIOUS_SIZE", 1 << 20)
    np.savez_compressed(tmp_path / "a.npz", w=np.zeros(1 << 18))
    with pytest.raises(CheckpointError, match="zip bomb"):
        open_run(tmp_path)
    np.savez_compressed(tmp_path / "a.npz", w=np.random.default_rng(0).standard_normal(1 << 18))
    assert open_run(tmp_path)[0].names() == ("w",)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damage_anywhere_is_an_error_or_harmless(tmp_path_factory, data):
    stream = io.BytesIO()
    data.draw(st.sampled_from([np.savez, np.savez_compressed]))(stream, a=np.arange(6.0).reshape(2, 3), step=4)
    whole = stream.getvalue()
    at = data.draw(st.integers(0, len(whole) - 1))
    flipped = whole[:at] + bytes([data.draw(st.integers(0, 255))]) + whole[at + 1 :]
    path = tmp_path_factory.mktemp("damage") / "a.npz"
    path.write_bytes(data.draw(st.sampled_from([flipped, whole[:at]])))
    with suppress(CheckpointError):  # and nothing else
        for _, tensor in open_run(path)[0].items():
            assert tensor.numel() < 1000
