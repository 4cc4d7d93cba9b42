import math

import pytest
from kolmogram.engine.report.view import View
from kolmogram.engine.trajectory import TENSOR_COLUMNS, Trajectory, make_rows

STEPS = (0, 10, 100, 1000, 10000)
BYTES = (500, 4000, 42100, 20000, 5000)
TEST_ACCURACY = (0.01, 0.02, 0.1, 0.5, 0.95)


def trajectory(
    steps=STEPS,
    *,
    task=True,
    broken=True,
    stepless=(),
    coded="direct",
    sizes=BYTES,
    tensor_names=("embed.weight", "<script>alert(1)</script>"),
):
    """A run as `analyze` measures it; `stepless` checkpoints come last and are larger than all others."""
    rows, tensors = [], {name: [] for name in TENSOR_COLUMNS}
    sizes = (*sizes[: len(steps)], *(10 * max(sizes) for _ in stepless))
    names = [*(f"step-{i}" for i in range(len(steps))), *stepless]
    for i, step in enumerate((*steps, *(math.nan for _ in stepless))):
        row = {"step": step, "checkpoint": names[i], "parameters": 1000, "status": "ok", "effective_rank": 20.0 - i}
        if task:
            row |= {"complexity_bytes@1.0": sizes[i], "complexity_bytes@0.25": 2 * sizes[i]}
            row |= {"train_accuracy": min(1.0, 0.3 * i), "test_accuracy": TEST_ACCURACY[i % len(STEPS)]}
        rows.append(row)
        measures = {"effective_rank": 10.0, "singular_value@1": 3.0, "singular_value@2": 1.0 / (i + 1)}
        coded_sizes = {"complexity_bytes@1.0": sizes[i] / 2} if task else {}
        for tensor in tensor_names:
            for measure, value in (measures | coded_sizes).items():
                detail = coded if measure in coded_sizes else ""
                cells = (step, row["checkpoint"], tensor, measure, value, "", "ok", detail)
                for name, cell in zip(TENSOR_COLUMNS, cells, strict=True):
                    tensors[name].append(cell)
    if broken:
        status = "bad<b>: truncated; copy it again"
        rows.append({"step": 20000, "checkpoint": "bad<b>", "parameters": math.nan, "status": status})
    return Trajectory(make_rows(rows), tensors, {"kolmogram": "test", "run": "x"})


@pytest.fixture
def view():
    return View(trajectory(), "addition")


@pytest.fixture
def make():
    """Makes views of runs."""
    return lambda **options: View(trajectory(**options), "run")


@pytest.fixture
def folder(tmp_path):
    """Makes folders as `analyze` leaves them."""

    def make(name, **options):
        trajectory(**options).save(tmp_path / name)
        return tmp_path / name

    return make
