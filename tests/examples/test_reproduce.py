"""examples/reproduce: the grid, its arithmetic, and that a killed command goes on."""

import csv
import importlib
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from kolmogram.engine.tasks.modular import OPERATIONS
from kolmogram.engine.training.schedule import CheckpointSchedule

EXAMPLE = Path(__file__).parents[2] / "examples" / "reproduce"


@pytest.fixture(scope="module")
def example():
    """The modules of the example, which are scripts beside each other."""
    names = ("runs", "tables", "summary", "figure")
    sys.path.insert(0, str(EXAMPLE))
    yield {name: importlib.import_module(name) for name in names}
    sys.path.remove(str(EXAMPLE))
    for name in names:
        del sys.modules[name]


def test_the_grid_is_what_the_figure_needs(example):
    runs = example["runs"].grid()
    assert len({run.name for run in runs}) == len(runs) == 24
    assert {run.operation for run in runs} <= set(OPERATIONS)
    assert all(run.epochs in CheckpointSchedule() for run in runs)
    layers = [OPERATIONS[run.operation].layers for run in runs]
    assert layers == sorted(layers)


def trajectory(grokks, seed=0):
    """A table as the grid writes it."""
    steps = np.array(sorted({int(5 * 1.3**n) for n in range(26)}), float)
    risen, fallen = (1 / (1 + np.exp(-5 * np.log(steps / at))) for at in (200, 2000))
    learned = fallen if grokks else 0 * steps
    noise = np.random.default_rng(seed).uniform(0.95, 1.05, len(steps))
    return {
        "step": steps,
        "train_accuracy": risen,
        "test_accuracy": learned,
        "complexity_bytes@1.0": 40e3 * risen * np.exp(-2 * learned) * noise,
        "prediction_bytes": 12e3 * np.exp(-learned),
        "squared_norm": 1500 - 100 * learned,
        "fisher_bits": 1e5 * risen * (1 - 0.3 * learned) + 1,
    }


def test_a_crossing_lies_between_its_checkpoints(example):
    passes, table = example["tables"].passes, {"step": np.array([0, 10, 100]), "y": np.array([0.0, 0.5, 1.0])}
    assert passes(table, "y", 0.5) == pytest.approx(10)
    assert passes(table, "y", 0.75) == pytest.approx(math.sqrt(1000))
    assert math.isnan(passes(table, "y", 1.1))


def test_the_fall_and_the_steepest_descent(example):
    tables, table = example["tables"], trajectory(grokks=True)
    shares = [tables.fallen(table, share) for share in (0.1, 0.5, 0.9)]
    assert shares == sorted(shares)
    assert shares[1] == pytest.approx(2000, rel=0.2)
    assert tables.steepest(table, "squared_norm") == pytest.approx(2000, rel=0.3)
    assert math.isnan(tables.fallen(trajectory(grokks=False), 0.5))


def test_recipes_are_compared_where_all_of_them_are_able(example):
    """A run that ends in a spike of its loss is compared before it."""
    runs = {r: trajectory(grokks=True) for r in example["runs"].grid() if r.operation == "addition" and r.seed == 0}
    for table in runs.values():
        table["test_accuracy"][-3:] = 1.0
    spiked = next(table for run, table in runs.items() if run.recipe == "noiseless")
    steps = spiked["step"]
    spiked["test_accuracy"][-1] = 0.5
    (row,) = example["summary"].regulariser_rows(runs)
    assert row["step"] == f"{steps[-2]:,.0f}"
    assert row["and spectral entropy, C₁"] == f"{spiked['complexity_bytes@1.0'][-2]:,.0f}"
    spiked["test_accuracy"][:] = 0.5
    assert not list(example["summary"].regulariser_rows(runs))


def test_tables_and_figures_of_some_runs(example, tmp_path):
    written = {}
    for run in example["runs"].grid():
        if run.operation == "addition":
            written[run] = tmp_path / f"{run.name}.csv"
            table = trajectory(run.recipe != "none", run.seed)
            with written[run].open("w", newline="") as stream:
                writer = csv.writer(stream)
                writer.writerow(table)
                writer.writerows(zip(*table.values(), strict=True))
    page = example["summary"].summarise(written, tmp_path)
    lines = [line for line in page.splitlines() if line.startswith("| addition, none")]
    assert lines
    assert all(line.split(" | ")[4] == "none" for line in lines[: len(lines) // 2])
    assert "| addition, paper, 0 |" in page
    with (tmp_path / "summary.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 6
    assert all(1 / 1.7 < float(row["fall"]) / float(row["accurate"]) < 1.7 for row in rows if row["recipe"] != "none")
    example["figure"].draw(written, tmp_path)
    assert all((tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG") for name in ("grokking", "proxies"))


@pytest.mark.slow
def test_a_killed_grid_ends_with_the_same_tables(tmp_path):
    """Killed twice at about the moments when training and measuring are under way."""

    def command(folder):
        only = ["--quick", "--only", "addition-none-*", "-o", str(tmp_path / folder)]
        return [sys.executable, str(EXAMPLE), "train", "analyze", *only]

    for sign in ("addition-none-0/metrics.csv", "addition-none-0/kolmogram/store.sqlite"):
        process = subprocess.Popen(command("killed"), stdout=subprocess.DEVNULL)
        while not (tmp_path / "killed" / sign).exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    for folder in ("killed", "undisturbed"):
        subprocess.run(command(folder), check=True, stdout=subprocess.DEVNULL)
    tables = [sorted((tmp_path / folder / "results").glob("*.csv")) for folder in ("killed", "undisturbed")]
    assert [path.name for path in tables[0]] == ["addition-none-0.csv", "addition-none-1.csv"]
    for one, other in zip(*tables, strict=True):
        assert one.read_text() == other.read_text()
