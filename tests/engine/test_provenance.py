import pytest
from kolmogram.engine.provenance import canonical, package_versions, task_identity
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


def test_settings_are_equal_in_any_order():
    assert canonical({"a": 1, "b": (2.0,)}) == canonical({"b": [2.0], "a": 1})
    assert canonical({"epsilon": 1.0}) != canonical({"epsilon": 0.5})


def test_versions_of_what_is_missing_are_none():
    assert package_versions(("click", "no-such-package-here"))["no-such-package-here"] is None
    assert package_versions(("click",))["click"]
