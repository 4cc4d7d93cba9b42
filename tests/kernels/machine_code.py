"""Compile every Triton kernel ahead of time, without a GPU, and print what the machine code holds, as JSON.

    python machine_code.py sm_80|sm_90|gfx942

Run by test_aot.py in a process of its own: Triton decides at import whether it compiles or interprets.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import triton
import triton.language as tl
from kolmogram.kernels import exact_rates, fine_histogram, latents, moments, quantize, rates
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d+\s+)?([A-Z][A-Z0-9_.]*)(.*?);")
LABEL = re.compile(r"^\s*(\.L_x_\d+):")
_ELEMENTS = {"bf16": "int16", "fp32": "float32", "fp64": "float64"}
TARGETS = {"sm_80": ("cuda", 80, 32), "sm_90": ("cuda", 90, 32), "gfx942": ("hip", "gfx942", 64)}


def kernels(nvidia: bool) -> dict[str, dict[str, Any]]:
    """Name → what to compile it with: the launch of the host function, and which arguments are multiples of 16."""
    made = {}
    for dtype in (tl.int16, tl.float16, tl.float32):
        made[f"fine_histogram {dtype}"] = {
            "fn": fine_histogram._kernel,
            "signature": {"segment_ptr": "*i64", "range_ptr": "*i64", "base_ptr": "*i32", "out_ptr": "*i64"},
            "constants": {
                "DTYPE": dtype,
                "BLOCK": fine_histogram.BLOCK,
                "THREADS": 32 * fine_histogram.WARPS,
                "SHARED": nvidia,
            },
            "aligned": ["segment_ptr", "range_ptr", "base_ptr", "out_ptr"],
            "options": {"num_warps": fine_histogram.WARPS},
        }
    for dtype in ("bf16", "fp16", "fp32"):
        for axis, write in ((-1, False), (-1, True), (0, True), (1, True))[: 1 if dtype == "fp16" else 4]:
            made[f"quantize {dtype} axis {axis}{' write' if write else ''}"] = {
                "fn": quantize._kernel,
                "signature": {
                    "weight_ptr": f"*{dtype}",
                    "step_ptr": "*fp32",
                    "inverse_ptr": "*fp32",
                    "dequantized_ptr": f"*{dtype}",
                    "count_ptr": "*i64",
                    "error_ptr": "*fp64",
                    "n": "i64",
                    "chunk": "i64",
                    "columns": "i32",
                },
                "constants": {
                    "AXIS": axis,
                    "WRITE": write,
                    "BLOCK": quantize.BLOCK,
                    "THREADS": 32 * quantize.WARPS,
                    "SHARED": nvidia,
                },
                "aligned": ["weight_ptr", "dequantized_ptr", "count_ptr", "chunk"],
                "options": {"num_warps": quantize.WARPS, "enable_fp_fusion": False},
            }
    for atoms in (0, 1, 8):
        made[f"rates {atoms}"] = {
            "fn": rates._kernel,
            "signature": {
                "count_ptr": "*i64",
                "prefix_ptr": "*i64",
                "base_ptr": "*i32",
                "step_ptr": "*fp32",
                "inverse_ptr": "*fp32",
                "out_ptr": "*fp64",
                "steps": "i32",
            },
            "constants": {"ATOMS": atoms, "BLOCK": rates.BLOCK},
            "aligned": ["count_ptr", "prefix_ptr", "out_ptr"],
            "options": {"num_warps": rates.WARPS, "enable_fp_fusion": False},
        }
    for dtype in ("bf16", "fp32", "fp64"):
        made[f"moments {dtype}"] = {
            "fn": moments._kernel,
            "signature": {"segment_ptr": "*i64", "range_ptr": "*i64", "out_ptr": "*fp64"},
            "constants": {"DTYPE": getattr(tl, _ELEMENTS[dtype]), "BLOCK": moments.BLOCK},
            "aligned": ["segment_ptr", "range_ptr", "out_ptr"],
            "options": {"num_warps": moments.WARPS},
        }
        if nvidia and dtype != "fp64":
            made[f"exact_rates {dtype}"] = {
                "fn": exact_rates._kernel,
                "signature": {
                    "tensor_ptr": "*i64",
                    "step_ptr": "*fp32",
                    "inverse_ptr": "*fp32",
                    "out_ptr": "*fp64",
                    "steps": "i32",
                },
                "constants": {
                    "DTYPE": getattr(tl, _ELEMENTS[dtype]),
                    "BLOCK": exact_rates.BLOCK,
                    "THREADS": 32 * exact_rates.WARPS,
                },
                "aligned": ["tensor_ptr", "out_ptr"],
                "options": {"num_warps": exact_rates.WARPS, "enable_fp_fusion": False},
            }
    return made | moves()


def moves() -> dict[str, dict[str, Any]]:
    """The three kernels of a move, whatever the search's constants are."""
    rule = {"MOMENTUM": 0.9, "MEMORY": 0.98, "BLOCK": latents.BLOCK}
    made = {
        "sums": (latents._sums_kernel, {"BLOCK": latents.BLOCK}),
        "steps": (latents._steps_kernel, {"STEP_PACE": 0.08, "STRETCH_PACE": 0.03, **rule}),
        "values": (latents._values_kernel, {"PACE": 0.09, "DAMPING": 2.0, **rule}),
    }
    integers, doubles = ("group_ptr", "tensor_ptr"), ("seen_ptr", "price_ptr", "pace_ptr")

    def kind(kernel: str, argument: str) -> str:
        if argument in integers:
            return "*i64"
        double = argument.endswith(doubles) or (kernel == "steps" and argument not in ("sums_ptr", "factor_ptr"))
        return "*fp64" if double else "*fp32"

    return {
        f"latents {name}": {
            "fn": kernel,
            "signature": {a: kind(name, a) for a in kernel.arg_names if a not in constants},
            "constants": constants,
            "aligned": [a for a in kernel.arg_names if a not in constants and not a.endswith(doubles)],
            "options": {"num_warps": latents.WARPS},
        }
        for name, (kernel, constants) in made.items()
    }


def compile_ahead(target: GPUTarget, fn: Any, signature: dict, constants: dict, aligned: list, options: dict) -> Any:
    place = {name: i for i, name in enumerate(fn.arg_names)}
    source = ASTSource(
        fn=fn,
        signature={**signature, **dict.fromkeys(constants, "constexpr")},
        constexprs=constants,
        attrs={(place[name],): [["tt.divisibility", 16]] for name in aligned},
    )
    return triton.compile(source, target=target, options=options)


def tool(name: str, *args: str) -> str:
    return subprocess.run([str(TOOLS / name), *args], capture_output=True, text=True, check=True).stdout


def hot_loop(lines: list[str]) -> Counter:
    """Instructions of the innermost loop that counts."""
    labels, instructions, loops = {}, [], []
    for line in lines:
        if label := LABEL.match(line):
            labels[label[1]] = len(instructions)
        if found := INSTRUCTION.match(line):
            instructions.append(found[1])
            target = re.search(r"`\((\.L_x_\d+)\)", found[2])
            if found[1].startswith("BRA") and target and target[1] in labels:
                loops.append(Counter(instructions[labels[target[1]] :]))
    counting = [loop for loop in loops if any(name.startswith("ATOMS") for name in loop)]
    return min(counting, key=lambda loop: loop.total(), default=Counter())


def report(compiled: Any) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = tool("cuobjdump", "-res-usage", file.name)
        lines = tool("nvdisasm", "-c", file.name).splitlines()
    registers, stack, shared, local = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", usage).groups()
    return {
        "registers": int(registers),
        "spilled": int(stack) + int(local),
        "shared": int(shared) + compiled.metadata.shared,
        "all": Counter(found[1] for line in lines if (found := INSTRUCTION.match(line))),
        "hot": hot_loop(lines),
    }


def main(name: str) -> None:
    target = GPUTarget(*TARGETS[name])
    nvidia = target.backend == "cuda"
    made = {kernel: compile_ahead(target, **how) for kernel, how in kernels(nvidia).items()}
    found = {kernel: report(c) if nvidia else {"bytes": len(c.asm["hsaco"])} for kernel, c in made.items()}
    json.dump({"triton": triton.__version__, "kernels": found}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
