"""On the CPU weights are taken in chunks, by several threads."""

import pytest
import torch
from kolmogram.kernels import cpu, reference


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("threads", [1, 3])
def test_chunks_and_threads_make_up_the_whole(dtype, threads, monkeypatch):
    monkeypatch.setattr(cpu, "CHUNK", 1000)
    monkeypatch.setattr(cpu, "GRAIN", 1000)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    w = (torch.randn(10_001, generator=torch.Generator().manual_seed(1)) * 0.02).to(dtype)
    counts, base = cpu.fine_histogram(w)
    assert torch.equal(counts, reference.fine_histogram(w, base))
    assert vars(cpu.moments(w)) == pytest.approx(vars(reference.moments(w)), rel=1e-12, abs=1e-15)
