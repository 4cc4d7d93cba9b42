"""The columns of C_ε, from real searches; that the files decode is part of it."""

import math

import pytest
import torch
from kolmogram.analyzers import ANALYZERS
from kolmogram.engine.analysis import analyze
from kolmogram.engine.coarse import Complexity, complexity_curve
from kolmogram.engine.codec.container import decode
from kolmogram.engine.tasks import Task
from safetensors.torch import load_file, save_file
from torch import nn

COMPLEXITY = ANALYZERS["complexity"]


@pytest.fixture(scope="module")
def learned():
    """Weights that have learned something, and their task."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    inputs = torch.randn(48, 5)
    batches = [(inputs, inputs[:, :3].argmax(1))]
    optimizer = torch.optim.Adam(model.parameters(), 0.03)
    for _ in range(80):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), batches[0][1]).backward()
        optimizer.step()
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}, Task.from_module(
        model, batches, nn.functional.cross_entropy
    )


def test_columns_of_a_result(learned):
    params, task = learned
    (result,) = complexity_curve(params, task, [0.1]).results
    assert COMPLEXITY.columns("kolmogram", 0.1, result) == {
        "complexity_bytes@0.1": len(result.encoded),
        "complexity_loss@0.1": result.loss,
    }
    shares = COMPLEXITY.tensors("kolmogram", 0.1, result)
    assert set(shares) == set(params)
    assert all(name == "complexity_bytes@0.1" and size >= 0 and transform for name, size, transform in shares.values())
    assert sum(size for _, size, _ in shares.values()) <= result.bytes


def test_no_result_is_nan_and_methods_do_not_share_a_column():
    columns = COMPLEXITY.columns("paper", 1.0, None)
    assert set(columns) == {"paper_bytes@1.0", "paper_loss@1.0"}
    assert all(map(math.isnan, columns.values()))


def test_a_result_that_is_not_feasible_is_nan():
    result = Complexity(1.0, 99, 5.0, 1.0, {}, 1, 0.1, status="the decoded loss 5 exceeds 1 + 1")
    columns = COMPLEXITY.columns("kolmogram", 1.0, result)
    assert set(columns) == {"complexity_bytes@1.0", "complexity_loss@1.0"}
    assert all(map(math.isnan, columns.values()))


def test_every_number_has_a_file_that_decodes_to_the_loss_beside_it(learned, tmp_path):
    params, task = learned
    save_file(params, tmp_path / "step-00000003.safetensors", metadata={"step": "3"})
    table = analyze(tmp_path, task, ["complexity"], (0.2, 0.02), tmp_path / "out")
    (row,) = table.rows
    for epsilon in (0.2, 0.02):
        path = tmp_path / "out" / "kolmo" / f"3@{epsilon}.kolmo"
        assert path.stat().st_size == row[f"complexity_bytes@{epsilon}"]
        decoded = decode(path.read_bytes())
        assert {name: tensor.shape for name, tensor in decoded.items()} == {n: t.shape for n, t in params.items()}
        loss = float(task.loss(decoded))
        assert loss == pytest.approx(row[f"complexity_loss@{epsilon}"], rel=1e-6)
        assert loss <= row["loss"] + epsilon
        original = load_file(tmp_path / "step-00000003.safetensors")
        assert any(not torch.equal(decoded[name], original[name]) for name in original)
    assert row["complexity_bytes@0.2"] <= row["complexity_bytes@0.02"]


def test_the_file_is_always_the_one_behind_the_number(learned, tmp_path):
    params, task = learned
    save_file(params, tmp_path / "step-00000003.safetensors", metadata={"step": "3"})
    path = tmp_path / "out" / "kolmo" / "3@0.2.kolmo"
    analyze(tmp_path, task, ["complexity"], (0.2,), tmp_path / "out")
    first = path.read_bytes()
    for damage in (path.unlink, lambda: path.write_bytes(b"of another task")):
        damage()
        analyze(tmp_path, task, ["complexity"], (0.2,), tmp_path / "out")
        assert path.read_bytes() == first


def test_another_epsilon_only_adds_the_missing_work(learned, tmp_path, monkeypatch):
    params, task = learned
    save_file(params, tmp_path / "step-00000003.safetensors", metadata={"step": "3"})
    first = analyze(tmp_path, task, ["complexity"], (0.2,), tmp_path / "out")
    asked = []
    real = complexity_curve

    def spy(params, task, epsilons, **options):
        asked.append(list(epsilons))
        return real(params, task, epsilons, **options)

    monkeypatch.setattr("kolmogram.engine.coarse.complexity_curve", spy)
    both = analyze(tmp_path, task, ["complexity"], (0.2, 0.1), tmp_path / "out")
    assert asked == [[0.1]]
    assert both["complexity_bytes@0.2"] == first["complexity_bytes@0.2"]
    analyze(tmp_path, task, ["complexity"], (0.2, 0.1), tmp_path / "out")
    assert asked == [[0.1]]


@pytest.mark.slow
def test_the_authors_method_has_its_own_columns(learned, tmp_path):
    params, task = learned
    save_file(params, tmp_path / "step-00000003.safetensors", metadata={"step": "3"})
    ours = analyze(tmp_path, task, ["complexity"], (0.2,), tmp_path / "out")
    paper = analyze(tmp_path, task, ["complexity"], (0.2,), tmp_path / "out", method="paper")
    assert {"paper_bytes@0.2", "paper_loss@0.2"} <= set(paper.columns)
    assert not any(name.startswith("complexity") for name in paper.columns)
    assert paper["paper_bytes@0.2"][0] > ours["complexity_bytes@0.2"][0]
    assert paper["paper_loss@0.2"][0] <= paper["loss"][0] + 0.2
    assert not any((tmp_path / "out" / "kolmo").iterdir()), "its sizes are of no file, and the others are not asked for"
