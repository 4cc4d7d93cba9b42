import io
import re
import sys

import pytest
from kolmogram.engine.analysis import Progress
from kolmogram.engine.audit import Audit
from kolmogram.engine.audit.findings import Finding
from kolmogram.engine.report.progress import ProgressLines
from kolmogram.engine.report.terminal import ProgressBars, print_audit, print_table, print_trajectory


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """Prints in a terminal of some width; gives the lines."""

    def printed(width, function, *arguments):
        stream = Terminal()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stream)
            patch.setenv("COLUMNS", str(width))
            patch.setenv("TERM", "xterm")
            function(*arguments)
        return re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue()).splitlines()

    return printed


COLUMNS = ("step", "epoch", "train_accuracy", "test_accuracy", "loss", "complexity_bytes@1.0", "complexity_bytes@0.25",
           "loss_bound", "effective_rank", "l2_norm")  # fmt: skip
CELLS = ("1,234,567", "98,765", "0.1234", "0.5678", "1.234e-05", "12,345", "123,456", "0.4321", "24.68", "135.7")


@pytest.mark.parametrize("width", range(27, 120, 7))
def test_a_number_is_whole_or_not_there(terminal, width):
    lines = terminal(width, print_table, COLUMNS, [CELLS], "trajectory.csv has them")
    (cells,) = [line.split() for line in lines if "1,234,567" in line]
    assert set(cells) <= set(CELLS)
    text = " ".join(line.strip() for line in lines)
    missing = [name for name, cell in zip(COLUMNS, CELLS, strict=True) if cell not in cells]
    assert (f"{width} columns are too few: {', '.join(missing)}; trajectory.csv has them" in text) == bool(missing)
    assert all(len(line) <= width for line in lines)


def test_the_least_important_columns_go_first(terminal):
    lines = terminal(80, print_table, COLUMNS, [CELLS])
    (cells,) = [line.split() for line in lines if "1,234,567" in line]
    assert cells == [c for n, c in zip(COLUMNS, CELLS, strict=True) if n not in ("l2_norm", "effective_rank", "epoch")]
    (cells,) = [line.split() for line in terminal(40, print_table, COLUMNS, [CELLS]) if "1,234,567" in line]
    assert cells == ["1,234,567", "12,345", "123,456"]


def test_long_texts_are_folded_beside_whole_numbers(terminal):
    found = [Finding("a/very/long/name/of/a/checkpoint-00001234.safetensors", 1234567, "stale", "seen " * 20)]
    lines = terminal(60, print_audit, Audit(1, found))
    assert any("1,234,567" in line for line in lines)
    assert "not shown" not in "".join(lines)


def test_in_a_pipe_nothing_is_left_out(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    print_table(COLUMNS, [CELLS])
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [list(COLUMNS), list(CELLS)]


def test_rows_without_a_step_have_their_names(make, capsys):
    print_trajectory(make(broken=False, stepless=("best.pt",)).trajectory)
    header, *rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert header[:2] == ["step", "checkpoint"]
    assert [row[:2] for row in rows[-2:]] == [["10000", "step-4"], ["–", "best.pt"]]


def test_a_name_in_a_pipe_keeps_its_commas_and_a_number_has_none(make, capsys):
    print_trajectory(make(broken=False, stepless=("epoch=3,step=5.ckpt",)).trajectory)
    *_, row = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert row[1] == "epoch=3,step=5.ckpt"
    assert "421000" in row


def test_an_epsilon_that_is_too_large_is_told(make, capsys):
    print_trajectory(make(coded="zero").trajectory)
    assert "try a smaller --epsilon" in capsys.readouterr().err


def test_progress_lines_come_now_and_then(capsys):
    times = iter([0, 60, 61, 62, 62.5, 180, 181])
    lines = ProgressLines(lambda: next(times))
    lines.show("analyzing", 0, 6, "2 already done")
    for done in range(1, 4):
        lines.show("analyzing", done, 6, f"step-{done}")
    lines.show("analyzing", 4, 6, "step-4", "norms: no data")
    lines.show("analyzing", 5, 6, "step-5")
    lines.show("analyzing", 6, 6, "step-6")
    lines.flush()
    assert capsys.readouterr().err.splitlines() == [
        "analyzing 0/6: 2 already done",
        "analyzing 1/6: step-1, 5 min left",
        "analyzing 4/6: step-4, norms: no data, 31 s left",
        "analyzing 5/6: step-5, 36 s left",
        "analyzing 6/6: step-6",
    ]


def test_the_last_line_comes_where_the_end_was_not_known(capsys):
    times = iter([0, 1, 2])
    lines = ProgressLines(lambda: next(times))
    for epoch in range(3):
        lines.show("training", epoch, None, "")
    lines.flush()
    assert capsys.readouterr().err.splitlines() == ["training 0", "training 2"]


def test_without_a_terminal_progress_is_told_in_lines(capsys):
    with ProgressBars() as bars:
        bars.analysis(Progress(0, 0, 3))  # nothing to do, nothing to say
    assert capsys.readouterr().err == ""
    with ProgressBars() as bars:
        bars.audit(Progress(0, 1, 0))
        bars.audit(Progress(1, 1, 0, "a.pt", "truncated"))
    assert capsys.readouterr().err.splitlines() == ["auditing 0/1", "auditing 1/1: a.pt, truncated"]
