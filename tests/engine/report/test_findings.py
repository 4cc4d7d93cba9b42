import math

import pytest
from kolmogram.engine.report.findings import bound_terms, findings, hints, verdict
from kolmogram.engine.report.view import View
from kolmogram.engine.trajectory import Trajectory


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


def test_no_finding_without_complexity(folder):
    assert findings(View.load(folder("weights", task=False))) == []


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
