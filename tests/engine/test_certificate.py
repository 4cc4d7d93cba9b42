"""What the files of an analysis prove: the numbers belong to the decoded networks and of the right theorem."""

import math
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from click.testing import CliRunner
from kolmogram import KolmogramError
from kolmogram.analyzers.bounds import ErrorBounds, LossBound, Sample, complexity_nats, error_bounds
from kolmogram.analyzers.description_length import describe_labels, prefix_bits
from kolmogram.cli import main
from kolmogram.engine.analysis import analyze
from kolmogram.engine.certificate import Certificate, _row_columns, assumptions, bound, certify
from kolmogram.engine.coarse import complexity
from kolmogram.engine.codec import container
from kolmogram.engine.codec.header import Signature
from kolmogram.engine.errors import CodecError, TaskError
from kolmogram.engine.tasks import Task
from kolmogram.engine.tasks.modular import ModularTask
from kolmogram.engine.training.grokking import train
from kolmogram.engine.trajectory import Trajectory

P = 53
SHAPE = {"modulus": P, "architecture": "bilinear", "width": 16, "train_fraction": 0.6}


def rule(task, noise=0.0, frequencies=(1, 5, 12)):
    """Weights that know the rule: cos(w(a + b − c)) for a few w, as products of one number of a and one of b."""
    angle = torch.arange(P, dtype=torch.float64) * 2 * math.pi / P
    left, right, output = [], [], []
    for w in frequencies:
        for turn in range(4):  # Σ over four phases of cos(wa + φ)·cos(wb + φ)·cos(wc + 2φ) is cos(w(a + b − c))
            phase = turn * math.pi / 4
            left.append((w * angle + phase).cos())
            right.append((w * angle + phase).cos())
            output.append(8 * (w * angle + 2 * phase).cos())
    generator = torch.Generator().manual_seed(0)
    tables = {"left_embedding": left, "right_embedding": right, "output": output}
    wide = {name: torch.stack(columns + [torch.zeros(P)] * 4, 1).float() for name, columns in tables.items()}
    noisy = {name: table + noise * torch.randn(table.shape, generator=generator) for name, table in wide.items()}
    return {f"{name}.weight": table for name, table in noisy.items()}


@pytest.fixture(scope="module")
def task():
    return ModularTask("addition", **SHAPE)


@pytest.fixture(scope="module")
def found(task):
    return complexity(rule(task, 0.02), task, 0.002)  # 3.4 nats in all: so close that every answer stays right


def test_a_network_that_knows_the_rule_proves_it(task, found):
    proof = certify(found.encoded, task)
    assert proof.size == found.bytes
    assert proof.train_errors == 0
    assert proof.errors.unseen < 1 - 1 / P
    assert proof.errors.population < proof.errors.kl == pytest.approx(proof.errors.realisable, abs=1e-9)
    assert proof.loss.population < math.log(P)
    assert proof.labels.ratio < 1
    assert proof.population_labels.ratio < proof.labels.ratio  # the same file for more labels


def test_the_numbers_are_those_of_the_decoded_network(task, found):
    decoded = found.decode()
    proof = certify(found.encoded, task, delta=0.01)
    nats = complexity_nats(prefix_bits(len(found.encoded)) + 1, 0.01)
    assert proof.errors == error_bounds(0, Sample(task.num_examples, P * P), nats)
    each = task.per_example_loss(decoded).double()
    assert proof.labels.label_bits == pytest.approx(float(each.sum()) / math.log(2))
    logits = torch.cat([task.network.logits(decoded, part.pairs) for part in (task.train, task.test)])
    labels = torch.cat([task.train.labels, task.test.labels])
    everything = F.cross_entropy(logits, labels, reduction="sum").item() / math.log(2)
    assert proof.population_labels.label_bits == pytest.approx(everything, rel=1e-5)
    assert proof.population_labels.uniform_bits == pytest.approx(P * P * math.log2(P))


def test_more_confidence_is_dearer(task, found):
    assert certify(found.encoded, task, 1e-6).errors.unseen > certify(found.encoded, task, 0.05).errors.unseen


def test_a_task_that_does_not_know_its_population_takes_its_examples_as_independent(found):
    independent = ModularTask("addition", **SHAPE)
    independent.population = None
    proof = certify(found.encoded, independent)
    assert math.isnan(proof.errors.unseen)
    assert proof.errors.population == proof.errors.kl
    assert proof.population_labels is None


def test_dependent_examples_get_no_bounds_but_a_description(found):
    dependent = ModularTask("addition", **SHAPE)
    dependent.exchangeable = False
    proof = certify(found.encoded, dependent)
    assert math.isnan(proof.errors.population)
    assert math.isnan(proof.loss.population)
    assert proof.labels.ratio < 1
    (sentence,) = assumptions(dependent)
    assert "only description lengths are given, no bounds" in sentence


def test_a_task_without_classes_is_told_what_it_lacks(found):
    class Regression(Task):
        def loss(self, params):
            return params["output.weight"].square().mean()

    with pytest.raises(TaskError, match="lacks per_example_loss, error_rate, num_examples, num_classes"):
        certify(found.encoded, Regression())


def exactly(params):
    """A file that keeps the very bytes."""
    entries = [
        container.Entry(Signature(n, tuple(t.shape), t.dtype), container.exact_code(t)) for n, t in params.items()
    ]
    return container.encode(entries).data


def test_any_classifier_from_a_module_is_certified():
    points = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.where(torch.arange(2000) < 1500, (points[:, 0] > 0).long(), -100)
    task = Task.from_module(torch.nn.Linear(2, 2), [(points, labels)], F.cross_entropy)
    params = {"weight": torch.tensor([[-4.0, 0.0], [4.0, 0.0]]), "bias": torch.zeros(2)}
    proof = certify(exactly(params), task)
    nats = complexity_nats(prefix_bits(proof.size) + 1, 0.05)
    assert proof.train_errors == 0
    assert proof.errors == error_bounds(0, Sample(1500, None), nats)
    assert proof.labels.uniform_bits == 1500
    assert proof.labels.label_bits == pytest.approx(float(task.loss(params)) * 1500 / math.log(2))
    assert proof.errors.population < 0.5


def certificate(size, unseen, population, loss=9.0):
    bounds = ErrorBounds(1.0, 1.0, 1.0, population, unseen), LossBound(loss, math.nan, 0.5)
    return Certificate(size, 0, describe_labels(size, 1.0, 100, 4), None, *bounds)


@pytest.mark.parametrize(
    ("found", "named"),
    [
        ({"1": certificate(50, 0.9, 0.8), "0.25": certificate(70, 0.95, 0.7)}, 1.0),
        ({"1": certificate(50, 1.0, 0.8), "0.25": certificate(70, 1.0, 0.7)}, 0.25),
        ({"1": certificate(50, math.nan, 0.8), "0.25": certificate(70, math.nan, 0.7)}, 0.25),
        ({"1": certificate(50, 1.0, 1.0, 3.0), "0.25": certificate(70, 1.0, 1.0, 2.0)}, 0.25),
        ({"1": certificate(70, *[math.nan] * 3), "0.25": certificate(50, *[math.nan] * 3)}, 0.25),
    ],
    ids=["unseen errors", "then all errors", "no unseen ones", "then losses", "else the description"],
)
def test_the_file_that_is_named_is_the_one_whose_bound_is_reported(found, named):
    columns = _row_columns(found, 4)
    assert columns["bound_epsilon"] == named
    assert columns["bound_bytes"] == found[f"{named:g}"].size


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A short run that has learned little, analyzed at two ε."""
    run = tmp_path_factory.mktemp("bound") / "run"
    train("addition", run, epochs=4, recipe="weight_decay", **SHAPE)
    analyze(run, measures=["complexity"], epsilons=(0.5, 0.02), out=run / "kolmogram")
    return run / "kolmogram"


def test_bound_adds_columns_to_the_tables_and_says_what_they_assume(out):
    before = Trajectory.load(out)
    table = bound(out)
    assert set(before.columns) < set(table.columns)
    assert Trajectory.load(out).columns == table.columns
    assert "hypergeometric" not in table.columns
    for row in table.rows:
        files = {e: (out / "kolmo" / f"{int(row['step'])}@{e}.kolmo").read_bytes() for e in ("0.5", "0.02")}
        for name in ("unseen_error_bound", "loss_bound", "description_ratio"):
            assert row[name] == min(row[f"{name}@{e}"] for e in files)
        assert row["unseen_error_bound"] == row[f"unseen_error_bound@{row['bound_epsilon']}"]
        assert row["bound_bytes"] == len(files[str(row["bound_epsilon"])])
        assert row["chance_error"] == 1 - 1 / P
        proof = certify(files["0.5"], ModularTask("addition", **SHAPE))
        assert row["error_bound@0.5"] == proof.errors.population
        assert row["population_description_ratio@0.5"] == proof.population_labels.ratio
    assert "random subset of a population of 2,809" in table.provenance["bounds"]["assumptions"][0]
    page = (out / "report.html").read_text()
    assert "What the bounds assume" in page
    assert "random subset of a population of 2,809" in page


def test_a_network_of_any_size_can_be_certified(out, task, found, monkeypatch):
    monkeypatch.setattr(container, "_FREE_WEIGHTS", 1)
    monkeypatch.setattr(container, "_WEIGHTS_PER_BYTE", 0)
    with pytest.raises(CodecError, match="pass max_weights"):
        certify(found.encoded, task)
    assert certify(found.encoded, task, max_weights=10**6).size == found.bytes
    assert len(bound(out)) > 1, "files that analyze wrote are read whatever their size"


def test_bound_twice_is_bound_once(out):
    once = bound(out).to_csv()
    assert bound(out).to_csv() == once
    assert bound(out.parent).to_csv() == once  # the run has the folder
    assert bound(out, delta=0.001).to_csv() != once


def test_the_command_prints_bounds_verdicts_and_assumptions(out):
    result = CliRunner().invoke(main, ["bound", str(out)])
    assert result.exit_code == 0, result.output
    header, *rows = [line.split() for line in result.stdout.strip().splitlines()]
    assert {"step", "bound_bytes", "unseen_error_bound", "description_ratio"} <= set(header)
    assert header[-1] == "proves"
    assert len(rows) == len(Trajectory.load(out))
    assert "With probability 0.95" in result.stderr
    assert "without replacement" in result.stderr


def test_another_task_or_no_files_are_one_line(out, tmp_path):
    with pytest.raises(TaskError, match="analyzed with another task"):
        bound(out, ModularTask("addition", **(SHAPE | {"train_fraction": 0.5})))
    weights = tmp_path / "weights"
    (weights / "run").mkdir(parents=True)
    shutil.copy(next(out.parent.glob("*.safetensors")), weights / "run")
    analyze(weights / "run", out=weights)
    for task in (None, ModularTask("addition", **SHAPE)):
        with pytest.raises(TaskError, match="analyzed without a task; run kolmogram analyze with --task first"):
            bound(weights, task)
    norms = tmp_path / "norms"
    analyze(out.parent, measures=["norms"], out=norms)
    with pytest.raises(KolmogramError, match="no complexity_bytes here"):
        bound(norms)


def test_tables_are_certified_wherever_their_run_is_now(out, tmp_path, memory, monkeypatch):
    monkeypatch.setattr("kolmogram.engine.certificate.write_report", lambda *_: None)
    moved = shutil.copytree(out.parent, tmp_path / "run") / "kolmogram"
    table = Trajectory.load(moved)
    table.provenance["run"] = "nowhere"
    table.save(moved)
    alone = shutil.copytree(moved, tmp_path / "alone" / "kolmogram")
    around = bound(moved).to_csv()
    with pytest.raises(KolmogramError, match="its run nowhere is not there; start where it is"):
        bound(alone)
    memory.put(str(out.parent), "/run", recursive=True)
    table.provenance["run"] = "memory://run/step-*"
    table.save(alone)
    assert bound(alone).to_csv() == around


def test_a_missing_file_is_named(out, tmp_path):
    copy = tmp_path / "out"
    shutil.copytree(out, copy)
    lost = next((copy / "kolmo").glob("*@0.5.kolmo"))
    lost.unlink()
    with pytest.raises(KolmogramError, match=str(lost)):
        bound(copy)


def test_a_checkpoint_without_a_file_is_nan(out, tmp_path):
    copy = tmp_path / "out"
    shutil.copytree(out, copy)
    table = Trajectory.load(copy)
    for epsilon in (0.5, 0.02):
        table.rows[0][f"complexity_bytes@{epsilon}"] = math.nan
    table.save(copy)
    first, second = bound(copy).rows[:2]
    assert np.isnan([first["unseen_error_bound"], first["description_ratio"], first["bound_bytes"]]).all()
    assert not math.isnan(second["unseen_error_bound"])


def test_the_benchmark_of_bounds_prints_a_row_for_every_epsilon(tmp_path):
    scope = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "bounds.py"))
    options = ["bilinear 32", "-o", str(tmp_path), "--modulus", "13", "--epochs", "2", "-e", "1", "-e", "0.1"]
    result = CliRunner().invoke(scope["main"], options)
    assert result.exit_code == 0, result.output
    rows = result.stdout.strip().splitlines()
    assert len(rows) == 4
    assert len({row.count("|") for row in rows}) == 1
