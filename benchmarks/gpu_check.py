"""Everything a machine with a GPU must answer, in one command of less than 8 minutes.

    python benchmarks/gpu_check.py          on a GPU: writes benchmarks/results/<device>.json
    python benchmarks/gpu_check.py --dry    anywhere: the same code on small weights, interpreted; prints only

Counts are compared with the reference first; no speed is measured of a kernel that counts wrong.
"""

# ruff: noqa: E402 (Triton decides at import whether it interprets)

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
DRY = "--dry" in sys.argv
if DRY:
    os.environ["TRITON_INTERPRET"] = "1"  # Triton decides at import

import torch
from kolmogram.engine import profiling
from kolmogram.engine.provenance import package_versions
from kolmogram.engine.training.regularizer import SpectralEntropyRegularizer
from kolmogram.kernels import dispatch, rates, reference
from torch import Tensor

DEVICE = torch.device("cpu" if DRY else "cuda")
if DRY:
    profiling.REPEATS, rates.BLOCK = 1, 4096  # the interpreter's cost is per operation
SIZES = [3_000] if DRY else [10**6, 10**7, 10**8, 10**9]
DTYPES = [torch.bfloat16] if DRY else [torch.bfloat16, torch.float16, torch.float32]
STEPS = 0.02 * torch.tensor([1.0] if DRY else [2.0 ** (2 - i / 2) for i in range(16)], dtype=torch.float64)
TENSORS = 3 if DRY else 300
MATRIX = 24 if DRY else 2048
DISTRIBUTIONS: dict[str, Callable[[int], Tensor]] = {
    "gaussian": lambda n: torch.randn(n, device=DEVICE) * 0.02,
    "heavy-tailed": lambda n: torch.randn(n, device=DEVICE) * 0.02 / torch.rand(n, device=DEVICE).add_(1e-3),
    "80 % zeros": lambda n: torch.randn(n, device=DEVICE) * 0.02 * (torch.rand(n, device=DEVICE) > 0.8),
    "constant": lambda n: torch.full((n,), 0.01, device=DEVICE),
}


def median(call: Callable[[], Any]) -> float:
    return profiling.seconds(call, DEVICE)


def correct() -> dict[str, bool]:
    """Counts and weights against the reference, on every dtype and distribution."""
    found = {}
    for dtype in DTYPES:
        for name, make in DISTRIBUTIONS.items():
            w = make(3_001 if DRY else 3_000_001).to(dtype)[1:]
            counted = dispatch.quantize_histogram(w, 0.003, backend="triton")
            expected = reference.quantize_histogram(w, 0.003)
            one = dispatch.fine_histogram([w], backend="triton").rates(STEPS[:1])
            plain = reference.rates(w, STEPS[:1])
            found[f"{dtype} {name}"] = (
                torch.equal(counted.counts, expected.counts.cpu())
                and counted.nonfinite == expected.nonfinite
                and abs(one.entropy_bits.item() - plain.entropy_bits.item()) < 1e-3
            )
    return found


def limits() -> dict[str, float]:
    """GB/s of a copy and of a read; counts per second with few and with many bank conflicts."""
    n = SIZES[-1] // 4 if not DRY else SIZES[-1]
    source = torch.zeros(n, device=DEVICE)
    target = torch.empty_like(source)
    found = {
        "copy, GB/s": 8 * n / median(lambda: target.copy_(source)) / 1e9,
        "read, GB/s": 4 * n / median(source.sum) / 1e9,
    }
    for name, make in DISTRIBUTIONS.items():
        w = make(n).bfloat16()
        taken = median(lambda w=w: dispatch.fine_histogram([w], backend="triton"))
        found[f"counts, 1e9/s, {name}"] = n / taken / 1e9
    return found


def kernels(read: float) -> Iterator[dict[str, Any]]:
    """Each kernel on each size, dtype and distribution; its usual replacements on Gaussian weights."""
    for n in SIZES:
        for dtype in DTYPES:
            for name, make in DISTRIBUTIONS.items():
                w = make(n).to(dtype)
                calls: dict[str, tuple[Callable[[], Any], int]] = {
                    "fine_histogram": (lambda w=w: dispatch.fine_histogram([w], backend="triton"), w.nbytes),
                    "quantize_histogram": (lambda w=w: dispatch.quantize_histogram(w, 0.005, "triton"), w.nbytes),
                    "quantize_dequantize": (lambda w=w: dispatch.quantize_dequantize(w, 0.005, "triton"), 2 * w.nbytes),
                }
                if name == "gaussian" and n < 10**9:
                    calls |= competitors(w)
                for operation, (call, moved) in calls.items():
                    taken = median(call)
                    rate = moved / taken / 1e9
                    yield {
                        "operation": operation,
                        "weights": n,
                        "dtype": str(dtype),
                        "distribution": name,
                        "ms": 1e3 * taken,
                        "GB/s": rate,
                        "of_read": rate / read,
                    }


def competitors(w: Tensor) -> dict[str, tuple[Callable[[], Any], int]]:
    """What people use instead: one histogram, or one step."""

    def symbols() -> Tensor:
        return torch.round(w.float() * 200).to(torch.int32).add_(1 << 12).clamp_(0, 1 << 13)

    found: dict[str, tuple[Callable[[], Any], int]] = {
        "torch.histc": (lambda: torch.histc(w.float(), 8192, -1, 1), w.nbytes),
        "round + torch.bincount": (lambda: torch.bincount(symbols()), w.nbytes),
        "round + torch.unique": (lambda: torch.unique(symbols(), return_counts=True), w.nbytes),
    }
    try:
        import cupy
    except ImportError:
        return found
    if DRY:
        return found
    array = cupy.from_dlpack(w.float())
    return {**found, "cupy.histogram": (lambda: cupy.histogram(array, 8192, (-1, 1)), w.nbytes)}


def grouped() -> dict[str, float]:
    """A checkpoint of many tensors: one launch for all, and all their rates."""
    generator = torch.Generator().manual_seed(0)
    exponents = torch.rand(TENSORS, generator=generator) * (1 if DRY else 4.7) + 3
    tensors = [torch.randn(int(10**e), device=DEVICE).bfloat16() * 0.02 for e in exponents.tolist()]
    histogram = dispatch.fine_histogram(tensors, backend="triton")
    total = sum(t.numel() for t in tensors)
    one_launch = median(lambda: dispatch.fine_histogram(tensors, backend="triton"))
    launches = median(lambda: [dispatch.fine_histogram([t], backend="triton") for t in tensors])
    reduction = median(lambda: histogram.rates(STEPS))
    return {
        "tensors": TENSORS,
        "weights": total,
        "one launch, ms": 1e3 * one_launch,
        "a launch each, ms": 1e3 * launches,
        "rates of all at all steps, ms": 1e3 * reduction,
        "checkpoint, GB/s": 2 * total / (one_launch + reduction) / 1e9,
    }


def spectra_and_regulariser() -> dict[str, float]:
    """Singular values of tall and square matrices, and what the training penalty adds to a step."""
    matrices = [torch.randn(MATRIX * r, MATRIX, device=DEVICE) for r in (1, 2, 2, 8)]
    model = torch.nn.Sequential(*(torch.nn.Linear(MATRIX, MATRIX, bias=False) for _ in range(4))).to(DEVICE)
    x = torch.randn(64, MATRIX, device=DEVICE)
    penalty = SpectralEntropyRegularizer(weight=0.1)

    def step(extra: bool) -> None:
        loss = model(x).square().mean()
        (loss + penalty(model) if extra else loss).backward()

    return {
        "ours, ms": 1e3 * median(lambda: dispatch.singular_values(matrices)),
        "torch.linalg.svdvals, ms": 1e3 * median(lambda: [torch.linalg.svdvals(m) for m in matrices]),
        "training step, ms": 1e3 * median(lambda: step(False)),
        "training step with penalty, ms": 1e3 * median(lambda: step(True)),
    }


def check() -> dict[str, Any]:
    start = time.perf_counter()
    backend = dispatch.choose_backend(DEVICE, "triton")
    found: dict[str, Any] = {
        "device": "cpu, interpreted" if DRY else torch.cuda.get_device_name(),
        "versions": package_versions(("torch", "triton", "numpy", "cupy")),
        "cuda": torch.version.cuda,
        "backend": backend._asdict(),
        "correct": correct(),
    }
    if not all(found["correct"].values()):
        return found
    found["limits"] = limits()
    found["kernels"] = list(kernels(found["limits"]["read, GB/s"]))
    found["grouped"] = grouped()
    found["spectra and regulariser"] = spectra_and_regulariser()
    if not DRY:
        found["peak device memory, bytes"] = torch.cuda.max_memory_allocated()
    return {**found, "seconds": time.perf_counter() - start}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry", action="store_true", help="small weights, in Triton's interpreter; writes nothing")
    parser.parse_args()
    if not DRY and not torch.cuda.is_available():
        parser.error("there is no CUDA device here; --dry runs the same code in the interpreter")
    found = check()
    text = json.dumps(found, indent=1, ensure_ascii=False)
    print(text)
    if not DRY:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{found['device'].replace(' ', '-').lower()}.json").write_text(text + "\n")
    return 0 if all(found["correct"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
