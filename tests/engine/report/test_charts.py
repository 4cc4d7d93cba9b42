"""The charts of the page, before they are drawn."""

import math

from kolmogram.engine.report import charts
from kolmogram.engine.report.view import View


def test_labels_and_marks_are_where_the_lines_are(view):
    layout = charts.overview([view])["layout"]
    places = {label["text"]: label["x"] for label in layout["annotations"]}
    assert places["train"] == places["test"] == places["ε = 1"] == 4, "log₁₀ of 10,000"
    assert [mark["x0"] for mark in layout["shapes"]] == [100, 10_000]


def test_training_is_dotted_where_several_runs_are_drawn(view):
    lines = charts.overview([view, View(view.trajectory, "other")])["data"]
    assert {line["name"] for line in lines if line["line"]["dash"] == "dot"} == {"addition, train", "other, train"}
    assert {line["line"]["dash"] for line in charts.overview([view])["data"]} == {"solid"}


def test_tensors_are_ordered_by_what_is_known_of_them():
    assert charts._largest_first({"a": [math.nan, 1.0], "b": [3.0, 3.0], "c": [math.nan, 9.0]}) == ["c", "b", "a"]


def test_what_the_overview_shows_is_not_shown_again(folder):
    weights = View.load(folder("weights", task=False))
    assert [trace["name"] for trace in charts.overview([weights])["data"]] == ["effective rank"]
    assert charts.controls([weights]) is None
