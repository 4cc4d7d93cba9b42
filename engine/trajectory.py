"""The tables: one row per checkpoint, and one row per number of every tensor."""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import KolmogramError
from .files import atomic_path, write_text

IDENTITY = ("step", "checkpoint", "parameters", "status")
"""The first columns of every trajectory; each further column is a number."""

TENSOR_COLUMNS = ("step", "checkpoint", "tensor", "measure", "value", "unit", "status", "detail")

_INTEGERS = ("step", "parameters")
_TEXTS = ("checkpoint", "status", "tensor", "measure", "unit", "detail")


@dataclass(frozen=True)
class Trajectory:
    """A run, measured.

    `rows`: one dict per checkpoint in the order of the run, all with the same keys (`IDENTITY`, then measures; a value
    that is missing or failed is NaN, and `status` says why). `tensors`: column name → list, long format.
    """

    rows: list[dict[str, Any]]
    tensors: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in TENSOR_COLUMNS})
    provenance: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def columns(self) -> tuple[str, ...]:
        """Column names in order."""
        return tuple(self.rows[0]) if self.rows else IDENTITY

    def __getitem__(self, column: str) -> list[Any]:
        """One column, in the order of the rows."""
        if column not in self.columns:
            raise KeyError(f"no column {column!r}; there are: {', '.join(self.columns)}")
        return [row[column] for row in self.rows]

    def to_csv(self, path: str | Path | None = None) -> str:
        """The trajectory as CSV text, written to `path` if one is given. Failed numbers are `nan`."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        if path is not None:
            write_text(path, text.getvalue())
        return text.getvalue()

    def to_parquet(self, path: str | Path) -> None:
        """The trajectory as Parquet: int64 step and parameters, strings, and float64 for every measure."""
        _write_parquet({name: self[name] for name in self.columns}, path)

    def tensors_to_parquet(self, path: str | Path) -> None:
        """The tensor table as Parquet, long format."""
        _write_parquet(self.tensors, path)

    def save(self, folder: str | Path) -> None:
        """Write trajectory.csv, trajectory.parquet, tensors.parquet and provenance.json into `folder`."""
        folder = Path(folder)
        self.to_csv(folder / "trajectory.csv")
        self.to_parquet(folder / "trajectory.parquet")
        self.tensors_to_parquet(folder / "tensors.parquet")
        write_text(folder / "provenance.json", json.dumps(self.provenance, indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> "Trajectory":
        """The tables that `save` wrote, from the folder itself or a run that has one called `kolmogram`."""
        folder = tables_folder(Path(folder))
        try:
            rows = _read_parquet(folder / "trajectory.parquet")
            tensors = _read_parquet(folder / "tensors.parquet")
            provenance = json.loads((folder / "provenance.json").read_text())
        except (OSError, ValueError) as error:
            raise KolmogramError(f"{folder}: cannot read the tables ({error}); run kolmogram analyze again") from error
        return cls(
            [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)], tensors, provenance
        )


def make_rows(rows: Iterable[Mapping[str, Any]], order: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Rows that all have the same columns: identity, those in `order`, then others; NaN where a row has none."""
    rows = list(rows)
    columns = dict.fromkeys([*IDENTITY, *order, *(name for row in rows for name in row)])
    present = [name for name in columns if name in IDENTITY or any(name in row for row in rows)]
    return [{name: row.get(name, math.nan) for name in present} for row in rows]


def tables_folder(path: Path) -> Path:
    """The folder that holds the tables: the path itself, or `kolmogram` in a run."""
    for folder in (path, path / "kolmogram"):
        if (folder / "trajectory.parquet").is_file():
            return folder
    raise KolmogramError(f"{path}: no trajectory here; run `kolmogram analyze` first and give the folder it wrote")


def _write_parquet(columns: Mapping[str, list[Any]], path: str | Path) -> None:
    import pyarrow
    import pyarrow.parquet

    def array(name: str, values: list[Any]) -> "pyarrow.Array":
        if name in _TEXTS:
            return pyarrow.array(values, pyarrow.string())
        if name in _INTEGERS:
            return pyarrow.array([None if _is_nan(value) else value for value in values], pyarrow.int64())
        return pyarrow.array([float(value) for value in values], pyarrow.float64())

    table = pyarrow.table({name: array(name, values) for name, values in columns.items()})
    with atomic_path(path) as temporary:
        pyarrow.parquet.write_table(table, temporary, compression="zstd")


def _read_parquet(path: Path) -> dict[str, list[Any]]:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    return {
        name: [math.nan if value is None else value for value in table.column(name).to_pylist()]
        for name in table.column_names
    }


def _is_nan(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
