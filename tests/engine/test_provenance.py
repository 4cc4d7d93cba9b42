import sys
from importlib import import_module
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from kolmogram.engine.provenance import canonical, package_versions, task_identity
from kolmogram.engine.tasks import Task as TaskBase
from kolmogram.engine.tasks.modular import ModularTask


class Task:
    num_examples = 10


class Configured(Task):
    def __init__(self, config):
        self.config = config


def test_no_task_has_no_identity():
    assert task_identity(None, None) is None


def test_equal_tasks_are_equal_and_different_ones_are_not(tmp_path):
    assert task_identity(Task(), None) == task_identity(Task(), None)
    assert task_identity(Configured({"a": 1}), None) == task_identity(Configured({"a": 1}), None)
    different = [Task(), Configured({"a": 1}), Configured({"a": 2}), Configured({"a": object()})]
    assert len({task_identity(task, None) for task in different}) == 4


def test_built_in_tasks_differ_by_what_they_train_on():
    settings = [("addition", 0), ("addition", 1), ("division", 0)]
    tasks = [ModularTask(operation, modulus=7, seed=seed) for operation, seed in settings]
    assert len({task_identity(task, None) for task in tasks}) == 3


@pytest.mark.parametrize("name", ["{path}", "{path}:other", "causal-lm:{path}"])
def test_a_file_counts_by_its_content(tmp_path, name):
    path = tmp_path / "task.py"
    spec = name.format(path=path)
    path.write_text("one")
    first = task_identity(Task(), spec)
    assert task_identity(Task(), spec) == first
    path.write_text("two")
    assert task_identity(Task(), spec) != first


def test_a_module_and_what_lies_beside_it_count_by_their_content(tmp_path, monkeypatch):
    for name in ("my_task_module", "its_data", "its_labels", "no_part_of_it"):
        (tmp_path / f"{name}.py").write_text("x = 1")
    (tmp_path / "my_task_module.py").write_text("import its_data\ndef task():\n    from its_labels import x")
    monkeypatch.syspath_prepend(tmp_path)
    import_module("my_task_module")
    seen = [task_identity(Task(), "my_task_module:task")]
    for name in ("its_labels", "no_part_of_it"):
        import_module(name)
        assert task_identity(Task(), "my_task_module:task") == seen[0], "whatever else is loaded"
    for name in ("my_task_module", "its_data", "its_labels"):
        (tmp_path / f"{name}.py").write_text((tmp_path / f"{name}.py").read_text() + "\ny = 2")
        seen.append(task_identity(Task(), "my_task_module:task"))
    for name in ("my_task_module", "its_data", "its_labels", "no_part_of_it"):
        del sys.modules[name]
    assert len(set(seen)) == 4


def test_kolmogram_itself_is_no_part_of_a_task_that_lies_in_its_repository(tmp_path, monkeypatch):
    """An editable installation, whose modules are loaded from beside the task."""
    path = tmp_path / "my_task.py"
    path.write_text("import kolmogram.engine.tasks")
    engine = tmp_path / "kolmogram" / "engine" / "__init__.py"
    engine.parent.mkdir(parents=True)
    engine.write_text("")
    first = task_identity(Task(), str(path))
    engine.write_text("changed = True")
    loaded = ModuleType("kolmogram.engine.loaded_later")
    loaded.__file__ = str(engine)
    monkeypatch.setitem(sys.modules, loaded.__name__, loaded)
    assert task_identity(Task(), str(path)) == first


def test_a_task_file_in_the_current_folder_and_a_package_below_it(tmp_path, monkeypatch):
    """Some modules of torch say that their file is a bare name, which is then looked for here."""
    (tmp_path / "my_task.py").write_text("import a_package_of_mine.settings")
    (tmp_path / "a_package_of_mine").mkdir()
    settings = tmp_path / "a_package_of_mine" / "settings.py"
    settings.write_text("scale = 1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    import_module("a_package_of_mine.settings")
    assert torch.classes.__file__ == "_classes.py"
    first = task_identity(Task(), "my_task.py")
    assert task_identity(Task(), "my_task.py") == first
    settings.write_text("scale = 2")
    assert task_identity(Task(), "my_task.py") != first
    for name in ("a_package_of_mine.settings", "a_package_of_mine"):
        del sys.modules[name]


def test_a_task_made_of_a_module_counts_by_its_data_and_its_loss():
    torch.manual_seed(0)
    inputs, targets = torch.randn(8, 3), torch.arange(8) % 2

    def made(inputs=inputs, targets=targets, width=4, loss=F.cross_entropy):
        torch.manual_seed(1)  # weights come from checkpoints: the module's own do not count
        model = torch.nn.Sequential(torch.nn.Linear(3, width), torch.nn.Tanh(), torch.nn.Linear(width, 2))
        return task_identity(TaskBase.from_module(model, [(inputs, targets)], loss), None)

    first = made()
    assert made() == made(inputs.clone()) == first
    others = [
        made(inputs + 1),
        made(targets=1 - targets),
        made(inputs.double()),
        made(width=5),
        made(loss=lambda outputs, targets: F.cross_entropy(outputs, targets)),
        made(loss=lambda outputs, targets: 2 * F.cross_entropy(outputs, targets)),
    ]
    assert len({first, *others}) == 7


def test_settings_are_equal_in_any_order():
    assert canonical({"a": 1, "b": (2.0,)}) == canonical({"b": [2.0], "a": 1})
    assert canonical({"epsilon": 1.0}) != canonical({"epsilon": 0.5})


def test_versions_of_what_is_missing_are_none():
    assert package_versions(("click", "no-such-package-here"))["no-such-package-here"] is None
    assert package_versions(("click",))["click"]
