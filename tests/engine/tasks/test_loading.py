import sys
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


LATE = """
class Mine:
    def loss(self, params):
        from helper_of_the_loss import FACTOR
        return params["w"].sum() * FACTOR

def task():
    import helper_of_the_task
    mine = Mine()
    mine.factor = helper_of_the_task.FACTOR
    return mine
"""


@pytest.fixture(autouse=True)
def path(monkeypatch):
    """Tasks put their folders there."""
    monkeypatch.setattr(sys, "path", list(sys.path))


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


def late(folder, factor):
    """A task that imports what is beside it when it is made, and when its loss is computed."""
    folder.mkdir()
    (folder / "late.py").write_text(LATE)
    (folder / "helper_of_the_task.py").write_text(f"FACTOR = {factor}\n")
    (folder / "helper_of_the_loss").mkdir()
    (folder / "helper_of_the_loss" / "__init__.py").write_text("from .part import FACTOR\n")
    (folder / "helper_of_the_loss" / "part.py").write_text(f"FACTOR = {factor}\n")
    return str(folder / "late.py")


def test_neighbours_can_be_imported_later(run, tmp_path):
    file = late(tmp_path / "elsewhere", 3)
    for _ in range(2):
        task = load_task(file, run)
        assert task.factor == 3
        assert task.loss({"w": torch.ones(2)}) == 6
    assert sys.path.count(str(tmp_path / "elsewhere")) == 1


def test_two_tasks_with_neighbours_of_one_name_have_their_own(run, tmp_path):
    for folder, factor in [("one", 3), ("other", 4)]:
        task = load_task(late(tmp_path / folder, factor), run)
        assert task.factor == factor
        assert task.loss({"w": torch.ones(2)}) == 2 * factor


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
