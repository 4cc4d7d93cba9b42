"""What has been measured, in one SQLite file: the reason why nothing is measured twice.

One row per finished piece of work, keyed by checkpoint, its fingerprint, the measure and the measure's settings. A
checkpoint's rows are written in one transaction, so that a killed process leaves whole checkpoints behind and no part.
"""

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from .errors import KolmogramError

_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS results (
    checkpoint TEXT NOT NULL, fingerprint TEXT NOT NULL, measure TEXT NOT NULL, settings TEXT NOT NULL,
    status TEXT NOT NULL, columns TEXT NOT NULL, tensors TEXT NOT NULL, seconds REAL NOT NULL, file BLOB,
    PRIMARY KEY (checkpoint, fingerprint, measure, settings)
) WITHOUT ROWID
"""


class Key(NamedTuple):
    """One piece of work. `settings` is canonical JSON of all that the result depends on beside the checkpoint."""

    checkpoint: str
    fingerprint: str
    measure: str
    settings: str


class TensorValue(NamedTuple):
    """One number of one tensor; `detail` is a word about it, e.g. the transform that the bytes were coded with."""

    tensor: str
    measure: str
    value: float
    status: str = "ok"
    detail: str = ""


@dataclass(frozen=True)
class Result:
    """What a piece of work gave: trajectory columns, tensor rows, "ok" or a reason, the seconds it took, and the file
    that the numbers are of, where there is one.
    """

    columns: dict[str, float]
    tensors: list[TensorValue]
    status: str = "ok"
    seconds: float = 0.0
    file: bytes | None = None


class Store:
    """Results by key. A context manager; `None` as path keeps everything in memory.

    The file is locked while it is open: two commands that write the same folder would only repeat each other's work.
    """

    def __init__(self, path: Path | None) -> None:
        self._name = path or "in memory"
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._database = sqlite3.connect(path or ":memory:", timeout=1.0, isolation_level=None)
        except sqlite3.OperationalError as error:
            raise KolmogramError(f"{self._name}: {error}; may the folder be written?") from error
        try:
            self._open()
        except sqlite3.OperationalError as error:
            self._database.close()
            raise KolmogramError(f"{self._name}: {error}; is another kolmogram at work in this folder?") from error
        except sqlite3.DatabaseError as error:
            self._database.close()
            raise KolmogramError(f"{self._name}: {error}; remove the file to measure afresh") from error

    def _open(self) -> None:
        # Exclusive before WAL: no shared memory is needed then, and network file systems have none.
        self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._database.execute("PRAGMA journal_mode = WAL")
        version = self._database.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, _SCHEMA_VERSION):
            raise sqlite3.DatabaseError(f"written by another version of kolmogram (layout {version})")
        self._database.execute("BEGIN IMMEDIATE")
        self._database.execute(_SCHEMA)
        self._database.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
        self._database.execute("COMMIT")

    def __contains__(self, key: Key) -> bool:
        return self._select("1", key) is not None

    def get(self, key: Key) -> Result | None:
        """The result of one piece of work, None if it is still to do."""
        row = self._select("columns, tensors, status, seconds, file", key)
        if row is None:
            return None
        columns, tensors, status, seconds, file = row
        return Result(
            json.loads(columns), [TensorValue(*value) for value in json.loads(tensors)], status, seconds, file
        )

    def put(self, results: Iterable[tuple[Key, Result]]) -> None:
        """Keep results, all of them or (when the process dies here) none."""
        rows = [(*key, r.status, json.dumps(r.columns), json.dumps(r.tensors), r.seconds, r.file) for key, r in results]
        self._database.execute("BEGIN IMMEDIATE")
        self._database.executemany("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        self._database.execute("COMMIT")

    def _select(self, what: str, key: Key) -> tuple | None:
        where = "checkpoint = ? AND fingerprint = ? AND measure = ? AND settings = ?"
        return self._database.execute(f"SELECT {what} FROM results WHERE {where}", key).fetchone()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()
