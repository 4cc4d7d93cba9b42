"""The Triton fine histogram counts exactly as the reference, all tensors in one launch."""

import itertools

import pytest
import torch
from kolmogram.kernels import cpu, interpreter, reference
from kolmogram.kernels.fine_histogram import _segments, fine_histogram

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


def test_segments_share_out_every_weight_once():
    tensors = [torch.zeros(n) for n in (0, 1, 100_000, 5, 8_192, 70_001)] + [torch.zeros(50_000)[1:]]
    for programs in (1, 3, 64):
        segments, ranges = _segments(tensors, programs)
        assert ranges[0] == 0
        assert ranges[-1] == len(segments)
        assert ranges == sorted(ranges)
        assert len(ranges) == programs + 1
        for row, tensor in enumerate(tensors):
            mine = [(address + 4 * first, end - first) for address, first, end, r in segments if r == row]
            assert all(address % 16 == 0 for address, *_ in segments)
            position = tensor.data_ptr()
            for address, count in mine:
                assert address == position
                position += 4 * count
            assert position == tensor.data_ptr() + 4 * tensor.numel()
        share = max(sum(e - f for _, f, e, _ in segments[a:b]) for a, b in itertools.pairwise(ranges))
        assert share <= sum(t.numel() for t in tensors) / programs + 3 * 8_192
