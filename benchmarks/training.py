"""Training steps per second: ours, ours with the authors' regulariser, and the network written the plain way.

    python benchmarks/training.py [--operation addition] [--threads 2]

All three take the same batches of 512 with weight noise, spectral penalty and AdamW. "full SVD" replaces only the
penalty, by singular values of a full SVD through autograd at every step, as the authors compute it. "plain" also runs
the network on all four positions of every example. They run in turns in one process; median and best
of all rounds.
"""

import argparse
import os
import platform

import torch
from kolmogram import SpectralEntropyRegularizer, WeightNoise
from kolmogram.engine.tasks.modular import OPERATIONS, ModularTask
from kolmogram.engine.training.recipes import recipe_for
from regularizer import in_turns, svd_penalty
from torch.nn import functional

STEPS = 16


def plain_logits(params, pairs, modulus, layers):
    """The transformer on sequences [a, op, b, =] with nothing shared and nothing skipped but the loss's position."""
    a, b = pairs.unbind(1)
    tokens = torch.stack([a, torch.full_like(a, modulus), b, torch.full_like(a, modulus + 1)], dim=1)
    x = functional.embedding(tokens, params["embedding.weight"])
    x = x + functional.embedding(torch.arange(4), params["positional_embedding.weight"])

    def dense(name, h):
        return functional.linear(h, params[f"{name}.weight"], params[f"{name}.bias"])

    def norm(name, h):
        return functional.layer_norm(h, (128,), params[f"{name}.weight"], params[f"{name}.bias"], 1e-6)

    for layer in range(layers):
        block = f"layers.{layer}"
        q, k, v = (
            dense(f"{block}.attention.{name}", x).unflatten(-1, (4, 32)).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        context = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = norm(f"{block}.attention_norm", x + dense(f"{block}.attention.output", context))
        hidden = functional.gelu(dense(f"{block}.mlp.up", x), approximate="tanh")
        x = norm(f"{block}.mlp_norm", x + dense(f"{block}.mlp.down", hidden))
    return dense("output", x)[:, -1]


def trainer(task, recipe, logits, penalty):
    """A function that makes STEPS training steps with fresh weights of its own."""
    initial = task.network.initial(torch.Generator().manual_seed(0))
    weights = {name: w.requires_grad_() for name, w in initial.items()}
    matrices = {name: w for name, w in weights.items() if w.ndim > 1}
    optimizer = torch.optim.AdamW(weights.values(), 1e-3, (0.9, 0.98), weight_decay=recipe.weight_decay, fused=True)
    noise = WeightNoise(recipe.noise)
    batches = list(zip(task.train.pairs.split(512), task.train.labels.split(512), strict=True))
    batches = batches[:-1] or batches  # full ones

    def steps():
        for step in range(STEPS):
            pairs, labels = batches[step % len(batches)]
            with noise(weights):
                loss = functional.cross_entropy(logits(weights, pairs), labels)
                (loss + penalty(matrices)).backward()
            optimizer.step()
            optimizer.zero_grad()

    return steps


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operation", choices=OPERATIONS, default="addition")
    parser.add_argument("--modulus", type=int, default=113)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs, load {load}"
    print(f"{machine}, {arguments.threads} threads, torch {torch.__version__}, {arguments.operation}\n")

    task = ModularTask(arguments.operation, modulus=arguments.modulus)
    recipe = recipe_for("paper", arguments.operation)
    layers = OPERATIONS[arguments.operation].layers

    def plain(params, pairs):
        return plain_logits(params, pairs, arguments.modulus, layers)

    example = task.network.initial(torch.Generator().manual_seed(0))
    torch.testing.assert_close(plain(example, task.test.pairs), task.network.logits(example, task.test.pairs))
    ours = SpectralEntropyRegularizer(0.1, every=recipe.spectra_every)
    candidates = {
        "ours": (trainer(task, recipe, task.network.logits, ours), STEPS),
        "full SVD": (trainer(task, recipe, task.network.logits, svd_penalty), STEPS),
        "plain, full SVD": (trainer(task, recipe, plain, svd_penalty), STEPS),
    }
    times = in_turns(candidates, arguments.repeats)
    print("| | steps per second | ours is faster by | best | ours is faster by |\n|---|---|---|---|---|")
    for name, measured in times.items():
        cells = [f"{1e3 / ms:.1f} | {ms / ours:.2f}" for ms, ours in zip(measured, times["ours"], strict=True)]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
