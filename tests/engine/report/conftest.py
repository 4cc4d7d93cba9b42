import math

import pytest
from kolmogram.engine.report.view import View
from kolmogram.engine.trajectory import TENSOR_COLUMNS, Trajectory, make_rows

STEPS = (0, 10, 100, 1000, 10000)
BYTES = (500, 4000, 42100, 20000, 5000)
TEST_ACCURACY = (0.01, 0.02, 0.1, 0.5, 0.95)


def trajectory(steps=STEPS, *, task=True, broken=True, tensor_names=("embed.weight", "<script>alert(1)</script>")):
    rows, tensors = [], {name: [] for name in TENSOR_COLUMNS}
    for i, step in enumerate(steps):
        row = {"step": step, "checkpoint": f"step-{i}", "parameters": 1000, "status": "ok", "effective_rank": 20.0 - i}
        if task:
            row |= {"complexity_bytes@1.0": BYTES[i], "complexity_bytes@0.25": 2 * BYTES[i]}
            row |= {"train_accuracy": min(1.0, 0.3 * i), "test_accuracy": TEST_ACCURACY[i]}
        rows.append(row)
        measures = {"effective_rank": 10.0, "singular_value@1": 3.0, "singular_value@2": 1.0 / (i + 1)}
        sizes = {"complexity_bytes@1.0": BYTES[i] / 2} if task else {}
        for tensor in tensor_names:
            for measure, value in (measures | sizes).items():
                cells = (step, row["checkpoint"], tensor, measure, value, "", "ok", "")
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
def folder(tmp_path):
    """Makes folders as `analyze` leaves them."""

    def make(name, **options):
        trajectory(**options).save(tmp_path / name)
        return tmp_path / name

    return make
