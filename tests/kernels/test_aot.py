"""The machine code of every kernel, read without a GPU: what the design counts on is really there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import triton

SCRIPT = Path(__file__).with_name("machine_code.py")
# Triton version → opcodes; they were read in the machine code of each.
SHARED_INCREMENT = {"3.6.0": "ATOMS.POPC.INC.32", "3.7.1": "ATOMS.POPC.INC.32"}
GLOBAL_ADD = {
    ("3.6.0", "sm_80"): "RED.E.ADD.64.STRONG.GPU",
    ("3.6.0", "sm_90"): "REDG.E.ADD.64.STRONG.GPU",
    ("3.7.1", "sm_80"): "RED.E.ADD.64.STRONG.GPU",
    ("3.7.1", "sm_90"): "REDG.E.ADD.64.STRONG.GPU",
}
SLOW_IN_HOT_LOOP = ("MEMBAR", "ERRBAR", "BAR", "ATOMG", "RED", "LDL", "STL", "CCTL")
REGISTERS = {"fine_histogram": 32, "quantize": 64, "rates": 224, "moments": 128, "exact_rates": 224, "latents": 64}
SHARED_BYTES = {
    "fine_histogram": 33_792,
    "quantize": 33_920,
    "rates": 2_048,
    "moments": 2_048,
    "exact_rates": 33_920,
    "latents": 2_048,
}
FLUSHES = {"fine_histogram": 8, "quantize": 16}  # of one thread: 8192 counters among 1024 or 512


@pytest.fixture(scope="module")
def compilations() -> dict[str, subprocess.Popen]:
    """All targets at once, in processes that do not interpret."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    return {
        target: subprocess.Popen(
            [sys.executable, str(SCRIPT), target],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for target in ("sm_80", "sm_90", "gfx942")
    }


def machine_code(compilation: subprocess.Popen) -> dict:
    out, errors = compilation.communicate()
    assert compilation.returncode == 0, errors[-2000:]
    return json.loads(out)["kernels"]


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_nvidia(target, compilations):
    if triton.__version__ not in SHARED_INCREMENT:
        pytest.skip(f"no opcodes are on record for Triton {triton.__version__}: read them and add them here")
    increment, add = SHARED_INCREMENT[triton.__version__], GLOBAL_ADD[triton.__version__, target]
    for name, code in machine_code(compilations[target]).items():
        kind = name.split()[0]
        assert code["spilled"] == 0, name
        assert code["registers"] <= REGISTERS[kind], (name, code["registers"])
        assert code["shared"] <= SHARED_BYTES[kind], (name, code["shared"])
        if kind not in ("fine_histogram", "quantize"):
            continue
        hot = code["hot"]
        weights = 8  # of one thread in one turn
        loads = weights * (4 if "fp32" in name else 2) // 16
        assert hot[increment] == weights, (name, hot)
        assert hot["LDG.E.128"] == loads, (name, hot)
        assert not [op for op in hot if op.startswith(SLOW_IN_HOT_LOOP)], (name, hot)
        assert code["all"][add] == FLUSHES[kind], name
        assert not [op for op in code["all"] if op.startswith(("MEMBAR", "ATOMG", "CCTL"))], name
        if kind == "fine_histogram":
            assert {op for op in hot if op.startswith("LDG")} == {"LDG.E.128"}, (name, hot)
            assert sum(hot.values()) < 11 * weights, (name, sum(hot.values()))
        else:
            # x = w · (1/Δ) must be rounded before anything is taken from it, and small weights are weights.
            assert not [op for op in code["all"] if op.startswith("FFMA") or op in ("FMUL.FTZ", "FADD.FTZ")], name
            assert hot.get("STG.E.128", 0) == (loads if name.endswith("write") else 0), (name, hot)


@pytest.mark.slow
def test_amd_compiles_the_safe_path(compilations):
    code = machine_code(compilations["gfx942"])
    assert {name.split()[0] for name in code} == {"fine_histogram", "quantize", "rates", "moments", "latents"}
    assert all(kernel["bytes"] > 0 for kernel in code.values())
