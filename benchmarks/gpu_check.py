"""Everything a machine with a GPU must answer, in one command of less than 8 minutes.

    python benchmarks/gpu_check.py          on a GPU: writes benchmarks/results/<device>.json
    python benchmarks/gpu_check.py --dry    anywhere: the same code on small weights, interpreted; prints only

Counts are compared with the reference first; no speed is measured of a kernel that counts wrong. Every time is a
median; "kernel" is time on the device, "call" what a caller waits, Python included.
"""

# ruff: noqa: E402 (Triton decides at import whether it interprets)

import argparse
import json
import os
import statistics
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
from kolmogram.kernels import dispatch, exact_rates, fine_histogram, quantize, rates, reference, selftest
from torch import Tensor

DEVICE = torch.device("cpu" if DRY else "cuda")
if DRY:
    profiling.REPEATS, rates.BLOCK, exact_rates.BLOCK = 1, 4096, 1 << 15  # the interpreter's cost is per operation
SIZES = [3_000] if DRY else [10**6, 10**7, 10**8, 10**9]
LARGE = SIZES[-1]
DTYPES = [torch.bfloat16] if DRY else [torch.bfloat16, torch.float16, torch.float32]
STEPS = 0.02 * torch.tensor([1.0] if DRY else [2.0 ** (2 - i / 2) for i in range(16)], dtype=torch.float64)
TENSORS = 3 if DRY else 300
IN_A_ROW, REPEATS = (1, 1) if DRY else (10, 7)
DISTRIBUTIONS: dict[str, Callable[[int], Tensor]] = {
    "gaussian": lambda n: torch.randn(n, device=DEVICE) * 0.02,
    "heavy-tailed": lambda n: torch.randn(n, device=DEVICE) * 0.02 / torch.rand(n, device=DEVICE).add_(1e-3),
    "80 % zeros": lambda n: torch.randn(n, device=DEVICE) * 0.02 * (torch.rand(n, device=DEVICE) > 0.8),
    "constant": lambda n: torch.full((n,), 0.01, device=DEVICE),
}


def call_ms(call: Callable[[], Any]) -> float:
    """What a caller waits."""
    return 1e3 * profiling.seconds(call, DEVICE)


def kernel_ms(call: Callable[[], Any]) -> float:
    """Time of its kernels on the device, as its own clocks have it: however slow the host is."""
    call()
    if DRY:
        return call_ms(call)
    found = []
    for _ in range(REPEATS):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
            for _ in range(IN_A_ROW):
                call()
            torch.cuda.synchronize()
        found.append(sum(kind.self_device_time_total for kind in profiler.key_averages()) / IN_A_ROW / 1e3)
    return statistics.median(found) or call_ms(call)


def correct() -> dict[str, bool]:
    """Counts, weights, moments and rates against the reference, on every dtype and distribution, from odd addresses."""
    found = {}
    for dtype in DTYPES:
        for name, make in DISTRIBUTIONS.items():
            w = make(3_001 if DRY else 3_000_001).to(dtype)[1:]
            held, counted = dispatch.quantize_dequantize(w, 0.003, backend="triton")
            expected, plain = reference.quantize_dequantize(w, 0.003)
            estimated = dispatch.fine_histogram([w], backend="triton").rates(STEPS[:1])
            exact = reference.rates(w, STEPS[:1])
            small = w[:2_000]
            mine, theirs = dispatch.moments([w], backend="triton")[0], reference.moments(w)
            found[f"{dtype} {name}"] = (
                torch.equal(counted.counts, plain.counts)
                and counted.nonfinite == plain.nonfinite
                and (DRY or torch.equal(held, expected))  # the interpreter cuts float32 to bfloat16
                and abs(estimated.entropy_bits.item() - exact.entropy_bits.item()) < 1e-3
                and torch.allclose(exact_of(small), torch.cat(reference.rates(small, STEPS[:1])).T[None], rtol=1e-9)
                and abs(mine.std - theirs.std) <= 1e-9 * theirs.abs_max
            )
    return found


def exact_of(w: Tensor) -> Tensor:
    return exact_rates.exact_rates([w], STEPS[None, :1]).cpu()


def limits() -> dict[str, float]:
    """GB/s of a copy and of a read on the device, and from the host's pinned and pageable memory."""
    source = torch.randn(LARGE, device=DEVICE)
    target = torch.empty_like(source)
    on_host = torch.empty(LARGE, dtype=torch.float32, pin_memory=not DRY)
    pageable = torch.zeros(LARGE)
    return {
        "copy, GB/s": 8 * LARGE / call_ms(lambda: target.copy_(source)) / 1e6,
        "read, GB/s": 4 * LARGE / call_ms(source.sum) / 1e6,
        "from pinned memory, GB/s": 4 * LARGE / call_ms(lambda: target.copy_(on_host, non_blocking=True)) / 1e6,
        "from pageable memory, GB/s": 4 * LARGE / call_ms(lambda: target.copy_(pageable)) / 1e6,
    }


def kernels(copy: float) -> Iterator[dict[str, Any]]:
    """Each kernel on each size, dtype and distribution."""
    programs, shared = selftest.programs(DEVICE), selftest.counters_in(DEVICE)[0]
    bases = torch.full((1,), reference.DEFAULT_BASE, dtype=torch.int32, device=DEVICE)
    step = torch.tensor(0.005, device=DEVICE)
    for n in SIZES:
        for dtype in DTYPES:
            for name, make in DISTRIBUTIONS.items():
                w = make(n).to(dtype)
                calls: dict[str, tuple[Callable[[], Any], Callable[[], Any] | None, int]] = {
                    "fine_histogram": (
                        lambda w=w: dispatch.fine_histogram([w], "triton"),
                        lambda w=w: fine_histogram.fine_histogram([w], bases, programs, shared),
                        w.nbytes,
                    ),
                    "moments": (lambda w=w: dispatch.moments([w], "triton"), None, w.nbytes),
                    "quantize_histogram": (lambda w=w: dispatch.quantize_histogram(w, 0.005, "triton"), None, w.nbytes),
                    "quantize_dequantize": (
                        lambda w=w: dispatch.quantize_dequantize(w, 0.005, "triton"),
                        lambda w=w: quantize.launch(w, step, -1, True, programs, shared),
                        2 * w.nbytes,
                    ),
                }
                for operation, (call, launch, moved) in calls.items():
                    taken = call_ms(call)
                    alone = kernel_ms(launch) if launch else None
                    yield {
                        "operation": operation,
                        "weights": n,
                        "dtype": str(dtype).removeprefix("torch."),
                        "distribution": name,
                        "call, ms": taken,
                        "kernel, ms": alone,
                        "of_copy": moved / (alone or taken) / 1e6 / copy,
                    }


def sixteen_steps() -> Iterator[dict[str, Any]]:
    """Rates at all steps: one histogram, and what people use instead, which is one pass or more for each step."""
    for dtype in DTYPES[:: 2 if len(DTYPES) > 1 else 1]:
        w = DISTRIBUTIONS["gaussian"](LARGE).to(dtype)
        ours = call_ms(lambda w=w: dispatch.fine_histogram([w], "triton").rates(STEPS))
        for name, call, share in competitors(w):
            taken = call_ms(call) * len(STEPS) / share
            yield {"dtype": str(dtype), "instead": name, "ours, ms": ours, "theirs, ms": taken, "ratio": taken / ours}
            if not DRY:
                torch.cuda.empty_cache()


def competitors(w: Tensor) -> Iterator[tuple[str, Callable[[], Any], float]]:
    """Name, one step, and on what share of the weights."""

    def symbols(w: Tensor) -> Tensor:
        return torch.round(w.float() * 200).to(torch.int32).add_(1 << 12).clamp_(0, 1 << 13)

    part = w[: max(1, len(w) // 10)]  # sorting all at once takes more memory than there is
    yield "torch.histc, 8192 bins", lambda: torch.histc(w.float(), 8192, -1, 1), 1
    yield "round + torch.bincount", lambda: torch.bincount(symbols(w)), 1
    yield "round + torch.unique", lambda: torch.unique(symbols(part), return_counts=True), len(part) / len(w)
    if DRY:
        return
    try:
        import cupy
    except ImportError:
        return
    yield "cupy.histogram, 8192 bins", lambda: cupy.histogram(cupy.from_dlpack(w.float()), 8192, (-1, 1)), 1
    yield "round + cupy.bincount", lambda: cupy.bincount(cupy.from_dlpack(symbols(w)), minlength=8193), 1


def grouped() -> Iterator[dict[str, Any]]:
    """A checkpoint of many tensors: one launch for all against one tensor of the same size, and all their rates."""
    generator = torch.Generator().manual_seed(0)
    exponents = torch.rand(TENSORS, generator=generator) * (1 if DRY else 4.7) + 3
    programs, shared = selftest.programs(DEVICE), selftest.counters_in(DEVICE)[0]
    for dtype in DTYPES[:: 2 if len(DTYPES) > 1 else 1]:
        tensors = [(torch.randn(int(10**e), device=DEVICE) * 0.02).to(dtype) for e in exponents.tolist()]
        total = sum(t.numel() for t in tensors)
        one = [(torch.randn(total, device=DEVICE) * 0.02).to(dtype)]
        bases = torch.full((TENSORS,), reference.DEFAULT_BASE, dtype=torch.int32, device=DEVICE)
        histogram = dispatch.fine_histogram(tensors, "triton")
        times = [
            kernel_ms(lambda t=t, b=bases: fine_histogram.fine_histogram(t, b[: len(t)], programs, shared))
            for t in (tensors, one)
        ]
        yield {
            "dtype": str(dtype),
            "tensors": TENSORS,
            "weights": total,
            "one launch for all, kernel ms": times[0],
            "one tensor of that size, kernel ms": times[1],
            "ratio": times[0] / times[1],
            "one launch for all, call ms": call_ms(lambda t=tensors: dispatch.fine_histogram(t, "triton")),
            "one tensor of that size, call ms": call_ms(lambda t=one: dispatch.fine_histogram(t, "triton")),
            "rates of all at all steps, ms": call_ms(lambda h=histogram: h.rates(STEPS)),
            "moments of all, ms": call_ms(lambda t=tensors: dispatch.moments(t, "triton")),
        }


def check() -> Iterator[tuple[str, Any]]:
    """Sections in order; without correct counts there is nothing after the first."""
    import gpu_whole

    yield "device", "cpu, interpreted" if DRY else torch.cuda.get_device_name()
    yield "versions", package_versions(("torch", "triton", "numpy", "cupy"))
    yield "cuda", torch.version.cuda
    yield "processors", os.cpu_count()
    yield "backend", dispatch.choose_backend(DEVICE, "triton")._asdict()
    found = correct()
    yield "correct", found
    if not all(found.values()):
        return
    ceilings = limits()
    yield "limits", ceilings
    yield "analyze", gpu_whole.analysing(DEVICE, DRY)
    yield "search", gpu_whole.searching(DEVICE, DRY)
    yield "regulariser", gpu_whole.regularising(DEVICE, DRY)
    yield "sixteen steps", list(sixteen_steps())
    yield "grouped", list(grouped())  # from here on under torch's profiler, which slows down every later launch
    yield "kernels", list(kernels(ceilings["copy, GB/s"]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry", action="store_true", help="small weights, in Triton's interpreter; writes nothing")
    parser.parse_args()
    if not DRY and not torch.cuda.is_available():
        parser.error("there is no CUDA device here; --dry runs the same code in the interpreter")
    start, found = time.perf_counter(), {}
    for name, section in check():
        found |= {name: section, "seconds": round(time.perf_counter() - start, 1)}
        print(f"{found['seconds']:6.1f} s  {name}", file=sys.stderr, flush=True)
        if not DRY:  # after each section: what is measured is not lost
            torch.cuda.empty_cache()
            RESULTS.mkdir(exist_ok=True)
            name = found["device"].replace(" ", "-").lower()
            (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(found, indent=1, ensure_ascii=False))
    return 0 if all(found["correct"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
