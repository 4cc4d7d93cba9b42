import re

import pytest
from kolmogram.engine.errors import KolmogramError
from kolmogram.engine.report.figure import _mark_phases, write_figure
from matplotlib.figure import Figure
from PIL import Image


@pytest.mark.parametrize("options", [{}, {"task": False}])
def test_png_is_drawn_one_column_wide(folder, tmp_path, options):
    write_figure([folder("addition", **options)], tmp_path / "f.png")
    image = Image.open(tmp_path / "f.png")
    assert image.width == 1020  # 3.4 inches at 300 dpi
    colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}
    assert ((201, 48, 74) in colours) == (options == {})  # the complexity line


def test_text_stays_text_and_runs_are_named(folder, tmp_path):
    write_figure([folder("addition"), folder("baseline")], tmp_path / "f.svg")
    text = (tmp_path / "f.svg").read_text()
    assert all(word in text for word in ("Accuracy", "Complexity, bytes", "addition", "baseline", "step"))


def words(tmp_path, *folders):
    write_figure(folders, tmp_path / "words.svg")
    return set(re.findall(r">([^<>]+)</text>", (tmp_path / "words.svg").read_text()))


def test_markers_and_labels_of_a_run_with_a_best_checkpoint(folder, tmp_path):
    drawn = words(tmp_path, folder("run", broken=False, stepless=("best.pt",)))
    assert {"42.1 kB", "fall", "0", "10", "1,000"} <= drawn
    assert drawn == words(tmp_path, folder("run", broken=False))


def test_markers_are_where_the_peak_and_the_fall_are(view):
    axis = Figure().subplots()
    _mark_phases(axis, view, view.panels()[0])
    assert [line.get_xdata()[0] for line in axis.lines] == [100, 10_000]


def test_no_marker_without_a_fall(folder, tmp_path):
    assert not {"229 B", "fall"} & words(tmp_path, folder("run", sizes=(119, 150, 143, 229, 133)))


def test_runs_that_share_no_panel_are_all_named(folder, tmp_path):
    assert {"addition", "weights"} <= words(tmp_path, folder("addition"), folder("weights", task=False))


def test_a_run_without_steps_is_left_out_and_named(folder, tmp_path):
    odd = folder("odd", steps=(), broken=False, stepless=("a", "b"))
    assert {"step", "without steps, not drawn: odd"} <= words(tmp_path, folder("addition"), odd)
    assert {"checkpoint", "1", "2"} <= words(tmp_path, odd)


@pytest.mark.parametrize("suffix", [".pdf", ".svg", ".png"])
def test_equal_tables_are_equal_files(folder, tmp_path, suffix):
    source = folder("addition")
    for name in ("one", "two"):
        write_figure([source], (tmp_path / name).with_suffix(suffix))
    assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()


def test_other_formats_and_empty_tables_are_refused(folder, tmp_path):
    with pytest.raises(KolmogramError, match=r"\.pdf, \.png, \.svg"):
        write_figure([folder("addition")], tmp_path / "f.jpg")
    with pytest.raises(KolmogramError, match="no column to draw"):
        write_figure([folder("nothing", steps=())], tmp_path / "f.png")
