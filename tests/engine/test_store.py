import math
import sqlite3
from dataclasses import replace

import pytest
from kolmogram.engine.errors import KolmogramError
from kolmogram.engine.store import Key, Result, Store, TensorValue

KEY = Key("step-1", "abc", "spectrum", '{"version":1}')
RESULT = Result(
    {"effective_rank": 12.345678901234567, "bytes": 7},
    [TensorValue("w", "rank", math.nan, "bad", "x")],
    "ok",
    0.5,
    b"\x00f",
)


def equal(one: Result, other: Result) -> bool:
    return repr(one) == repr(other)  # NaN included


def test_gives_back_exactly_what_was_kept(tmp_path):
    path = tmp_path / "deep" / "store.sqlite"
    with Store(path) as store:
        assert KEY not in store
        assert store.get(KEY) is None
        store.put([(KEY, RESULT)])
    with Store(path) as store:
        assert KEY in store
        assert equal(store.get(KEY), RESULT)


@pytest.mark.parametrize("field", Key._fields)
def test_any_change_of_the_key_is_other_work(field):
    with Store(None) as store:
        store.put([(KEY, RESULT)])
        assert KEY._replace(**{field: "other"}) not in store


def test_results_of_a_checkpoint_are_kept_together_or_not_at_all(tmp_path):
    path, other = tmp_path / "store.sqlite", KEY._replace(measure="entropy")
    bad = replace(RESULT, status=None)  # refused by the table, after the first row has been written
    with Store(path) as store, pytest.raises(sqlite3.IntegrityError):
        store.put([(KEY, RESULT), (other, bad)])
    with Store(path) as store:
        assert KEY not in store
        store.put([(KEY, RESULT), (other, RESULT)])
        assert KEY in store
        assert other in store


def test_a_second_result_of_the_same_work_takes_the_place_of_the_first():
    with Store(None) as store:
        store.put([(KEY, RESULT)])
        store.put([(KEY, replace(RESULT, status="again"))])
        assert store.get(KEY).status == "again"


def test_a_store_says_its_layout(tmp_path):
    """Or a later version could not tell that it is another one."""
    with Store(tmp_path / "store.sqlite") as store:
        store.put([(KEY, RESULT)])
    database = sqlite3.connect(tmp_path / "store.sqlite")
    assert database.execute("PRAGMA user_version").fetchone() == (1,)
    database.close()


def test_second_writer_is_told_why(tmp_path):
    path = tmp_path / "store.sqlite"
    with Store(path), pytest.raises(KolmogramError, match=r"store\.sqlite: .*another kolmogram"):
        Store(path)


def test_file_that_is_no_store_is_named(tmp_path):
    path = tmp_path / "store.sqlite"
    path.write_text("this is a text, and it is long enough to be read as a header" * 10)
    with pytest.raises(KolmogramError, match="remove the file"):
        Store(path)


def test_store_of_another_layout_is_refused(tmp_path):
    path = tmp_path / "store.sqlite"
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(KolmogramError, match="another version of kolmogram"):
        Store(path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "store.sqlite").mkdir()
    with pytest.raises(KolmogramError, match=r"store.sqlite: unable to open database file"):
        Store(tmp_path / "store.sqlite")
