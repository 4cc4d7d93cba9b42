"""Quantising kernels, Triton and CPU, give the reference's symbols, counts and weights bit for bit."""

import pytest
import torch
from kolmogram.kernels import cpu, reference
from kolmogram.kernels import quantize as module
from kolmogram.kernels.quantize import BLOCK, launch, quantize

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
STEPS = (0.003, 2.0**-6, 40.0, 1e-9)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


def check(found, expected, name, exact=True):
    (held, histogram), (expected_held, expected_histogram) = found, expected
    assert torch.equal(histogram.counts, expected_histogram.counts), name
    assert histogram.nonfinite == expected_histogram.nonfinite, name
    assert histogram.squared_error == pytest.approx(expected_histogram.squared_error, rel=1e-6, abs=1e-30), name
    if exact:
        assert same_bits(held, expected_held), name


@DTYPES
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "global"])
def test_triton_equals_reference(dtype, shared, device, cases):
    # The interpreter cuts float32 to bfloat16 where the GPU rounds.
    exact = dtype != torch.bfloat16 or device.type == "cuda"
    for name, w in cases(dtype).items():
        w, before = w.to(device), w.clone()
        for step in STEPS[::2] if shared else STEPS[1::2]:
            steps = torch.tensor(step, device=device)
            found = quantize(w, steps, -1, True, 3, shared)
            check(found, reference.quantize_dequantize(w, step), (name, step), exact)
        assert same_bits(w.cpu(), before)


@DTYPES
@pytest.mark.parametrize("axis", [0, 1])
def test_triton_steps_per_row_and_column(dtype, axis, device):
    w = torch.randn(67, 301, generator=torch.Generator().manual_seed(1)).to(device, dtype)
    shape = (67, 1) if axis == 0 else (1, 301)
    steps = torch.rand(shape, generator=torch.Generator().manual_seed(2)).to(device) + 0.01
    found = quantize(w, steps, axis, False, 3, True)
    check(found, reference.quantize_dequantize(w, steps), axis, exact=False)


def test_no_program_has_more_weights_than_its_offsets_can_tell(device, monkeypatch):
    monkeypatch.setattr(module, "LONGEST", 2 * BLOCK)
    w = (torch.randn(5 * BLOCK, generator=torch.Generator().manual_seed(1)) * 0.02).to(device)
    held, counts, errors = launch(w, torch.tensor(0.003, device=device), -1, True, 1, True)
    assert len(errors) == 3
    assert int(counts[: reference.LEVELS].sum()) == len(w)
    assert torch.equal(held, reference.quantize(w, 0.003)[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_cpu_equals_reference(dtype, cases):
    for name, w in cases(dtype if dtype != torch.float64 else torch.float32).items():
        w = w.to(dtype)
        for step in STEPS:
            found = cpu.quantize_dequantize(w, torch.tensor(step), True)
            check(found, reference.quantize_dequantize(w, step), (name, step))


def test_cpu_steps_per_row_and_column():
    w = torch.randn(301, 67, generator=torch.Generator().manual_seed(1)).T
    for shape in ((67, 1), (1, 301)):
        steps = torch.rand(shape, generator=torch.Generator().manual_seed(2)) + 0.01
        check(cpu.quantize_dequantize(w, steps, True), reference.quantize_dequantize(w, steps), shape)


def test_cpu_tiles_make_up_the_whole(monkeypatch):
    monkeypatch.setattr(cpu, "CHUNK", 1000)
    w = torch.randn(37, 301, generator=torch.Generator().manual_seed(1)) * 0.02
    for steps in (torch.tensor(0.003), torch.rand(37, 1) + 0.01, torch.rand(1, 301) + 0.01):
        check(cpu.quantize_dequantize(w, steps, True), reference.quantize_dequantize(w, steps), steps.shape)


def test_ties_go_up():
    w = torch.tensor([-1.5, -0.5, 0.5, 1.5, 0.49999997])
    assert reference.quantize(w, 1.0)[0].tolist() == [-1.0, 0.0, 1.0, 2.0, 0.0]
