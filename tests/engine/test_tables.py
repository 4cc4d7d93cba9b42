"""Tables: of several searches for one ε the smallest file counts; short names of files tell checkpoints apart."""

import json
import math
from pathlib import Path

import kolmogram
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from kolmogram.engine import coarse
from kolmogram.engine.errors import KolmogramError
from kolmogram.engine.report.view import View
from kolmogram.engine.tables import file_labels
from kolmogram.engine.tasks import Task
from safetensors.torch import save_file

SIZES = ("complexity_bytes@0.25", "complexity_largest@0.25", "complexity_loss@0.25")


class Rule(Task):
    """Which of three numbers is the largest."""

    num_examples = 96
    config = "largest of three"
    inputs = torch.randn(num_examples, 6, generator=torch.Generator().manual_seed(0))
    labels = inputs[:, :3].argmax(1)

    def loss(self, params):
        hidden = torch.tanh(self.inputs @ params["up.weight"].T + params["up.bias"])
        return F.cross_entropy(hidden @ params["down.weight"].T, self.labels)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    generator = torch.Generator().manual_seed(1)
    shapes = {"up.weight": (8, 6), "up.bias": (8,), "down.weight": (3, 8)}
    params = {name: torch.randn(shape, generator=generator).mul(0.3).requires_grad_() for name, shape in shapes.items()}
    optimizer = torch.optim.Adam(params.values(), 0.02)
    for _ in range(200):
        optimizer.zero_grad()
        Rule().loss(params).backward()
        optimizer.step()
    trained = {name: value.detach() for name, value in params.items()}
    save_file(trained, folder / "step-10.safetensors", metadata={"step": "10"})
    return folder


def analyzed(run, out=None, **options):
    return kolmogram.analyze(run, task=Rule(), epsilons=(0.25,), measures=("complexity",), out=out, moves=5, **options)


def test_the_smallest_file_counts_and_the_largest_size_stands_beside_it(run, tmp_path):
    alone = [analyzed(run, seed=seed).rows[0] for seed in range(3, 7)]
    together = analyzed(run, tmp_path, seed=3, seeds=4)
    sizes = [row[SIZES[0]] for row in alone]
    assert min(sizes) < max(sizes), "seeds differ"
    smallest = alone[sizes.index(min(sizes))]
    assert tuple(name for name in together.columns if name.startswith("complexity")) == SIZES
    row = together.rows[0]
    assert (row[SIZES[0]], row[SIZES[1]], row[SIZES[2]]) == (min(sizes), max(sizes), smallest[SIZES[2]])
    assert row["status"] == "ok"
    files = [path.read_bytes() for path in (tmp_path / "kolmo").iterdir()]
    assert [len(file) for file in files] == [min(sizes)]
    tensors = [m for m in together.tensors["measure"] if m == SIZES[0]]
    assert len(tensors) == 3, "those of one file"
    assert json.loads((tmp_path / "provenance.json").read_text())["seeds"] == 4


def test_searches_that_were_made_before_are_not_made_again(run, tmp_path, monkeypatch):
    first = analyzed(run, tmp_path)
    assert SIZES[1] not in first.columns
    asked = []
    search = coarse.complexity_curve
    monkeypatch.setattr(coarse, "complexity_curve", lambda *a, **k: asked.append(k["seed"]) or search(*a, **k))
    analyzed(run, tmp_path, seeds=3)
    assert asked == [1, 2]
    assert analyzed(run, tmp_path).rows == first.rows


def test_a_search_that_fails_is_told_of_and_leaves_the_others_to_count(run, tmp_path, monkeypatch):
    search = coarse.complexity_curve

    def failing(*args, seed, **options):
        if seed == 0:
            raise MemoryError("out of memory")
        return search(*args, seed=seed, **options)

    monkeypatch.setattr(coarse, "complexity_curve", failing)
    row = analyzed(run, tmp_path, seeds=2).rows[0]
    assert row["status"] == "complexity: MemoryError: out of memory"
    assert row[SIZES[0]] == row[SIZES[1]] > 0
    assert [path.stat().st_size for path in Path(tmp_path / "kolmo").iterdir()] == [row[SIZES[0]]]
    monkeypatch.setattr(coarse, "complexity_curve", lambda *_, **__: (_ for _ in ()).throw(MemoryError("again")))
    row = analyzed(run, seeds=2).rows[0]
    assert row["status"] == "complexity: MemoryError: again"
    assert math.isnan(row[SIZES[0]])


def test_what_lies_between_them_is_drawn(run, tmp_path):
    analyzed(run, tmp_path, seeds=3)
    (line,) = next(panel for panel in View.load(tmp_path).panels() if panel.title == "Complexity").lines
    assert line.upper
    assert line.upper[0] >= line.values[0]


@pytest.mark.parametrize("seeds", [0, -1, 1.5])
def test_seeds_are_a_number_of_searches(run, seeds):
    with pytest.raises(KolmogramError, match="seeds must be a whole number"):
        analyzed(run, seeds=seeds)


def test_files_are_called_by_their_step_where_that_tells_them_apart():
    steps = {"a/step_5.pt": 5.0, "b/step_5.pt": 5.0, "b/step_7.pt": 7.0, "b/last.pt": None, "c.pt": math.nan}
    assert list(file_labels(steps).values()) == ["a_step_5.pt", "b_step_5.pt", "7", "b_last.pt", "c.pt"]


def test_names_that_are_the_same_without_slashes_are_told_apart_too():
    assert list(file_labels({"a/b.pt": None, "a_b.pt": None}).values()) == ["a%2Fb.pt", "a_b.pt"]
