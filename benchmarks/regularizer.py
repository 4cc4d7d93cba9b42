"""What the spectral-entropy penalty costs: against full SVD through autograd, against a training step, and by size.

    python benchmarks/regularizer.py                # the paper's nine matrices and its training step, 512², 1024²
    python benchmarks/regularizer.py --sizes 512 1024 2048 4096 --threads 2

Everything that is compared runs in one process, in turns; time per training step, median and best of all rounds: wall
time, or with `--threads 1` CPU time, which other work on the machine changes little. `every=k` is the time of k calls
divided by k. Numbers are printed only if values and gradients first agree with float64 autograd.
"""

import argparse
import os
import platform
import statistics
import time

import torch
from kolmogram import SpectralEntropyRegularizer
from kolmogram.engine.tasks.modular import ModularTask
from torch.nn import functional

EVERY = (1, 4, 16, 32, 64)


def svd_penalty(weights, weight=0.1):
    """The authors' way: singular values of a full SVD, differentiated by autograd."""
    total = 0.0
    for matrix in weights.values():
        _, sigma, _ = torch.linalg.svd(matrix, full_matrices=False)
        p = sigma / sigma.sum()
        total = total - (p * torch.log(p + 1e-10)).sum()
    return weight * total / len(weights)


def check(matrices):
    """The gate: 1e-5 on values, 1e-3 on every exact gradient, against float64."""
    exact = {name: m.detach().double().requires_grad_() for name, m in matrices.items()}
    expected = svd_penalty(exact)
    ours = SpectralEntropyRegularizer(0.1)(matrices)
    for value in (ours, SpectralEntropyRegularizer(0.1, every=2)(matrices)):
        assert abs(value.item() / expected.item() - 1) < 1e-5, (value, expected)
    reference = torch.autograd.grad(expected, list(exact.values()))
    for got, wanted in zip(torch.autograd.grad(ours, list(matrices.values())), reference, strict=True):
        assert (got - wanted).norm() < 1e-3 * wanted.norm()


def in_turns(candidates, repeats):
    """Milliseconds per step of each candidate, (median, best): name -> (function, steps that one call stands for)."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    times = {name: [] for name in candidates}
    for round_ in range(repeats + 1):
        for name, (function, steps) in candidates.items():
            start = clock()
            function()
            if round_:  # the first round warms up
                times[name].append((clock() - start) * 1e3 / steps)
    return {name: (statistics.median(values), min(values)) for name, values in times.items()}


def penalty_candidates(matrices):
    def run(penalty, steps):
        for _ in range(steps):
            torch.autograd.grad(penalty(matrices), list(matrices.values()))

    candidates = {"full SVD + autograd": (lambda: run(svd_penalty, 1), 1)}
    for every in EVERY:
        penalty = SpectralEntropyRegularizer(0.1, every=every)
        candidates[f"every={every}"] = (lambda penalty=penalty, every=every: run(penalty, every), every)
    return candidates


def time_size(size, repeats):
    """For matrices that take seconds: every=k from the time of a call that decomposes and of one that does not."""
    matrix = {"w": (torch.randn(size, size) / size**0.5).requires_grad_()}
    between = SpectralEntropyRegularizer(0.1, every=10**9)
    between(matrix)

    def run(penalty):
        torch.autograd.grad(penalty(matrix), list(matrix.values()))

    times = in_turns(
        {
            "full SVD + autograd": (lambda: run(svd_penalty), 1),
            "every=1": (lambda: run(SpectralEntropyRegularizer(0.1)), 1),
            "decomposing": (lambda: run(SpectralEntropyRegularizer(0.1, every=2)), 1),
            "between": (lambda: run(between), 1),
        },
        repeats,
    )
    first, later = times.pop("decomposing"), times.pop("between")
    for k in EVERY[1:]:
        times[f"every={k}"] = tuple((f + (k - 1) * a) / k for f, a in zip(first, later, strict=True))
    return times


def step_candidates(task, weights):
    """Training steps of the paper's model, batch 512, with no penalty and with each."""
    matrices = {name: w for name, w in weights.items() if w.ndim > 1}
    optimizer = torch.optim.AdamW(weights.values(), 1e-3, (0.9, 0.98), weight_decay=1.0, fused=True)
    pairs, labels = task.train.pairs[:512], task.train.labels[:512]

    def run(penalty, steps):
        for _ in range(steps):
            loss = functional.cross_entropy(task.network.logits(weights, pairs), labels)
            (loss + penalty(matrices)).backward()
            optimizer.step()
            optimizer.zero_grad()

    candidates = {
        "no penalty": (lambda: run(lambda _: 0.0, 4), 4),
        "full SVD + autograd": (lambda: run(svd_penalty, 1), 1),
    }
    for every in EVERY:
        penalty = SpectralEntropyRegularizer(0.1, every=every)
        candidates[f"every={every}"] = (lambda penalty=penalty, every=every: run(penalty, every), every)
    return candidates


def table(title, times, baseline, heading, compare):
    print(f"\n## {title}\n\n| | ms | {heading} | best ms | {heading} |\n|---|---|---|---|---|")
    for name, measured in times.items():
        cells = [f"{ms:.2f} | {compare(ms, base)}" for ms, base in zip(measured, times[baseline], strict=True)]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def faster(ms, base):
    return f"{base / ms:.1f}"


def added(ms, base):
    return f"{100 * (ms / base - 1):+.0f} %"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--sizes", type=int, nargs="*", default=[512, 1024])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs, load {load}"
    print(f"{machine}, {arguments.threads} threads, torch {torch.__version__}")

    task = ModularTask("addition")
    weights = {n: w.requires_grad_() for n, w in task.network.initial(torch.Generator().manual_seed(0)).items()}
    matrices = {name: w for name, w in weights.items() if w.ndim > 1}
    check(matrices)
    title = f"The paper's {len(matrices)} matrices, forward and backward"
    table(
        title, in_turns(penalty_candidates(matrices), arguments.repeats), "full SVD + autograd", "times faster", faster
    )
    title = "A training step of the paper's model (mod-113 addition, batch 512, without noise)"
    table(title, in_turns(step_candidates(task, weights), arguments.repeats), "no penalty", "added", added)
    for size in arguments.sizes:
        repeats = max(2, min(arguments.repeats, round((1024 / size) ** 3 * 10)))
        table(
            f"One {size}² matrix, forward and backward",
            time_size(size, repeats),
            "full SVD + autograd",
            "times faster",
            faster,
        )


if __name__ == "__main__":
    main()
