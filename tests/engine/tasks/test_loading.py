from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from kolmogram.engine.errors import TaskError
from kolmogram.engine.tasks import load_task
from kolmogram.engine.tasks.modular import ModularTask

GOOD = """
import helper_of_the_task

class Mine:
    def loss(self, params):
        return params["w"].square().sum() * helper_of_the_task.FACTOR

def task():
    return Mine()

def other():
    return helper_of_the_task

def broken():
    raise ValueError("no data\\nat all")
"""


@pytest.fixture
def run(tmp_path):
    return SimpleNamespace(path=tmp_path, config=None)


@pytest.fixture
def file(tmp_path):
    (tmp_path / "helper_of_the_task.py").write_text("FACTOR = 3.0\n")
    (tmp_path / "mine.py").write_text(GOOD)
    return str(tmp_path / "mine.py")


def test_a_file_with_its_neighbours(run, file):
    for spec in (file, f"{file}:task"):
        assert load_task(spec, run).loss({"w": torch.ones(2)}) == 6


def test_a_module_by_name(run, file, monkeypatch):
    monkeypatch.chdir(Path(file).parent)
    assert load_task("mine", run).loss({"w": torch.ones(2)}) == 6
    assert load_task("mine:task", run).loss({"w": torch.ones(2)}) == 6


def test_a_run_that_brings_its_own_task(run):
    settings = {"operation": "addition", "modulus": 7, "architecture": "mlp", "layers": 1}
    run.config = {"task": "modular", "train_fraction": 0.5, "seed": 0, **settings}
    assert isinstance(load_task(None, run), ModularTask)
    assert isinstance(load_task("modular", run), ModularTask)
    elsewhere = load_task(None, run, "meta")
    assert elsewhere.device == elsewhere.train.pairs.device == torch.device("meta")


def test_no_task_is_not_an_error(run):
    assert load_task(None, run) is None
    run.config = {"model_type": "gpt2"}
    assert load_task(None, run) is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "no function 'nothing'"),
        ("other", r"returned module, which has no loss\(params\)"),
        ("broken", r"mine.py:broken: ValueError: no data at all \(line 15 of mine.py\)$"),
    ],
)
def test_what_is_wrong_in_a_file_is_one_line(run, file, name, message):
    with pytest.raises(TaskError, match=message) as error:
        load_task(f"{file}:{name}", run)
    assert "\n" not in str(error.value)


def test_files_that_cannot_be_run(run, tmp_path):
    with pytest.raises(TaskError, match="no such task file"):
        load_task(str(tmp_path / "absent.py"), run)
    (tmp_path / "syntax.py").write_text("def task(:\n")
    with pytest.raises(TaskError, match=r"syntax.py: SyntaxError: "):
        load_task(str(tmp_path / "syntax.py"), run)
    with pytest.raises(TaskError, match="no_such_module_anywhere: ModuleNotFoundError"):
        load_task("no_such_module_anywhere", run)


def test_built_in_names_need_a_config_that_fits(run):
    with pytest.raises(TaskError, match=r"config.json does not describe a modular run"):
        load_task("modular", run)
    with pytest.raises(TaskError, match=r"write causal-lm:FILE.txt"):
        load_task("causal-lm", run)
