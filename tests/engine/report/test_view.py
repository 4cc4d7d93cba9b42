import math

import pytest
from kolmogram.engine.errors import KolmogramError
from kolmogram.engine.report.findings import findings
from kolmogram.engine.report.view import View, load_views, panel_titles
from kolmogram.engine.trajectory import Trajectory, make_rows

STEPS = (0, 10, 100, 1000, 10000)


def test_phases_are_of_the_largest_epsilon_that_tells_anything(make):
    rows = [row | {"complexity_bytes@1.0": 59.0} for row in make(broken=False).rows]
    view = View(Trajectory(rows), "x")
    assert view.main_complexity == "complexity_bytes@0.25"
    assert [sentence.partition(" at ")[0] for sentence in findings(view)[:2]] == [
        "Complexity (ε = 1 nat) is 59 B throughout.",
        "Complexity (ε = 0.25 nat) peaks",
    ]


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
    assert [view.name for view in load_views([one, one, other])] == [str(one), f"{one} (2)", "b"]
    with pytest.raises(KolmogramError, match="at least one folder"):
        load_views([])


def test_runs_that_share_an_axis_share_the_place_of_step_zero(folder):
    late, early = load_views([folder("late", steps=(0, 5000, 9000)), folder("early", steps=(0, 50, 200))])
    assert late.x == [25, 5000, 9000, *late.x[3:]]
    assert early.x[:3] == [25, 50, 200]


def test_sizes_at_different_epsilons_are_named(folder, tmp_path):
    table = Trajectory.load(folder("one"))
    rows = [{k: v for k, v in row.items() if k != "complexity_bytes@1.0"} for row in table.rows]
    Trajectory(rows, table.tensors, table.provenance).save(tmp_path / "other")
    views = load_views([folder("one"), tmp_path / "other"])
    assert [view.name for view in views] == ["one, ε = 1", "other, ε = 0.25"]
    assert [view.name for view in load_views([folder("one"), folder("two")])] == ["one", "two"]


def test_what_is_proved_is_a_panel_above_the_complexity(folder):
    table = View.load(folder("addition", broken=False)).trajectory
    bounds = {"unseen_error_bound": 0.4, "error_bound": 0.3, "chance_error": 0.9}
    proved = View(Trajectory([row | bounds for row in table.rows], table.tensors), "run")
    assert [panel.title for panel in proved.panels()] == ["Accuracy", "Error on unseen examples", "Complexity"]
    assert [line.label for line in proved.panels()[1].lines] == ["at most", "chance"]
    independent = View(Trajectory([row | bounds | {"unseen_error_bound": math.nan} for row in table.rows]), "run")
    assert independent.panels()[1].title == "Error on the population"
