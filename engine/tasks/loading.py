"""From what the user wrote after `--task` to a task object.

Naming a file or module runs it: that is what the user asked for, and the only place where foreign code runs.
"""

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, cast

from ..errors import TaskError
from .causal_lm import CausalLMTask
from .modular import ModularTask
from .task import Task

if TYPE_CHECKING:
    from ..checkpoints import Run

_DEFAULT_NAME = "task"

_folders: set[Path] = set()  # of the tasks that were loaded


def load_task(spec: str | None, run: "Run", device: str = "cpu") -> Task | None:
    """The task that `spec` names: "file.py[:NAME]", "pkg.module[:NAME]", "modular", or "causal-lm:FILE.txt".

    NAME (default `task`) is a function without arguments that returns an object with a `loss(params)` method. Without a
    spec the run's config.json decides: a run written by `kolmogram train` brings its own task, any other has none. The
    data of the built-in ones go to `device`.
    """
    if spec is None:
        spec = (run.config or {}).get("task")
        return ModularTask.from_config(run.config, run.path, device) if spec == "modular" else None
    where, _, name = spec.rpartition(":") if ":" in spec else (spec, "", "")
    if where == "modular":
        return ModularTask.from_config(run.config, run.path, device)
    if where == "causal-lm":
        return CausalLMTask.from_run(run, name, device)
    module = _import_file(Path(where)) if where.endswith(".py") else _import_module(where)
    return _call(module, name or _DEFAULT_NAME, where)


def _call(module: ModuleType, name: str, where: str) -> Task:
    make = getattr(module, name, None)
    if not callable(make):
        raise TaskError(f"{where}: no function {name!r}; define it to return the task, or name yours: {where}:NAME")
    with _one_line(f"{where}:{name}"):
        task = make()
    if not callable(getattr(task, "loss", None)):
        raise TaskError(f"{where}:{name} returned {type(task).__name__}, which has no loss(params) method")
    return cast("Task", task)  # any object with a loss will do


def _import_file(path: Path) -> ModuleType:
    """Run a task file; modules beside it can be imported then and later, as when Python runs a script."""
    if not path.is_file():
        raise TaskError(f"{path}: no such task file")
    spec = importlib.util.spec_from_file_location(f"kolmogram_task_{path.stem}", path)
    assert spec is not None  # the name ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickles look their module up
    _make_importable(path.resolve().parent)
    with _one_line(str(path)):
        spec.loader.exec_module(module)
    return module


def _import_module(name: str) -> ModuleType:
    _make_importable(Path.cwd().resolve())
    with _one_line(f"task module {name}"):
        return importlib.import_module(name)


def _make_importable(folder: Path) -> None:
    """Put a folder at the front of sys.path for good: a task may import when it is made, or when its loss is computed.

    Modules from beside other tasks that have a namesake here are forgotten, so that each task gets its own.
    """
    for name, module in list(sys.modules.items()):
        has_namesake = (folder / name).is_dir() or (folder / f"{name}.py").is_file()
        if name != "__main__" and _folder_of(module) in _folders - {folder} and has_namesake:
            for loaded in [other for other in sys.modules if f"{other}.".startswith(f"{name}.")]:
                del sys.modules[loaded]
    _folders.add(folder)
    sys.path[:] = [str(folder), *(entry for entry in sys.path if entry != str(folder))]


def _folder_of(module: ModuleType) -> Path | None:
    """The folder that holds a module's file, or a package's folder."""
    contents = getattr(module, "__dict__", {})  # not by attribute: modules that load lazily would
    where = next(iter(contents.get("__path__") or ()), None) or contents.get("__file__")
    return Path(where).parent if where else None


@contextmanager
def _one_line(where: str) -> Iterator[None]:
    """Turn whatever the user's code raises into one line that says where; the traceback stays behind as the cause."""
    try:
        yield
    except TaskError:
        raise
    except Exception as error:
        frame = error.__traceback__
        while frame is not None and frame.tb_next is not None:
            frame = frame.tb_next
        line = f" (line {frame.tb_lineno} of {Path(frame.tb_frame.f_code.co_filename).name})" if frame else ""
        message = " ".join(str(error).split())
        raise TaskError(f"{where}: {type(error).__name__}: {message}{line}") from error
