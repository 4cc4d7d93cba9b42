import math

import pytest
from kolmogram.engine.errors import KolmogramError
from kolmogram.engine.report.view import View, findings, format_bytes, format_cell, load_views, panel_titles, verdict
from kolmogram.engine.trajectory import Trajectory, make_rows


def test_findings_say_what_the_numbers_carry(view):
    assert findings(view) == [
        "Complexity (ε = 1 nat) peaks at 42.1 kB at step 100 and falls to 5 kB at step 10,000, 8.4 times less.",
        "By its sizes alone, the fall is half-way at step 10,000 (confidence 0.58).",
        "Test accuracy passes 0.9 at step 10,000, after the peak.",
    ]


def test_no_finding_without_complexity(folder):
    assert findings(View.load(folder("weights", task=False))) == []


def test_panels_with_and_without_a_task(view, folder):
    assert panel_titles([view]) == ["Accuracy", "Complexity"]
    accuracy, complexity = view.panels()
    assert [line.label for line in accuracy.lines] == ["train", "test"]
    assert [(line.label, line.rank) for line in complexity.lines] == [("ε = 1", 0), ("ε = 0.25", 1)]
    assert [line.rank for line in complexity.compared()] == [0]
    assert panel_titles([View.load(folder("weights", task=False))]) == ["Effective rank"]


def test_step_zero_has_a_place_on_a_logarithmic_axis(view):
    assert view.steps[0] == 0
    assert view.x[:2] == [5, 10]


def test_runs_without_steps_are_numbered():
    rows = [{"step": math.nan, "checkpoint": name, "parameters": 1, "status": "ok", "l2_norm": 1.0} for name in "ab"]
    view = View(Trajectory(make_rows(rows)), "x")
    assert not view.has_steps
    assert view.x == [1, 2]


def test_values_of_tensors_line_up_with_the_checkpoints(view):
    values = view.tensor_values("singular_value@2")
    assert values["embed.weight"][:5] == [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5]
    assert math.isnan(values["embed.weight"][5])


def test_labels_do_not_cover_each_other(view):
    accuracy = view.panels()[0]
    places = accuracy.label_places(height=100, spacing=15)
    assert [i for i, _ in places] == [4, 4]
    at = [line.values[i] * 100 / 1.0 + offset for line, (i, offset) in zip(accuracy.lines, places, strict=True)]
    assert at[0] - at[1] >= 15


def test_names_tell_runs_apart(folder, tmp_path):
    one, other = folder("a/kolmogram"), folder("b/kolmogram")
    assert [view.name for view in load_views([one, other])] == ["a", "b"]
    same = folder("c/a/kolmogram")
    assert len({view.name for view in load_views([one, same])}) == 2
    with pytest.raises(KolmogramError, match="at least one folder"):
        load_views([])


@pytest.mark.parametrize(
    ("size", "text"), [(842, "842 B"), (21235, "21.2 kB"), (3.4e6, "3.4 MB"), (1.2e10, "12 GB"), (math.nan, "–")]
)
def test_sizes_for_people(size, text):
    assert format_bytes(size) == text


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [("step", 12000, "12,000"), ("complexity_bytes@1.0", 21235.0, "21,235"), ("loss", 0.12345, "0.1235")],
)
def test_cells_for_people(column, value, text):
    assert format_cell(column, value) == text


def test_what_is_proved_is_a_panel_above_the_complexity(folder):
    table = View.load(folder("addition", broken=False)).trajectory
    bounds = {"unseen_error_bound": 0.4, "error_bound": 0.3, "chance_error": 0.9}
    proved = View(Trajectory([row | bounds for row in table.rows], table.tensors), "run")
    assert [panel.title for panel in proved.panels()] == ["Accuracy", "Error on unseen examples", "Complexity"]
    assert [line.label for line in proved.panels()[1].lines] == ["at most", "chance"]
    independent = View(Trajectory([row | bounds | {"unseen_error_bound": math.nan} for row in table.rows]), "run")
    assert independent.panels()[1].title == "Error on the population"


@pytest.mark.parametrize(
    ("unseen", "population", "words"),
    [(0.5, 0.4, "below chance"), (math.nan, 0.4, "below chance"), (0.95, 0.4, "below 1"), (1.0, 0.8, "nothing"),
     (math.nan, math.nan, "–")],
)  # fmt: skip
def test_verdicts_are_about_what_was_not_seen(unseen, population, words):
    row = {"unseen_error_bound": unseen, "error_bound": population, "chance_error": 0.9}
    assert verdict(row) == words
