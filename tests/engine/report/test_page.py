import json
import math
import re

from kolmogram.engine.report.page import _facts, write_report
from kolmogram.engine.report.view import View
from kolmogram.engine.trajectory import Trajectory


def charts_of(text):
    return json.loads(re.search(r"^const charts = (.*);$", text, re.M).group(1))


def page(tmp_path, *folders):
    write_report(folders, tmp_path / "report.html")
    return (tmp_path / "report.html").read_text()


def test_page_needs_nothing_from_outside(folder, tmp_path):
    text = page(tmp_path, folder("addition"))
    without_plotly = re.sub(r"<script>/\*\*.*?</script>", "", text, count=1, flags=re.S)
    assert len(text) - len(without_plotly) > 1e6  # plotly.js is inside
    assert "http" not in without_plotly
    assert "plotly.js v" in text


def test_charts_of_a_run_with_a_task(folder, tmp_path):
    text = page(tmp_path, folder("addition"))
    overview, controls, sizes, ranks, spectra = charts_of(text).values()
    assert [trace["name"] for trace in overview["data"]] == ["train", "test", "ε = 1", "ε = 0.25"]
    assert overview["data"][2]["y"] == [500, 4000, 42100, 20000, 5000, None]
    assert overview["layout"]["xaxis"]["type"] == "log"
    assert len(controls["data"]) == 1
    stacked = [sum(column) for column in zip(*(trace["y"] for trace in sizes["data"]), strict=True)]
    assert stacked == [500, 4000, 42100, 20000, 5000]
    assert len(ranks["data"]) == 2
    assert [trace["visible"] for trace in spectra["data"]] == [True, True, False, False]
    assert "peaks at 42.1 kB at step 100" in text
    assert all(f'id="{name}"' in text for name in charts_of(text))


def everything(value):
    """All numbers in a chart, lists of lists included."""
    if isinstance(value, dict | list):
        return [x for part in (value.values() if isinstance(value, dict) else value) for x in everything(part)]
    return [value]


def test_checkpoints_without_a_step_are_in_the_table_only(folder, tmp_path):
    with_best = charts_of(page(tmp_path, folder("addition", broken=False, stepless=("best.pt",))))
    text = (tmp_path / "report.html").read_text()
    assert with_best == charts_of(page(tmp_path, folder("addition", broken=False)))
    assert not any(isinstance(value, float) and math.isnan(value) for value in everything(with_best))
    assert "6, 1 without a step" in text
    assert "<td>best.pt</td><td>–</td>" in text


def test_peak_and_fall_are_marked_only_where_there_is_a_fall(folder, tmp_path):
    def marks(**options):
        layout = charts_of(page(tmp_path, folder("run", **options)))["chart-0"]["layout"]
        return [shape["x0"] for shape in layout["shapes"]], [note["text"] for note in layout["annotations"]]

    lines, words = marks()
    assert lines == [100, 10000]
    assert {"fall", "<b>42.1 kB</b>"} <= set(words)
    lines, words = marks(sizes=(119, 150, 143, 229, 133))
    assert lines == []
    assert not {"fall", "<b>229 B</b>"} & set(words)


def test_a_run_without_steps_does_not_take_the_steps_of_others(folder, tmp_path):
    text = page(tmp_path, folder("addition"), folder("odd", steps=(), broken=False, stepless=("a", "b")))
    layout = charts_of(text)["chart-0"]["layout"]
    assert layout["xaxis"]["title"]["text"] == "step"
    assert not any("odd" in trace["name"] for trace in charts_of(text)["chart-0"]["data"])
    assert "Without steps, and so not drawn here: odd." in text


def test_failures_are_in_the_table(folder, tmp_path):
    text = page(tmp_path, folder("addition"))
    assert "1 with problems" in text
    assert "bad&lt;b&gt;: truncated; copy it again" in text


def test_names_from_files_cannot_become_code(folder, tmp_path):
    text = page(tmp_path, folder("addition"))
    assert "alert(1)" in text
    assert "<script>alert" not in text
    assert "bad<b>" not in text


def test_runs_side_by_side(folder, tmp_path):
    text = page(tmp_path, folder("addition"), folder("baseline", broken=False))
    overview = next(iter(charts_of(text).values()))
    names = [trace["name"] for trace in overview["data"]]
    panels = [["train", "test"], ["ε = 1"]]
    assert names == [f"{run}, {line}" for lines in panels for run in ("addition", "baseline") for line in lines]
    colours = {trace["line"]["color"] for trace in overview["data"] if "ε" in trace["name"]}
    assert len(colours) == 2


def test_run_without_a_task(folder, tmp_path):
    text = page(tmp_path, folder("weights", task=False))
    assert "Where the bytes go" not in text
    assert "give a task to measure complexity" in text


def test_run_in_which_everything_failed(folder, tmp_path):
    text = page(tmp_path, folder("nothing", steps=()))
    assert "truncated" in text
    assert charts_of(text) == {}


def test_many_tensors_are_summed_up(folder, tmp_path):
    names = tuple(f"layer.{i}" for i in range(60))
    charts = list(charts_of(page(tmp_path, folder("deep", tensor_names=names))).values())
    assert charts[2]["data"][-1]["name"] == "48 others"
    assert charts[2]["data"][-1]["y"][0] == 48 * 250
    assert len(charts[3]["data"]) == 40


def test_a_first_checkpoint_that_is_broken_does_not_hide_the_number_of_weights():
    rows = [{"step": i, "checkpoint": str(i), "parameters": n, "status": "ok"} for i, n in enumerate((math.nan, 1000))]
    assert "<dt>weights</dt><dd>1,000</dd>" in _facts(View(Trajectory(rows), ""))
    assert "<dt>weights</dt><dd>–</dd>" in _facts(View(Trajectory(rows[:1]), ""))
