"""What the decoded file of a checkpoint knows, beside the checkpoint itself: accuracy on training and unseen examples.

    python benchmarks/decoded.py RUN[:STEP,STEP…]... [-e EPSILON] [--seed N]

Each RUN is the folder of a `kolmogram train` run. Prints CSV rows.
"""

import csv
import sys

import click
from complexity import chosen
from kolmogram.engine.coarse import complexity
from kolmogram.engine.tasks.modular import ModularTask

COLUMNS = ("run", "step", "epsilon", "bytes", "train", "test", "decoded_train", "decoded_test")


@click.command()
@click.argument("runs", nargs=-1, required=True)
@click.option("-e", "--epsilon", default=1.0)
@click.option("--seed", default=0)
def main(runs: tuple[str, ...], epsilon: float, seed: int) -> None:
    """Print a row per checkpoint."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name, checkpoint, task in (item for spec in runs for item in chosen(spec)):
        assert isinstance(task, ModularTask)
        params = dict(checkpoint.items())
        found = complexity(params, task, epsilon, seed=seed)
        accuracies = [*task.accuracies(params).values(), *task.accuracies(found.decode()).values()]
        writer.writerow([name, checkpoint.step, epsilon, found.bytes, *(f"{value:.4f}" for value in accuracies)])


if __name__ == "__main__":
    main()
