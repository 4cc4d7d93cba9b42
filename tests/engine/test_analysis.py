import json
import math
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import kolmogram
import pytest
import torch
from kolmogram.engine import measurement
from kolmogram.engine.analysis import Progress, analyze, default_out
from kolmogram.engine.errors import BackendError, CheckpointError, KolmogramError, TaskError
from kolmogram.engine.tasks import Task
from kolmogram.engine.training.grokking import train
from safetensors.torch import save_file

WEIGHTS_ONLY = ("entropy", "norms", "spectrum")

TASK = """
import torch
import kolmogram

def task():
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(64, 6, generator=generator)
    targets = inputs[:, :3].argmax(1)
    made = kolmogram.Task.from_module(model, [(inputs, targets)], torch.nn.functional.cross_entropy)
    made.accuracies = lambda params: {"train_accuracy": 0.5}
    return made
"""


def state(step):
    torch.manual_seed(step)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def write_run(folder, steps=(0, 10, 100)):
    folder.mkdir(parents=True, exist_ok=True)
    for step in steps:
        save_file(state(step), folder / f"step-{step:08d}.safetensors", metadata={"step": str(step)})
    return folder


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run")


@pytest.fixture
def task_file(tmp_path):
    path = tmp_path / "my_task.py"
    path.write_text(TASK)
    return str(path)


class Counting:
    """How many checkpoints are really measured."""

    def __init__(self, monkeypatch):
        self.measured = []
        real = measurement.measure_checkpoint

        def counted(checkpoint, work, *rest):
            self.measured.append((checkpoint.name, [key.measure for key in work]))
            return real(checkpoint, work, *rest)

        monkeypatch.setattr("kolmogram.engine.analysis.measure_checkpoint", counted)


def test_table_of_a_run_without_a_task(run, tmp_path):
    table = kolmogram.analyze(run, out=tmp_path / "out")
    assert table["step"] == [0, 10, 100]
    assert table["parameters"] == [83, 83, 83]
    assert table["status"] == ["ok"] * 3
    assert not [name for name in table.columns if "complexity" in name]
    written = {path.name for path in (tmp_path / "out").iterdir()}
    tables = {"trajectory.csv", "trajectory.parquet", "tensors.parquet"}
    assert written == tables | {"report.html", "provenance.json", "store.sqlite"}
    own = {t for t, m in zip(table.tensors["tensor"], table.tensors["measure"], strict=True) if m == "effective_rank"}
    assert own == {"0.weight", "2.weight"}


def test_numbers_are_those_of_the_definitions(run):
    table = analyze(run, measures=WEIGHTS_ONLY)
    weights = state(10)
    row = table.rows[1]
    ranks = {name: kolmogram.spectrum(weights[name]).effective_rank for name in ("0.weight", "2.weight")}
    assert row["effective_rank"] == pytest.approx((48 * ranks["0.weight"] + 24 * ranks["2.weight"]) / 72)
    vector = torch.cat([tensor.flatten() for tensor in weights.values()]).double()
    assert row["l2_norm"] == pytest.approx(vector.norm().item())
    assert row["nonfinite"] == 0


def test_nothing_is_measured_twice(run, tmp_path, monkeypatch):
    counting = Counting(monkeypatch)
    out = tmp_path / "out"
    first = analyze(run, measures=["norms"], out=out)
    assert len(counting.measured) == 3
    again = analyze(run, measures=["norms"], out=out)
    assert len(counting.measured) == 3
    assert again.to_csv() == first.to_csv()
    analyze(run, measures=["norms", "spectrum"], out=out)
    assert counting.measured[3:] == [(checkpoint.name, ["spectrum"]) for checkpoint in kolmogram.open_run(run)]


def test_a_changed_checkpoint_is_measured_again_and_the_others_are_not(run, tmp_path, monkeypatch):
    before = analyze(run, measures=["norms"], out=tmp_path / "out")
    counting = Counting(monkeypatch)
    save_file(state(7), run / "step-00000010.safetensors", metadata={"step": "10"})
    after = analyze(run, measures=["norms"], out=tmp_path / "out")
    assert counting.measured == [("step-00000010.safetensors", ["norms"])]
    assert after["l2_norm"][1] != before["l2_norm"][1]
    assert after["l2_norm"][::2] == before["l2_norm"][::2]


def test_a_new_version_of_a_measure_is_measured_again(run, tmp_path, monkeypatch):
    analyze(run, measures=["norms"], out=tmp_path / "out")
    counting = Counting(monkeypatch)
    monkeypatch.setattr(type(measurement.ANALYZERS["norms"]), "version", 99)
    analyze(run, measures=["norms"], out=tmp_path / "out")
    assert len(counting.measured) == 3


def test_broken_checkpoints_are_marked_and_the_others_done(run):
    good = (run / "step-00000010.safetensors").read_bytes()
    (run / "step-00000010.safetensors").write_bytes(good[: len(good) // 2])
    table = analyze(run, measures=WEIGHTS_ONLY)
    assert table["status"][0] == table["status"][2] == "ok"
    assert "step-00000010.safetensors" in table["status"][1]
    assert "truncated" in table["status"][1]
    assert all(math.isnan(table[name][1]) for name in table.columns[4:])
    assert not math.isnan(table["effective_rank"][2])


def failing(monkeypatch, *names):
    def fail(self, statistics):
        raise ZeroDivisionError("not today")

    for name in names:
        monkeypatch.setattr(type(measurement.ANALYZERS[name]), "tensor", fail)


def test_a_measure_that_fails_is_nan_with_its_reason_and_is_tried_again(run, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        failing(patch, "norms")
        table = analyze(run, measures=["norms", "spectrum"], out=tmp_path / "out")
    assert table["status"] == ["norms: ZeroDivisionError: not today"] * 3
    assert not any(map(math.isnan, table["effective_rank"]))
    failed = [i for i, name in enumerate(table.tensors["measure"]) if name == "norms"]
    assert len(failed) == 3
    assert all(math.isnan(table.tensors["value"][i]) and table.tensors["tensor"][i] == "" for i in failed)
    again = analyze(run, measures=["norms", "spectrum"], out=tmp_path / "out")
    assert again["status"] == ["ok"] * 3


def test_measures_that_fail_alike_are_told_together(run, monkeypatch):
    failing(monkeypatch, "entropy", "norms")
    seen: list[Progress] = []
    table = analyze(run, measures=["entropy", "norms"], progress=seen.append)
    assert table["status"] == ["entropy, norms: ZeroDivisionError: not today"] * 3
    assert [p.problem for p in seen] == ["", *["ZeroDivisionError: not today"] * 3]


def test_weights_that_are_not_finite(run):
    weights = state(10)
    weights["0.weight"][0, 0] = math.inf
    save_file(weights, run / "step-00000010.safetensors", metadata={"step": "10"})
    table = analyze(run, measures=WEIGHTS_ONLY)
    assert table["nonfinite"] == [0, 1, 0]
    assert math.isnan(table["effective_rank"][1])
    assert math.isfinite(table["l2_norm"][1])


def test_logged_metrics_are_joined_by_step(run):
    text = "step,epoch,train_accuracy,test_accuracy,l2_norm,note,seconds\n0,0,0.1,0.05,-1,x,3\n100,20,1.0,0.9,-1,y,9\n"
    (run / "metrics.csv").write_text(text)
    table = analyze(run, measures=["norms"])
    assert table["epoch"][0] == 0
    assert table["test_accuracy"][2] == 0.9
    assert math.isnan(table["test_accuracy"][1])
    assert min(table["l2_norm"]) > 0
    assert not {"note", "seconds"} & set(table.columns)


def test_a_row_that_is_still_being_written_costs_no_other(run):
    (run / "metrics.csv").write_text("epoch,train_accuracy,step\n0,0.1,0\ninf,0.2,inf\n20,1.0,100\n3,,10\n30,0.9")
    assert analyze(run, measures=["norms"])["train_accuracy"][::2] == [0.1, 1.0]
    (run / "metrics.csv").write_text("step,train_accuracy,epoch\n0,0.1,1\n100,1.0,20\n10,0.5")
    assert analyze(run, measures=["norms"])["train_accuracy"][::2] == [0.1, 1.0]


def test_a_checkpoint_cannot_name_itself(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    metadata = {"step": "3", "checkpoint": "1000", "status": "0", "parameters": "1.5", "score": "7"}
    save_file(state(0), folder / "a.safetensors", metadata=metadata)
    table = analyze(folder, measures=["norms"], out=tmp_path / "out")
    assert (table["step"], table["checkpoint"], table["status"]) == ([3], ["a.safetensors"], ["ok"])
    assert (table["parameters"], table["score"]) == ([83], [7.0])


def test_a_task_cannot_overwrite_the_loss(run):
    class Odd(Task):
        def loss(self, params):
            return params["0.weight"].square().mean()

        def accuracies(self, params):
            return {"loss": -1.0, "step": -1.0, "f1": 0.5}

    table = analyze(run, Odd(), measures=["norms"])
    assert min(table["loss"]) > 0
    assert table["step"] == [0, 10, 100]
    assert table["f1"] == [0.5] * 3


def test_measures_do_not_depend_on_whether_there_is_a_task(tmp_path, task_file):
    folder = tmp_path / "run"
    folder.mkdir()
    save_file({name: value.bfloat16() for name, value in state(0).items()}, folder / "step-1.safetensors")
    with_task, without = (analyze(folder, task, measures=WEIGHTS_ONLY) for task in (task_file, None))
    for name in without.columns:
        assert with_task[name] == without[name], name


def test_files_that_no_longer_belong_to_the_table_go(run, task_file, tmp_path):
    analyze(run, task_file, ["complexity"], [1.0, 0.5], tmp_path, moves=2)
    (tmp_path / "kolmo" / "mine.txt").write_text("stays")
    analyze(run, task_file, ["complexity"], 0.5, tmp_path, moves=2)
    names = {path.name for path in (tmp_path / "kolmo").iterdir()}
    assert names == {"0@0.5.kolmo", "10@0.5.kolmo", "100@0.5.kolmo", "mine.txt"}


@pytest.mark.parametrize("task", [3, lambda: None])
def test_what_has_no_loss_is_no_task(run, task):
    with pytest.raises(TaskError, match=r"a task is an object with loss\(params\), not (int|function)"):
        analyze(run, task)


def test_complexity_asked_for_without_a_task_is_an_error(run):
    with pytest.raises(TaskError, match="complexity needs a task"):
        analyze(run, measures="complexity")


def test_a_metrics_file_of_something_else_is_left_alone(run):
    (run / "metrics.csv").write_bytes(b"\xff\xfe not a table")
    assert analyze(run, measures=["norms"])["status"] == ["ok"] * 3


def test_task_columns(run, task_file):
    table = analyze(run, task_file, measures=["norms"])
    assert table["train_accuracy"] == [0.5] * 3
    assert all(0 < loss < 5 for loss in table["loss"])


def test_task_that_does_not_fit_says_so_and_the_weights_are_still_measured(run, tmp_path):
    path = tmp_path / "wrong.py"
    path.write_text(TASK.replace("Linear(6, 8)", "Linear(6, 9)"))
    table = analyze(run, str(path), measures=["norms"])
    assert all("0.weight" in status and status.startswith("task:") for status in table["status"])
    assert not any(map(math.isnan, table["l2_norm"]))


def test_an_edited_task_is_other_work(run, task_file, tmp_path, monkeypatch):
    analyze(run, task_file, measures=["norms"], out=tmp_path / "out")
    counting = Counting(monkeypatch)
    analyze(run, task_file, measures=["norms"], out=tmp_path / "out")
    assert counting.measured == []
    (tmp_path / "my_task.py").write_text(TASK.replace("0.5", "0.25"))
    assert analyze(run, task_file, measures=["norms"], out=tmp_path / "out")["train_accuracy"] == [0.25] * 3
    assert {tuple(work) for _, work in counting.measured} == {("task",)}


def test_results_do_not_depend_on_the_number_of_workers(run, task_file):
    alone = analyze(run, task_file, measures=WEIGHTS_ONLY)
    shared = analyze(run, task_file, measures=WEIGHTS_ONLY, workers=2)
    assert shared.columns == alone.columns
    assert shared["checkpoint"] == alone["checkpoint"]
    for name in alone.columns[4:]:
        assert shared[name] == pytest.approx(alone[name], rel=1e-6)  # losses: threads may add up in another order


def test_progress_tells_what_is_done_and_what_was(run, tmp_path):
    seen: list[Progress] = []
    analyze(run, measures=["norms"], out=tmp_path / "out", progress=seen.append)
    assert [(p.done, p.total, p.finished_before) for p in seen] == [(0, 3, 0), (1, 3, 0), (2, 3, 0), (3, 3, 0)]
    seen.clear()
    analyze(run, measures=["norms"], out=tmp_path / "out", progress=seen.append)
    assert [(p.done, p.total, p.finished_before) for p in seen] == [(0, 0, 3)]


def test_provenance_says_how(run, tmp_path):
    analyze(run, measures=["norms"], epsilons=[0.5], out=tmp_path / "out")
    found = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert found["backend"] in ("cpu", "reference", "triton")
    assert found["backend_reason"]
    assert found["measures"] == ["norms"]
    assert found["epsilons"] == [0.5]
    assert found["versions"]["torch"] == version("torch")
    assert "floor" in found["rounding"]


def test_bad_requests_are_refused_before_anything_is_done(run):
    with pytest.raises(KolmogramError, match="unknown measure rank; there are"):
        analyze(run, measures=["rank"])
    for epsilon in (0, math.inf, math.nan):
        with pytest.raises(KolmogramError, match="positive number of nats"):
            analyze(run, epsilons=[epsilon])
    with pytest.raises(BackendError, match="cannot be used here"):
        analyze(run, device="cuda:99")
    with pytest.raises(CheckpointError):
        analyze(run / "nothing")


def test_an_epsilon_twice_is_once(run):
    assert analyze(run, measures=["norms"], epsilons=[0.5, 1, 0.5]).provenance["epsilons"] == (0.5, 1.0)


def test_where_tables_go(tmp_path, run):
    assert default_out(run) == run / "kolmogram"
    assert default_out(run / "step-00000010.safetensors") == run / "step-00000010.kolmogram"
    assert default_out("s3://bucket/runs/mine/") == default_out("hf://org/mine") == Path("mine.kolmogram")
    assert default_out(f"{run}/step-*1*") == run / "kolmogram"
    assert default_out("step-*") == Path("kolmogram")
    assert default_out(f"file://{run}") == run / "kolmogram"
    assert default_out("s3://bucket/mine/step-*") == default_out("hf://org/mine@step*") == Path("mine.kolmogram")
    assert default_out("hf://org/mine@step64") == Path("mine@step64.kolmogram")


def test_a_run_behind_a_url_is_the_same_run(run, tmp_path, task_file, memory):
    (run / "metrics.csv").write_text("step,seen\n0,1\n10,2\n100,4\n")
    memory.put(str(run), "/run", recursive=True)
    here = analyze(run, task=task_file, out=tmp_path / "here", moves=5)
    there = analyze("memory://run", task=task_file, out=tmp_path / "there", moves=5)
    assert there.to_csv() == here.to_csv()
    assert there["seen"] == [1, 2, 4]
    assert there.provenance["run"] == "memory://run"


KILLED = """
import sys, time
from kolmogram.engine import analysis
real = analysis.measure_checkpoint
def slow(checkpoint, *rest):
    print("start", checkpoint.name, flush=True)
    outcome = real(checkpoint, *rest)
    time.sleep(float(sys.argv[3]))
    return outcome
analysis.measure_checkpoint = slow
analysis.analyze(sys.argv[1], measures=["entropy", "norms", "spectrum"], out=sys.argv[2])
"""


def test_killed_and_started_again_gives_the_tables_of_an_undisturbed_run(tmp_path):
    run, out = write_run(tmp_path / "run", steps=range(0, 60, 10)), tmp_path / "out"

    def start(delay):
        command = [sys.executable, "-c", KILLED, str(run), str(out), str(delay)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"NUMBA_NUM_THREADS": "1"})

    process = start(0.3)
    started = [process.stdout.readline().split()[1] for _ in range(3)]  # two are finished, the third is at work
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not (out / "trajectory.csv").exists()

    output, _ = start(0).communicate(timeout=120)
    repeated = {line.split()[1] for line in output.splitlines()} & set(started[:2])
    assert not repeated
    undisturbed = analyze(run, measures=WEIGHTS_ONLY, out=tmp_path / "undisturbed")
    assert (out / "trajectory.csv").read_text() == undisturbed.to_csv()
    assert (out / "tensors.parquet").read_bytes() == (tmp_path / "undisturbed" / "tensors.parquet").read_bytes()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_measures_the_same(tmp_path):
    train("addition", tmp_path, modulus=11, architecture="mlp", width=16, epochs=3)
    on_gpu, on_cpu = (analyze(tmp_path, epsilons=[0.1], moves=1, device=device) for device in ("cuda", "cpu"))
    assert on_gpu["status"] == ["ok"] * len(on_gpu["status"])
    for column in ("loss", "test_loss", "entropy_bits@0.25", "l2_norm", "effective_rank"):
        assert on_gpu[column] == pytest.approx(on_cpu[column], rel=1e-4)
