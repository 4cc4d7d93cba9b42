"""Peak memory of `analyze` on a CPU, without a task: twice the largest tensor as float32 and 500 MB more, at most."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

MEASURE = """
import sys
from kolmogram.engine.analysis import analyze

def peak():  # of this process alone: ru_maxrss would start at the parent's
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM:"))

for path in sys.argv[1:]:
    table = analyze(path, out=path + ".out", device="cpu")
    assert table["status"] == ["ok"], table["status"]
    print(peak())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory(tmp_path):
    weights = torch.randn(500_000, 64, generator=torch.Generator().manual_seed(0))
    largest = weights.nbytes
    save_file({"w": weights[:64].clone()}, tmp_path / "small.safetensors")
    for name, dtype in (("half", torch.bfloat16), ("full", torch.float32)):
        state = {"embed": weights.to(dtype), "other": weights[::2].to(dtype), "bias": torch.zeros(64)}
        save_file({key: tensor.contiguous() for key, tensor in state.items()}, tmp_path / f"{name}.safetensors")
    paths = [str(tmp_path / f"{name}.safetensors") for name in ("small", "half", "full")]
    result = subprocess.run([sys.executable, "-c", MEASURE, *paths], capture_output=True, text=True, check=True)
    before, half, full = map(int, result.stdout.split())
    assert full <= 2 * largest + 500 * 2**20
    # The tensor and little of its size beside it; the 500 MB, which are mostly torch, hide nothing.
    assert half - before <= 1.5 * largest
    assert full - before <= 1.75 * largest
