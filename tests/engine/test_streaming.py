"""The way to a GPU, taken on a CPU: what arrives, how far ahead, and what becomes of errors."""

import threading

import pytest
import torch
from kolmogram.engine import statistics
from kolmogram.engine.checkpoints import open_run
from kolmogram.engine.errors import CheckpointError
from kolmogram.engine.statistics import tensor_statistics
from kolmogram.engine.streaming import Upload, ahead, streamed
from safetensors.torch import save_file

DEVICE = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_what_is_sent_arrives(dtype):
    upload = Upload(DEVICE, threads=3, piece_bytes=64)
    shapes = [(33, 7), (), (0, 3), (1,), (8,)]
    sent = [torch.randn(shape).to(dtype) for shape in shapes] + [torch.randn(4, 6).to(dtype).T]
    received = [tensor for _, tensor in upload([(str(i), tensor) for i, tensor in enumerate(sent)])]
    upload.arrival()()
    for tensor, copy in zip(sent, received, strict=True):
        assert torch.equal(tensor, copy)
        assert copy.is_contiguous()
        assert copy.dtype == dtype
        assert not copy.numel() or copy.data_ptr() != tensor.data_ptr()


def test_a_buffer_is_filled_again_only_when_it_has_been_sent(monkeypatch):
    log = []

    class Event:
        def record(self, stream):
            log.append(("sent", id(self)))

        def synchronize(self):
            log.append(("waited", id(self)))

    monkeypatch.setattr(torch.cpu, "Event", Event)
    upload = Upload(DEVICE, threads=2, piece_bytes=4)
    upload([("w", torch.arange(30.0))])
    upload.arrival()()
    *log, _, _ = log  # the last two are of the arrival
    buffers = {buffer for _, buffer in log}
    assert 1 <= len(buffers) <= 2
    for buffer in buffers:
        of_one = [what for what, b in log if b == buffer]
        assert of_one == ["waited", "sent"] * (len(of_one) // 2)
    assert len(log) == 2 * 256 // 4  # a tensor takes multiples of 256 bytes


def test_pieces_are_read_from_the_file(tmp_path, monkeypatch):
    w = {"a": torch.randn(100, 7).bfloat16(), "b": torch.randn(3), "t": torch.randn(4, 6).T, "none": torch.zeros(0, 2)}
    torch.save(w, tmp_path / "step-1.pt")
    (checkpoint,) = open_run(tmp_path)
    monkeypatch.setattr(Upload, "_send", _counted(Upload._send, calls := []))
    with Upload(DEVICE, threads=4, piece_bytes=64) as upload:
        received = dict(upload(list(checkpoint.unread())))
        upload.arrival()()
    assert received.keys() == w.keys()
    assert all(torch.equal(received[name], w[name]) for name in w)
    assert len(calls) == (1536 + 256 + 256) // 64  # each tensor begins on 256 bytes


def _counted(function, calls):
    def wrapper(*args):
        calls.append(args)
        return function(*args)

    return wrapper


def test_a_file_that_shrinks_on_the_way_is_an_error(tmp_path):
    save_file({"w": torch.randn(1000)}, tmp_path / "step-1.safetensors")
    (checkpoint,) = open_run(tmp_path)
    unread = list(checkpoint.unread())
    (tmp_path / "step-1.safetensors").write_bytes(b"gone")
    with pytest.raises(CheckpointError, match="changed while it was being read"):
        list(streamed([unread], DEVICE))


def test_the_next_groups_are_on_their_way():
    groups = [[(f"t{i}", torch.full((3,), float(i)))] for i in range(5)]
    taken = []

    def given():
        for i, group in enumerate(groups):
            taken.append(i)
            yield group

    for i, ((name, tensor),) in enumerate(streamed(given(), DEVICE)):
        assert (name, tensor.tolist()) == (f"t{i}", [float(i)] * 3)
        assert len(taken) <= i + 4  # this one, one arrived, one sent for, and the thread may be about to wait
    assert len(taken) == 5


def test_one_is_made_while_another_is_used():
    reached = [threading.Event() for _ in range(4)]

    def make():
        for i, event in enumerate(reached):
            event.set()
            yield i

    found = []
    for i in ahead(make()):
        if i < 3:
            assert reached[i + 1].wait(10)  # without this one being finished
        assert not any(event.is_set() for event in reached[i + 2 :])
        found.append(i)
    assert found == [0, 1, 2, 3]


def test_an_error_comes_when_its_item_would():
    def make():
        yield 1
        raise OSError("cut off")

    items = ahead(make())
    assert next(items) == 1
    with pytest.raises(OSError, match="cut off"):
        next(items)


def test_statistics_are_the_same(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    tensors = {f"t{i}": torch.randn(20, 30 + i, generator=generator) for i in range(5)}
    tensors["narrow"] = torch.randn(9, 9).to(torch.float8_e4m3fn)
    plain = list(tensor_statistics(tensors.items()))
    monkeypatch.setattr(statistics, "STREAMED", ("cpu",))
    monkeypatch.setattr(statistics, "STREAMED_GROUP_BYTES", 5_000)
    streamed = list(tensor_statistics(tensors.items()))
    for a, b in zip(plain, streamed, strict=True):
        assert (a.name, a.moments, a.entropy_bits.tolist()) == (b.name, b.moments, b.entropy_bits.tolist())
        assert a.singular_values.tolist() == b.singular_values.tolist()
