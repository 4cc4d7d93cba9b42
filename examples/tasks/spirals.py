"""A run of your own, from training loop to trajectory: two spirals and a small network.

    python examples/tasks/spirals.py spirals-run                             # train, a few seconds
    kolmogram analyze spirals-run --task examples/tasks/spirals.py -e 0.1   # how complex was it, step by step?

Guessing costs ln 2 = 0.69 nats here, so the usual ε of 1 would allow an empty network.

`task` at the end is all that `analyze` needs: the data and the loss. The weights come from the checkpoints.
"""

import sys
from pathlib import Path

import torch
from kolmogram import CheckpointSchedule, SpectralEntropyRegularizer, Task
from safetensors.torch import save_file
from torch import Tensor, nn

STEPS = 400


def spirals(count: int = 400) -> tuple[Tensor, Tensor]:
    """Points of two interleaved spirals, (count, 2), and which one each is on, (count,)."""
    random = torch.Generator().manual_seed(0)
    label = torch.arange(count) % 2
    radius = torch.rand(count, generator=random).sqrt()
    angle = 3 * torch.pi * radius + torch.pi * label
    points = radius[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
    return points + 0.02 * torch.randn(count, 2, generator=random), label


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))


def train(folder: Path) -> None:
    """A plain PyTorch loop with the penalty in the loss and checkpoints evenly spaced in log time."""
    torch.manual_seed(0)
    network, (points, labels) = model(), spirals()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=0.1)
    penalty, schedule = SpectralEntropyRegularizer(weight=0.01, every=4), CheckpointSchedule()
    folder.mkdir(parents=True, exist_ok=True)
    for step in range(STEPS + 1):
        if step in schedule or step == STEPS:
            save_file(network.state_dict(), folder / f"step-{step:06d}.safetensors", {"step": str(step)})
        loss = nn.functional.cross_entropy(network(points), labels) + penalty(network)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(
        f"loss {loss.item():.3f}, mean effective rank {penalty.means()['effective_rank']:.1f}, checkpoints in {folder}"
    )


def task() -> Task:
    """Mean training loss in nats per example, for weights with the names of the checkpoints."""
    return Task.from_module(model(), [spirals()], nn.functional.cross_entropy)


if __name__ == "__main__":
    train(Path(sys.argv[1] if len(sys.argv) > 1 else "spirals-run"))
