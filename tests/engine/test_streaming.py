"""The way to a GPU, taken on a CPU: what arrives, how far ahead, and what becomes of errors."""

import threading

import pytest
import torch
from kolmogram.engine import statistics
from kolmogram.engine.statistics import tensor_statistics
from kolmogram.engine.streaming import Upload, ahead

DEVICE = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_what_is_sent_arrives(dtype):
    upload = Upload(DEVICE, buffer_bytes=64)
    shapes = [(33, 7), (), (0, 3), (1,), (8,)]
    sent = [torch.randn(shape).to(dtype) for shape in shapes] + [torch.randn(4, 6).to(dtype).T]
    received = upload.arrived([upload(tensor) for tensor in sent])
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
    Upload(DEVICE, buffer_bytes=4)(torch.arange(3.0))
    (_, first), _, (_, second), _, (_, third), _ = log
    assert [what for what, _ in log] == ["waited", "sent"] * 3
    assert first == third != second


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
    monkeypatch.setattr(statistics, "GROUP_BYTES", 5_000)
    streamed = list(tensor_statistics(tensors.items()))
    for a, b in zip(plain, streamed, strict=True):
        assert (a.name, a.moments, a.entropy_bits.tolist()) == (b.name, b.moments, b.entropy_bits.tolist())
        assert a.singular_values.tolist() == b.singular_values.tolist()
