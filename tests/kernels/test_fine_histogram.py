"""The Triton fine histogram counts exactly as the reference, all tensors in one launch."""

import pytest
import torch
from kolmogram.kernels import cpu, interpreter, reference
from kolmogram.kernels.fine_histogram import fine_histogram

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)


@DTYPES
@pytest.mark.parametrize(("shared", "programs"), [(True, 5), (False, 1)], ids=["shared", "global"])
def test_equals_reference(dtype, shared, programs, device, cases):
    named = cases(dtype)
    tensors = [w.to(device) for w in named.values()]
    before = [w.clone() for w in tensors]
    bases = torch.full((len(tensors),), reference.DEFAULT_BASE, dtype=torch.int32)
    bases[0] += 300
    interpreter.increments.clear()
    counts = fine_histogram(tensors, bases, programs, shared)
    for name, w, base, row in zip(named, tensors, bases.tolist(), counts, strict=True):
        assert torch.equal(row, reference.fine_histogram(w, base)), name
    for w, b in zip(tensors, before, strict=True):
        assert torch.equal(w.view(torch.uint8), b.view(torch.uint8))
    if device.type == "cpu":
        assert bool(interpreter.increments) == shared


@DTYPES
def test_cpu_equals_reference(dtype, cases):
    for name, w in cases(dtype).items():
        counts, base = cpu.fine_histogram(w)
        assert torch.equal(counts, reference.fine_histogram(w, base)), name
