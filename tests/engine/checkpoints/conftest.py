"""One state in every dtype, and helpers that compare what was written with what is read."""

import pytest
import torch

FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64)


@pytest.fixture
def state():
    """Names and tensors of every dtype and awkward shape that a checkpoint may hold."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 6, generator=generator)
    tensors = {"weight": weight, "double": weight.double(), "half": weight.half(), "bf16": weight.bfloat16()}
    tensors |= {f"f8.{index}": weight.to(dtype) for index, dtype in enumerate(FLOAT8)}
    tensors |= {f"int.{index}": torch.arange(5).to(dtype) for index, dtype in enumerate(INTEGERS)}
    tensors |= {
        "bool": torch.tensor([True, False, True]),
        "complex": torch.complex(weight, weight),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "special": torch.tensor([float("nan"), float("inf"), -0.0]),
        "deep": torch.randn(2, 3, 4, 5, generator=generator),
    }
    return tensors


@pytest.fixture
def assert_same():
    """Compare a checkpoint with the state it was written from: names, order apart, and every bit of every tensor."""

    def compare(checkpoint, expected):
        assert set(checkpoint.names()) == set(expected)
        for name, tensor in checkpoint.items():
            info = checkpoint.info(name)
            wanted = expected[name].detach().contiguous()
            assert (info.name, info.shape, info.dtype) == (name, tuple(wanted.shape), wanted.dtype), name
            assert info.nbytes == wanted.numel() * wanted.element_size(), name
            assert (tensor.shape, tensor.dtype) == (wanted.shape, wanted.dtype), name
            assert tensor.is_contiguous(), name
            assert bits(tensor) == bits(wanted), name

    return compare


def bits(tensor):
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
