"""The demo's path from training to the picture, cut short; benchmarks and `make demo` walk it whole."""

import pytest
from kolmogram.engine import demo
from kolmogram.engine.trajectory import Trajectory


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(demo, "MODULUS", 5)
    monkeypatch.setattr(demo, "UNTIL_ACCURACY", 0.0)  # reached before the first step


def test_demo_leaves_run_tables_page_and_figure_and_goes_on_where_it_was(short, tmp_path):
    rows, seen = [], []
    table = demo.run_demo(tmp_path, rows.append, seen.append)
    assert [row.step for row in rows] == table["step"] == [0]
    assert {"train_accuracy", "test_accuracy", "loss", "complexity_bytes@1.0", "effective_rank"} <= set(table.columns)
    assert table["status"] == ["ok"]
    kinds = {"trajectory.csv", "trajectory.parquet", "tensors.parquet", "report.html", "trajectory.png", "run", "kolmo"}
    assert kinds <= {path.name for path in tmp_path.iterdir()}
    assert (tmp_path / "kolmo" / "0@1.0.kolmo").stat().st_size == table["complexity_bytes@1.0"][0]
    assert Trajectory.load(tmp_path)["step"] == [0]

    rows.clear()
    again = demo.run_demo(tmp_path, rows.append, seen.append)
    assert rows == []
    assert (seen[-1].total, seen[-1].finished_before) == (0, 1)
    assert again.to_csv() == table.to_csv()
