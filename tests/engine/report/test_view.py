import math

import pytest
from kolmogram.engine.errors import KolmogramError
from kolmogram.engine.report.ticks import step_ticks
from kolmogram.engine.report.view import (
    View,
    bound_terms,
    findings,
    format_bytes,
    format_cell,
    hints,
    load_views,
    panel_titles,
    verdict,
)
from kolmogram.engine.trajectory import Trajectory, make_rows

STEPS = (0, 10, 100, 1000, 10000)


def test_findings_say_what_the_numbers_carry(view):
    assert findings(view) == [
        "Complexity (ε = 1 nat) peaks at 42.1 kB at step 100 and falls to 5 kB at step 10,000, 8.4 times less.",
        "By its sizes alone, the fall is half-way at step 10,000 (confidence 0.58).",
        "Test accuracy passes 0.9 at step 10,000, after the peak.",
    ]


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ((59, 59, 59, 59, 59), "is 59 B throughout."),
        ((59, 59, 200, 500, 923), "ranges from 59 B to 923 B; no fall is seen."),
        ((119, 150, 143, 229, 133), "ranges from 119 B to 229 B; no fall is seen."),  # one outlier is no peak
        ((119, math.nan, math.nan, math.nan, 133), "is 119 B at step 0 and 133 B at step 10,000."),
        ((math.nan, 119, math.nan, math.nan, math.nan), "is 119 B at step 10."),
        (
            (100, 9000, 9500, 100, 110),
            "falls to 100 B at step 1,000, 95.0 times less, then rises to 110 B at step 10,000.",
        ),
    ],
)
def test_a_peak_is_one_only_if_a_fall_follows(make, sizes, words):
    view = make(sizes=sizes, broken=False)
    assert findings(view)[0].endswith(words)
    assert any("the peak" in sentence for sentence in findings(view)) == ("falls" in words)


@pytest.mark.parametrize(
    ("accuracies", "order"), [((0.9, 1, 1, 1, 1), "before"), ((0, 0, 0.9, 1, 1), "at"), ((0, 0, 0, 0, 1), "after")]
)
def test_findings_say_on_which_side_of_the_peak_the_network_understands(make, accuracies, order):
    rows = make(broken=False).trajectory.rows
    changed = [row | {"test_accuracy": accuracy} for row, accuracy in zip(rows, accuracies, strict=True)]
    assert findings(View(Trajectory(changed), "run"))[-1].endswith(f", {order} the peak.")


def test_what_has_no_step_is_neither_peak_nor_end(make):
    views = [make(broken=False), make(broken=False, stepless=("best.pt", "last.pt"))]
    assert findings(views[0]) == findings(views[1])
    assert views[0].x == views[1].x
    assert [len(view.trajectory) for view in views] == [5, 7]
    assert {len(values) for values in views[1].tensor_values("effective_rank").values()} == {5}
    single = make(steps=(7,), broken=False, stepless=("best.pt", "last.pt"))  # too few steps for an axis
    assert findings(single)[0] == "Complexity (ε = 1 nat) ranges from 500 B to 421 kB."


def test_an_epsilon_that_empties_every_file_is_told(make):
    view = make(coded="zero")
    assert hints(view)[0].startswith("ε = 1 is more than what the empty network loses")
    assert findings(view)[-1] == hints(view)[0] + "."
    assert hints(make(coded="direct")) == hints(make(task=False)) == []


def test_phases_are_of_the_largest_epsilon_that_tells_anything(make):
    rows = [row | {"complexity_bytes@1.0": 59.0} for row in make(broken=False).rows]
    view = View(Trajectory(rows), "x")
    assert view.main_complexity == "complexity_bytes@0.25"
    assert [sentence.partition(" at ")[0] for sentence in findings(view)[:2]] == [
        "Complexity (ε = 1 nat) is 59 B throughout.",
        "Complexity (ε = 0.25 nat) peaks",
    ]


@pytest.mark.parametrize(
    ("steps", "labels"),
    [
        (STEPS, {5: "0", 10: "10", 100: "100", 1000: "1,000", 10000: "10,000"}),
        (range(200, 901, 100), {200: "200", 300: "300", 500: "500", 700: "700"}),
        ((10, 20, 60), {10: "10", 20: "20", 30: "30", 50: "50"}),
        ((600, 640), {600: "600", 640: "640"}),
        ((7,), {1: "1"}),
    ],
)
def test_steps_have_plain_labels(make, steps, labels):
    assert step_ticks([make(steps=tuple(steps), task=False, broken=False)])[0] == labels


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
    assert [view.name for view in load_views([one, one, other])] == [str(one), f"{one} (2)", "b"]
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


def test_where_there_are_no_bounds_nothing_is_said_to_be_probable():
    assert bound_terms({"confidence": 0.95, "assumptions": ["Dependent: no bounds."]}) == ("Dependent: no bounds.", [])
    before, assumptions = bound_terms({"confidence": 0.95, "assumptions": ["a", "b"]})
    assert before.startswith("With probability 0.95")
    assert assumptions == ["a", "b"]
