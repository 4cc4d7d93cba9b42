"""When the spectral-entropy penalty helps: two tasks beyond modular arithmetic, with and without weight decay.

    python benchmarks/regularizer_tasks.py cnn       # 8×8 digits (scikit-learn's), 300 training images
    python benchmarks/regularizer_tasks.py lm        # bytes of Python's own documentation, 64 kB for training

Prints means over seeds with half the spread: test loss and error, training loss, mean effective rank; then what is left
when every matrix is cut to the rank that holds 99.99 % of its energy Σσ²: the share of the weights, and the test error.
"""

import argparse
from itertools import product
from statistics import mean

import torch
from kolmogram import SpectralEntropyRegularizer
from torch import nn
from torch.nn import functional


def digits():
    from sklearn.datasets import load_digits

    data = load_digits()
    images, labels = torch.tensor(data.images).float()[:, None] / 16, torch.tensor(data.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return [(images[part], labels[part]) for part in (order[:300], order[300:])]


def cnn():
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)),
    )


def python_documentation():
    from pydoc_data.topics import topics

    text = "\n".join(topics[name] for name in sorted(topics)).encode()
    tokens = torch.tensor(list(text[:128_000]))
    return [tokens[:64_000].unfold(0, 65, 64), tokens[64_000:].unfold(0, 65, 64)]


class CausalLM(nn.Module):
    """Two pre-norm decoder blocks of width 96 on bytes."""

    def __init__(self):
        super().__init__()
        self.token, self.position = nn.Embedding(256, 96), nn.Embedding(64, 96)
        layer = nn.TransformerEncoderLayer(96, 4, 384, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(96, 256)

    def forward(self, x):
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.head(self.blocks(self.token(x) + self.position.weight[: x.shape[1]], mask, is_causal=True))


def train(task, model, loss, batch, steps, weight, decay, every, seed):
    """AdamW; returns what is measured at the end."""
    train_set, test_set = task
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, (0.9, 0.98), weight_decay=decay, fused=True)
    penalty = SpectralEntropyRegularizer(weight, every=every)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randint(len(train_set[0]), (batch,), generator=generator)
        optimizer.zero_grad()
        value = loss(model, [part[rows] for part in train_set])[0]
        (value + penalty(model) if weight else value).backward()
        optimizer.step()
    with torch.no_grad():
        (test_loss, error), (train_loss, _) = loss(model, test_set), loss(model, train_set)
        penalty(model)  # without gradients it is exact
        rank = penalty.means()["effective_rank"]
        share = cut(model)
        cut_error = loss(model, test_set)[1]
    return test_loss.item(), error.item(), train_loss.item(), rank, share, cut_error.item()


def cut(model, energy=0.9999):
    """Every matrix to the least rank that holds this share of Σσ²; returns the weights left, as factors if fewer."""
    before = after = 0
    for weight in model.parameters():
        if weight.ndim > 1:
            u, sigma, v = torch.linalg.svd(weight.flatten(1), full_matrices=False)
            energies = sigma.square().cumsum(0) / sigma.square().sum()
            rank = int((energies < energy).sum()) + 1
            as_factors = rank * (u.shape[0] + v.shape[1])
            if as_factors < weight.numel():
                weight.copy_((u[:, :rank] * sigma[:rank] @ v[:rank]).view_as(weight))
            before, after = before + weight.numel(), after + min(as_factors, weight.numel())
    return after / before


def image_loss(model, batch):
    logits = model(batch[0])
    return functional.cross_entropy(logits, batch[1]), (logits.argmax(1) != batch[1]).double().mean()


def text_loss(model, batch):
    logits, targets = model(batch[0][:, :-1]).flatten(0, 1), batch[0][:, 1:].flatten()
    return functional.cross_entropy(logits, targets), (logits.argmax(1) != targets).double().mean()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["cnn", "lm"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--weights", type=float, nargs="*", default=[0.0, 0.01, 0.1, 1.0])
    parser.add_argument("--decays", type=float, nargs="*", default=[0.0, 0.3])
    parser.add_argument("--every", type=int, default=32, help="steps that share one decomposition")
    arguments = parser.parse_args()
    if arguments.task == "cnn":
        task, make, loss, batch, steps = digits(), cnn, image_loss, 64, arguments.steps or 600
    else:
        pieces = [[part] for part in python_documentation()]
        task, make, loss, batch, steps = pieces, CausalLM, text_loss, 16, arguments.steps or 600
    columns = ("decay", "penalty", "test loss", "test error", "training loss", "effective rank", "cut to", "error, cut")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for decay, weight in product(arguments.decays, arguments.weights):
        rows = []
        for seed in range(arguments.seeds):
            torch.manual_seed(seed)
            rows.append(train(task, make(), loss, batch, steps, weight, decay, arguments.every, seed))
        cells = [f"{mean(column):.4g} ± {(max(column) - min(column)) / 2:.2g}" for column in zip(*rows, strict=True)]
        print(f"| {decay:g} | {weight:g} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
