"""The script for the GPU machine runs to its end here, in its dry form: it cannot rot."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks/gpu_check.py"


def test_dry_run():
    run = subprocess.run([sys.executable, "-W", "ignore", str(SCRIPT), "--dry"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads(run.stdout)
    assert found["backend"]["name"] == "triton"
    assert found["correct"]
    assert all(found["correct"].values())
    assert {row["operation"] for row in found["kernels"]} >= {"fine_histogram", "moments", "quantize_dequantize"}
    assert {row["instead"] for row in found["sixteen steps"]} >= {"torch.histc, 8192 bins", "round + torch.unique"}
    assert found["grouped"][0]["tensors"] == 3
    assert found["analyze"]["weights"] > 0
    assert found["regulariser"].keys() == {"the paper's network"}
    assert all(size > 0 for name, sizes in found["search"].items() if name.endswith("bytes") for size in sizes)
    assert len(found["search"]) >= 3
