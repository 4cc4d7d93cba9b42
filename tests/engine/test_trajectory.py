import csv
import math

import pytest
from kolmogram.engine.errors import KolmogramError
from kolmogram.engine.trajectory import TENSOR_COLUMNS, Trajectory, make_rows


def example() -> Trajectory:
    rows = make_rows(
        [
            {"step": 0, "checkpoint": "a", "parameters": 10, "status": "ok", "complexity_bytes@1.0": 1234, "loss": 0.1},
            {"step": 5, "checkpoint": "b", "parameters": math.nan, "status": "truncated, copy it again"},
            {"step": math.nan, "checkpoint": "c", "parameters": 10, "status": "ok", "loss": 1 / 3, "extra": 2.0},
        ]
    )
    values = [
        (0, "a", "w", "effective_rank", 3.5, "directions", "ok", ""),
        (5, "b", "", "entropy", math.nan, "", "bad", ""),
    ]
    tensors = {name: [row[i] for row in values] for i, name in enumerate(TENSOR_COLUMNS)}
    return Trajectory(rows, tensors, {"kolmogram": "x", "epsilons": [1.0]})


def test_rows_share_their_columns_and_miss_nothing():
    table = example()
    assert table.columns == ("step", "checkpoint", "parameters", "status", "complexity_bytes@1.0", "loss", "extra")
    assert all(tuple(row) == table.columns for row in table.rows)
    assert table["complexity_bytes@1.0"][0] == 1234
    assert math.isnan(table["complexity_bytes@1.0"][1])


def test_asking_for_a_column_that_is_not_there_lists_those_that_are():
    with pytest.raises(KeyError, match="loss"):
        example()["los"]


def test_csv_reads_back(tmp_path):
    text = example().to_csv(tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert text.splitlines()[1] == "0,a,10,ok,1234,0.1,nan"
    assert rows[1]["status"] == "truncated, copy it again"
    assert float(rows[2]["loss"]) == 1 / 3


def test_folder_reads_back(tmp_path):
    table = example()
    table.save(tmp_path)
    loaded = Trajectory.load(tmp_path)
    assert loaded.columns == table.columns
    assert repr(loaded.rows[0]) == repr(table.rows[0] | {"complexity_bytes@1.0": 1234.0})
    assert repr(loaded.tensors) == repr(table.tensors)
    assert loaded.provenance == table.provenance
    assert isinstance(loaded.rows[0]["step"], int)
    assert math.isnan(loaded.rows[2]["step"])


def test_parquet_types(tmp_path):
    import pyarrow.parquet as pq

    example().save(tmp_path)
    schema = pq.read_schema(tmp_path / "trajectory.parquet")
    assert [str(schema.field(name).type) for name in ("step", "checkpoint", "parameters", "status", "loss")] == [
        "int64",
        "string",
        "int64",
        "string",
        "double",
    ]
    assert pq.read_schema(tmp_path / "tensors.parquet").names == list(TENSOR_COLUMNS)


def test_a_run_is_good_for_its_own_tables(tmp_path):
    example().save(tmp_path / "kolmogram")
    assert len(Trajectory.load(tmp_path)) == 3


def test_folder_without_tables_is_named(tmp_path):
    with pytest.raises(KolmogramError, match="no trajectory here"):
        Trajectory.load(tmp_path)


def test_damaged_table_is_named(tmp_path):
    example().save(tmp_path)
    (tmp_path / "trajectory.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(KolmogramError, match="cannot read the tables"):
        Trajectory.load(tmp_path)
