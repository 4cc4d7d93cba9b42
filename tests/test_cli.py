import csv
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from kolmogram import cli
from kolmogram.cli import main
from kolmogram.engine.tasks.modular import OPERATIONS
from kolmogram.engine.tasks.networks import ARCHITECTURES
from kolmogram.engine.training.grokking import PRECISIONS
from kolmogram.engine.training.recipes import RECIPES
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).parents[1]


def run_cli(*arguments, code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def one_line_error(*arguments):
    """Exit code 1, and one line after all progress that says what is wrong."""
    result = run_cli(*arguments, code=1)
    assert "Traceback" not in result.output
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: ")
    return last


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "run"
    folder.mkdir()
    for step in (0, 5, 20):
        generator = torch.Generator().manual_seed(step)
        state = {
            "layer.weight": torch.randn(12, 6, generator=generator),
            "layer.bias": torch.zeros(12),
            "n": torch.tensor(3),
        }
        save_file(state, folder / f"step-{step:08d}.safetensors", metadata={"step": str(step)})
    return folder


@pytest.fixture(scope="module")
def out(run):
    run_cli("analyze", run)
    return run / "kolmogram"


def rows_of(text):
    return [line.split() for line in text.strip().splitlines()]


def test_analyze_prints_rows_on_stdout_and_the_rest_on_stderr(run, out):
    result = run_cli("analyze", run)
    header, *rows = rows_of(result.stdout)
    assert header[0] == "step"
    assert [row[0] for row in rows] == ["0", "5", "20"]
    assert "effective_rank" in header
    assert "report.html" in result.stderr
    with (out / "trajectory.csv").open(newline="") as stream:
        assert [row["checkpoint"] for row in csv.DictReader(stream)] == [
            f"step-{s:08d}.safetensors" for s in (0, 5, 20)
        ]


def test_analyze_a_single_checkpoint_and_a_glob(run, tmp_path):
    assert len(rows_of(run_cli("analyze", run / "step-00000005.safetensors", "-o", tmp_path / "one").stdout)) == 2
    assert len(rows_of(run_cli("analyze", run / "step-0000000*.safetensors", "-o", tmp_path / "two").stdout)) == 3


def test_analyze_only_some_measures(run, tmp_path):
    run_cli("analyze", run, "-o", tmp_path, "-m", "norms")
    header = (tmp_path / "trajectory.csv").read_text().splitlines()[0].split(",")
    assert header == ["step", "checkpoint", "parameters", "status", "l2_norm", "abs_max", "nonfinite"]


def test_one_bad_checkpoint_is_told_and_the_others_are_done(run, tmp_path):
    broken = tmp_path / "run"
    broken.mkdir()
    for path in run.glob("*.safetensors"):
        (broken / path.name).write_bytes(path.read_bytes())
    (broken / "step-00000005.safetensors").write_bytes(b"\x10")
    result = run_cli("analyze", broken, "-m", "norms")
    assert [line for line in result.stderr.splitlines() if "step-00000005.safetensors" in line]
    assert [row[0] for row in rows_of(result.stdout)[1:]] == ["0", "5", "20"]
    with (broken / "kolmogram" / "trajectory.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [math.isnan(float(row["l2_norm"])) for row in rows] == [False, True, False]


def test_analyze_watches_a_run_that_goes_on(run, tmp_path, monkeypatch):
    growing = tmp_path / "run"
    growing.mkdir()
    paths = sorted(run.glob("*.safetensors"))
    looks = iter(range(10))

    def sleep(seconds):
        assert seconds > 1
        if (look := next(looks)) > 4:
            raise KeyboardInterrupt
        if look < len(paths):
            (growing / paths[look].name).write_bytes(paths[look].read_bytes())

    monkeypatch.setattr("kolmogram.engine.watching.time.sleep", sleep)
    result = run_cli("analyze", growing, "-m", "norms", "--watch")
    assert [row[0] for row in rows_of(result.stdout)] == [
        "checkpoint",
        "step-00000000.safetensors",
        "step",
        "5",
        "step",
        "20",
    ]
    assert "no longer watching" in result.stderr
    assert (growing / "kolmogram" / "trajectory.csv").read_text().count("step-") == 3


def test_audit_says_what_is_wrong_and_ends_with_1(run, tmp_path):
    result = run_cli("audit", run, "-o", tmp_path / "sound")
    assert (result.stdout, result.stderr.splitlines()[-1]) == ("", "3 checkpoints, nothing found")
    assert "auditing 3/3: step-00000020.safetensors" in result.stderr
    copied = tmp_path / "run"
    copied.mkdir()
    one = run / "step-00000005.safetensors"
    (copied / one.name).write_bytes(one.read_bytes())
    state = load_file(one)
    save_file(state, copied / "step-00000020.safetensors", metadata={"step": "20"})
    result = run_cli("audit", copied, code=1)
    assert rows_of(result.stdout)[0] == ["step", "checkpoint", "finding", "evidence"]
    assert rows_of(result.stdout)[1][:4] == ["5", "step-00000005.safetensors", "same", "weights"]
    assert "2 checkpoints, 1 finding, 0 notes" in result.stderr
    assert (copied / "kolmogram" / "audit.csv").is_file()
    assert one_line_error("audit", copied).endswith("not all is as it seems, see above")


def bad_inputs(tmp_path):
    truncated = tmp_path / "model.safetensors"
    save_file({"w": torch.randn(64, 64)}, truncated)
    truncated.write_bytes(truncated.read_bytes()[:1000])
    text = tmp_path / "notes.pt"
    text.write_text("dear diary\n" * 100)
    empty = tmp_path / "empty"
    empty.mkdir()
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "README.md").write_text("hello")
    hostile = tmp_path / "hostile.pt"

    class Hostile:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    torch.save({"model": Hostile()}, hostile)
    return [truncated, text, empty, foreign, hostile, tmp_path / "missing"]


def test_bad_input_is_one_line_and_nothing_is_executed(tmp_path):
    for path in bad_inputs(tmp_path):
        for command in ("analyze", "inspect"):
            assert str(path) in one_line_error(command, path)
    assert not (tmp_path / "executed").exists()


def test_a_task_that_cannot_be_loaded_is_one_line(run, tmp_path):
    broken = tmp_path / "task.py"
    broken.write_text("import nothing_of_that_name\n")
    assert "task.py" in one_line_error("analyze", run, "--task", broken)
    assert "no such task file" in one_line_error("analyze", run, "--task", tmp_path / "other.py")


def test_a_run_where_nothing_could_be_measured_fails(run, tmp_path):
    task = tmp_path / "task.py"
    task.write_text(
        "class Task:\n"
        "    def loss(self, params):\n"
        "        raise ValueError('no data')\n"
        "def task():\n"
        "    return Task()\n"
    )
    result = run_cli("analyze", run, "--task", task, "-m", "norms", "-o", tmp_path / "out", code=1)
    assert "no data" in result.stderr
    assert "no checkpoint could be measured" in result.stderr


@pytest.mark.parametrize(
    "line",
    ["analyze", "analyze run --measure beauty", "analyze run --workers 0", "train poetry -o x", "report", "dig"],
)
def test_usage_errors_exit_with_2(line):
    assert "Usage:" in run_cli(*line.split(), code=2).stderr


def test_inspect_lists_every_tensor(run):
    result = run_cli("inspect", run / "step-00000005.safetensors")
    header, *rows = rows_of(result.stdout)
    assert sorted(row[:3] for row in rows) == [
        ["layer.bias", "float32", "12"],
        ["layer.weight", "float32", "12×6"],
        ["n", "int64", "scalar"],
    ]
    (row,) = [row for row in rows if row[0] == "layer.weight"]
    weights = dict(zip(header, [*row[:3], " ".join(row[3:5]), *row[5:]], strict=True))
    assert weights["size"] == "288 B"
    assert 1 < float(weights["effective_rank"]) < 6
    assert "step 5" in result.stderr
    assert "84 weights" in result.stderr


def test_inspect_wants_one_checkpoint(run):
    assert "holds 3 checkpoints; name one of them" in one_line_error("inspect", run)


def test_report_and_figure(out, tmp_path):
    page = tmp_path / "page.html"
    assert run_cli("report", out, "-o", page).stdout.strip() == str(page)
    assert "Plotly.newPlot" in page.read_text()
    for name, magic in (("f.png", b"\x89PNG"), ("f.pdf", b"%PDF"), ("f.svg", b"<?xml")):
        run_cli("figure", out, "-o", tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(magic)
    assert ".pdf, .png, .svg" in one_line_error("figure", out, "-o", tmp_path / "f.docx")
    assert "no trajectory here" in one_line_error("report", tmp_path, "-o", page)


def test_train_then_analyze_needs_no_task(tmp_path):
    run = tmp_path / "run"
    result = run_cli("train", "addition", "-o", run, "--modulus", "7", "--epochs", "4", "--architecture", "mlp")
    header, *rows = rows_of(result.stdout)
    assert header[:2] == ["step", "epoch"]
    assert rows[-1][1] == "4"
    table = run_cli("analyze", run, "-m", "norms").stdout
    assert {"train_accuracy", "test_accuracy", "loss", "test_loss"} <= set(rows_of(table)[0])
    assert "another run is here" in one_line_error("train", "division", "-o", run)


def test_doctor_says_which_backend_and_why():
    rows = rows_of(run_cli("doctor").stdout)
    assert next(row for row in rows if row[0] == "backend")[1:] != []
    assert ["kernels", "agree", "with", "their", "definition"] in rows


def test_a_run_is_profiled_and_traced_at_once(run, tmp_path, monkeypatch):
    analyzed = []
    monkeypatch.setattr("kolmogram.engine.analysis.analyze", lambda *given, **options: analyzed.append(given))
    table = run_cli("profile", "--size", 1000, "--run", run, "--trace", tmp_path / "trace.json").stdout
    assert len(analyzed) == 1
    assert "other" in table
    assert (tmp_path / "trace.json").is_file()


def test_choices_are_those_of_the_library():
    assert tuple(OPERATIONS) == cli.OPERATIONS
    assert tuple(ARCHITECTURES) == cli.ARCHITECTURES
    assert tuple(RECIPES) == cli.RECIPES
    assert tuple(PRECISIONS) == cli.PRECISIONS


def test_python_dash_m_is_the_same_command():
    result = subprocess.run(
        [sys.executable, "-m", "kolmogram", "--version"], capture_output=True, text=True, check=True
    )
    assert result.stdout.startswith("kolmogram, version ")


@pytest.mark.parametrize("name", main.commands)
def test_every_command_has_help_and_short_options(name):
    command = main.commands[name]
    assert command.help
    assert len(command.get_short_help_str(60)) < 60
    assert "Usage: " in run_cli(name, "-h").output


def test_command_bodies_are_short():
    source = (ROOT / "cli.py").read_text().splitlines()
    for command in main.commands.values():
        first = command.callback.__code__.co_firstlineno
        last = max(line for _, _, line in command.callback.__code__.co_lines() if line)
        assert last - first < 40, command.name
    assert len(source) < 400


def test_docs_are_what_help_prints():
    """docs/cli.md is generated: `python tests/test_cli.py` writes it."""
    assert (ROOT / "docs" / "cli.md").read_text() == cli_reference()


def cli_reference():
    def section(title, *arguments):
        text = CliRunner().invoke(main, [*arguments, "--help"], prog_name="kolmogram", terminal_width=100).output
        return f"{title}\n\n```\n{text}```"

    parts = [section("# Commands\n\nGenerated from `--help` by `python tests/test_cli.py`.")]
    parts += [section(f"## kolmogram {name}", name) for name in main.commands]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    (ROOT / "docs" / "cli.md").write_text(cli_reference())


def test_threads_that_wait_soon_stop_spinning_unless_the_user_wants_them_to(monkeypatch):
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    CliRunner().invoke(main, ["train", "--help"])
    assert "GOMP_SPINCOUNT" not in os.environ
    monkeypatch.delenv("OMP_WAIT_POLICY")
    CliRunner().invoke(main, ["train", "--help"])
    assert os.environ["GOMP_SPINCOUNT"] == "10000"


def test_an_interrupted_command_says_what_is_kept(run, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("kolmogram.engine.analysis.analyze", interrupted)
    result = run_cli("analyze", run, code=130)
    assert result.stderr.strip().endswith("interrupted; what was finished is kept")
