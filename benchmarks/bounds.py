"""How small can a certified error be? Networks of modular addition, each trained, compressed and certified.

    python benchmarks/bounds.py [NAME]... [-o FOLDER] [-e EPSILON]... [--epochs N] [--modulus P]

Prints, per network and ε, what docs/bounds.md shows. Runs in FOLDER are not trained again. A network that has a row in
that page is the last checkpoint of its run.
"""

import json
from pathlib import Path

import click
from kolmogram.engine.certificate import certify
from kolmogram.engine.checkpoints import open_run
from kolmogram.engine.coarse import complexity_curve
from kolmogram.engine.tasks.modular import ModularTask
from kolmogram.engine.training.grokking import train

SMALL = {"architecture": "bilinear", "modulus": 257, "train_fraction": 0.6321, "recipe": "weight_decay", "epochs": 80}
NETWORKS = {
    "bilinear 32": SMALL | {"width": 32},
    "bilinear 40": SMALL | {"width": 40},
    "bilinear 48": SMALL | {"width": 48},
    "bilinear 64": SMALL | {"width": 64},
    "bilinear 48, half": SMALL | {"width": 48, "train_fraction": 0.5},
    "bilinear 48, three quarters": SMALL | {"width": 48, "train_fraction": 0.75},
    "transformer": {"modulus": 257, "train_fraction": 0.5, "recipe": "weight_decay", "epochs": 60},
    "transformer 113, the paper's": {"modulus": 113, "recipe": "paper", "until_accuracy": 0.99},
}
COLUMNS = (
    "network", "n", "ε", "bytes", "training errors", "population ≤", "unseen ≤", "unseen, true", "loss ≤",
    "description ratio", "of all pairs",
)  # fmt: skip


@click.command()
@click.argument("names", nargs=-1)
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path("runs/bounds"), show_default=True)
@click.option("-e", "--epsilon", "epsilons", type=float, multiple=True, default=(0.03, 0.1, 0.3, 1.0, 2.0))
@click.option("--epochs", type=int, help="Instead of each network's own.")
@click.option("--modulus", type=int, help="Instead of each network's own.")
def main(names: tuple[str, ...], out: Path, epsilons: tuple[float, ...], **instead: int | None) -> None:
    """Print the table, a row at a time."""
    click.echo(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for name in names or NETWORKS:
        settings = NETWORKS[name] | {key: value for key, value in instead.items() if value is not None}
        folder = out / name.replace(",", "").replace(" ", "-")
        train("addition", folder, **settings)
        task = ModularTask.from_config(json.loads((folder / "config.json").read_text()), folder)
        curve = complexity_curve(dict(open_run(folder)[-1].items()), task, epsilons)
        for epsilon, result in zip(epsilons, curve.results, strict=True):
            if result.encoded is None:
                continue
            proof = certify(result.encoded, task)
            everything = proof.population_labels
            cells = (
                name, f"{task.num_examples:,}", f"{epsilon:g}", f"{proof.size:,}", proof.train_errors,
                f"{proof.errors.population:.4f}", f"{proof.errors.unseen:.4f}",
                f"{1 - task.accuracies(result.decode())['test_accuracy']:.4f}", f"{proof.loss.population:.2f}",
                f"{proof.labels.ratio:.3f}", f"{everything.ratio:.3f}" if everything else "",
            )  # fmt: skip
            click.echo(f"| {' | '.join(map(str, cells))} |")


if __name__ == "__main__":
    main()
