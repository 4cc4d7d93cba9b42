"""Short names of files, which tell checkpoints apart."""

import math

from kolmogram.engine.tables import file_labels


def test_files_are_called_by_their_step_where_that_tells_them_apart():
    steps = {"a/step_5.pt": 5.0, "b/step_5.pt": 5.0, "b/step_7.pt": 7.0, "b/last.pt": None, "c.pt": math.nan}
    assert list(file_labels(steps).values()) == ["a_step_5.pt", "b_step_5.pt", "7", "b_last.pt", "c.pt"]


def test_names_that_are_the_same_without_slashes_are_told_apart_too():
    assert list(file_labels({"a/b.pt": None, "a_b.pt": None}).values()) == ["a%2Fb.pt", "a_b.pt"]
