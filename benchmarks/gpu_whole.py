"""Whole jobs on a GPU, for gpu_check.py: a checkpoint's analysis, a training step with the penalty, a search."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from kolmogram import SpectralEntropyRegularizer
from kolmogram.engine import profiling
from kolmogram.engine.analysis import analyze
from kolmogram.engine.checkpoints import open_run
from kolmogram.engine.coarse import complexity
from kolmogram.engine.statistics import tensor_statistics
from kolmogram.engine.tasks.modular import ModularTask
from kolmogram.engine.training.grokking import train
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

REPEATS = 5
EPSILONS = (4.0, 2.0, 1.0, 0.5, 0.25, 0.125, 0.0625)


def seconds(call: Callable[[], Any], device: torch.device, repeats: int = REPEATS) -> float:
    """Median after a first call that compiles and warms up."""
    profiling.REPEATS, before = repeats, profiling.REPEATS
    try:
        return profiling.seconds(call, device)
    finally:
        profiling.REPEATS = before


def language_model(small: bool) -> dict[str, Tensor]:
    """Random bfloat16 weights in the shapes of a language model of 1.24e9 (vocabulary 128256, 16 layers of 2048)."""
    vocabulary, layers, width, inner = (50, 1, 8, 16) if small else (128_256, 16, 2048, 8192)
    shapes: dict[str, tuple[int, ...]] = {"embedding": (vocabulary, width), "norm": (width,)}
    for i in range(layers):
        shapes |= {f"{i}.{name}": (width, width) for name in ("query", "output")}
        shapes |= {f"{i}.{name}": (width // 4, width) for name in ("key", "value")}
        shapes |= {f"{i}.gate": (inner, width), f"{i}.up": (inner, width), f"{i}.down": (width, inner)}
        shapes |= {f"{i}.norm1": (width,), f"{i}.norm2": (width,)}
    device = "cpu" if small else "cuda"
    return {name: (torch.randn(shape, device=device) * 0.02).bfloat16().cpu() for name, shape in shapes.items()}


def analysing(device: torch.device, dry: bool) -> dict[str, Any]:
    """Weight-space measures of a large checkpoint: from memory and from a file that the system has in memory."""
    weights = language_model(dry)
    size = sum(w.nbytes for w in weights.values())
    on_device = {name: w.to(device) for name, w in weights.items()}
    pinned = weights if dry else {name: w.pin_memory() for name, w in weights.items()}
    with tempfile.TemporaryDirectory() as folder:
        save_file(weights, Path(folder) / "step-1.safetensors")
        (checkpoint,) = open_run(folder)
        sources = {
            "on the device": on_device.items,
            "in pinned memory": pinned.items,
            "in pageable memory": weights.items,
            "in a file": checkpoint.unread,
        }
        found: dict[str, Any] = {"tensors": len(weights), "weights": size // 2}
        for name, items in sources.items():
            taken = seconds(lambda i=items: list(tensor_statistics(i(), device=str(device), spectra=False)), device)
            found[f"{name}, s"], found[f"{name}, GB/s"] = taken, size / taken / 1e9
        measures = ["entropy", "norms"]
        found["analyze() of the file, s"] = seconds(
            lambda: analyze(folder, measures=measures, device=str(device)), device
        )
        found["stages with spectra, s"] = profiling.stages_of(folder, None, str(device))
    return found


def regularising(device: torch.device, dry: bool) -> dict[str, Any]:
    """Milliseconds of a training step, and what the penalty adds."""
    task = ModularTask("addition", modulus=11 if dry else 113, width=16 if dry else 128, device=device)
    initial = task.network.initial(torch.Generator().manual_seed(0))
    weights = {name: w.to(device).requires_grad_() for name, w in initial.items()}
    matrices = {name: w for name, w in weights.items() if w.ndim > 1}
    pairs, labels = task.train.pairs[:512], task.train.labels[:512]

    def loss() -> Tensor:
        return functional.cross_entropy(task.network.logits(weights, pairs), labels)

    found = {
        "the paper's network": _steps(loss, list(weights.values()), matrices, (1,) if dry else (1, 4, 16, 64), device)
    }
    if not dry:
        found["the size of GPT-2 small, 8 × 1024 tokens"] = _gpt2(device)
    return found


def _gpt2(device: torch.device) -> dict[str, Any]:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(attn_pdrop=0, resid_pdrop=0, embd_pdrop=0)).to(device)
    tokens = torch.randint(50257, (8, 1024), device=device)

    def loss() -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return model(tokens, labels=tokens).loss

    return _steps(loss, list(model.parameters()), model, (16, 64), device)


def _steps(
    loss: Callable[[], Tensor],
    weights: list[Tensor],
    penalised: nn.Module | dict[str, Tensor],
    every: tuple[int, ...],
    device: torch.device,
) -> dict[str, float]:
    optimizer = torch.optim.AdamW(weights, 1e-3, fused=True)

    def steps(penalty: SpectralEntropyRegularizer | None, count: int) -> None:
        for _ in range(count):
            total = loss()
            (total if penalty is None else total + penalty(penalised)).backward()
            optimizer.step()
            optimizer.zero_grad()

    def adding(penalty: SpectralEntropyRegularizer, count: int) -> None:
        for _ in range(count):
            loss().backward()
            penalty.add_gradient(penalised)
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)

    few = device.type == "cpu"
    plain = 1e3 * seconds(lambda: steps(None, 1 if few else 16), device) / (1 if few else 16)
    found = {"plain, ms": plain}
    for k in every:
        penalty = SpectralEntropyRegularizer(0.1, every=k)
        count = max(k, 1 if few else 4)
        taken = 1e3 * seconds(lambda p=penalty, c=count: steps(p, c), device) / count
        found |= {f"every={k}, ms": taken, f"every={k}, added": taken / plain - 1}
        if k > 1:
            penalty = SpectralEntropyRegularizer(0.1, every=k)
            taken = 1e3 * seconds(lambda p=penalty, c=count: adding(p, c), device) / count
            found |= {f"every={k}, add_gradient, ms": taken, f"every={k}, add_gradient, added": taken / plain - 1}
    return found


def searching(device: torch.device, dry: bool) -> dict[str, Any]:
    """C_ε of a network trained here for 730 epochs: on it, and on the processors beside it.

    At 1 nat, five seeds; and at seven ε in one search, three.
    """
    shape = {"modulus": 11, "architecture": "mlp", "width": 16} if dry else {}
    moves = 1 if dry else None
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        train("addition", folder, epochs=2 if dry else 730, device=str(device), **shape)
        checkpoint = open_run(folder)[-1]
        weights = dict(checkpoint.items())
    found: dict[str, Any] = {}
    fewer = min(threads, 4)  # on a small network they wait less for each other
    for where, count in dict.fromkeys((w, n) for w in (str(device), "cpu") for n in (threads, fewer)):
        torch.set_num_threads(count)
        task = ModularTask("addition", device=where, **shape)
        params = {name: w.to(where) for name, w in weights.items()}
        complexity(params, task, 1.0, moves=1 if dry else 20)
        results = [complexity(params, task, 1.0, seed=seed, moves=moves) for seed in range(1 if dry else 5)]
        found[f"{where}, {count} threads, s"] = sorted(r.seconds for r in results)
        found[f"{where}, {count} threads, bytes"] = [r.bytes for r in results]
        curves = [complexity(params, task, EPSILONS, seed=seed, moves=moves) for seed in range(1 if dry else 3)]
        found[f"{where}, {count} threads, seven ε, s"] = sorted(curve[0].seconds for curve in curves)
        start = time.perf_counter()
        with profiling.recording() as stages:
            complexity(params, task, 1.0, moves=moves)
        found[f"{where}, {count} threads, stages, s"] = {**stages.seconds, "all": time.perf_counter() - start}
    torch.set_num_threads(threads)
    return found
