"""Where numbers come from: versions, device, backend, rounding rule, settings, and what identifies a task."""

import json
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..analyzers import ANALYZERS
from .imports import files_of_module, files_of_script

if TYPE_CHECKING:
    from ..kernels.dispatch import Backend
    from .measurement import Settings

PACKAGES = ("torch", "triton", "numpy", "numba", "safetensors", "constriction", "zstandard", "pyarrow")

ROUNDING = "q = floor(x) + [x - floor(x) >= 1/2], x = fl32(w * fl32(1/step)), w as float32; decoded value q * step"


def package_versions(names: tuple[str, ...] = PACKAGES) -> dict[str, str | None]:
    """Installed versions, None for what is missing; imports nothing."""

    def installed(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    return {name: installed(name) for name in names}


def describe(run: Path, settings: "Settings", backend: "Backend") -> dict[str, Any]:
    """The record that is kept beside the tables as provenance.json."""
    return {
        "kolmogram": __version__,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "run": str(run),
        **asdict(settings),
        "measure_versions": {name: ANALYZERS[name].version for name in settings.measures},
        "backend": backend.name,
        "backend_reason": backend.reason,
        "rounding": ROUNDING,
        "versions": {"python": platform.python_version(), **package_versions()},
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
    }


def canonical(settings: Mapping[str, Any]) -> str:
    """Settings as text that is equal when they are equal; what JSON cannot say counts by its type."""
    return json.dumps(settings, sort_keys=True, separators=(",", ":"), default=lambda value: type(value).__qualname__)


def task_identity(task: Any, spec: str | None) -> str | None:
    """What must be equal for two calls to have used the same task; None without one.

    The specification with the content of the files it names and of what they import from beside them, the class, the
    number of examples and, if the task has one, its attribute `config` (for values of JSON; `Task.from_module` has a
    digest of its data there): give it one where the data can change and nothing else does.
    """
    if task is None:
        return None
    about = {
        "spec": spec,
        "files": [sha256(path.read_bytes()).hexdigest() for path in _files(spec or "")],
        "class": f"{task.__class__.__module__}.{task.__class__.__qualname__}",
        "examples": getattr(task, "num_examples", None),
        "config": getattr(task, "config", None),
    }
    return sha256(canonical(about).encode()).hexdigest()[:16]


def _files(spec: str) -> list[Path]:
    """The files that a specification names, and what they import from beside them."""
    where, _, name = spec.rpartition(":") if ":" in spec else (spec, "", "")
    if where == "causal-lm":
        return [Path(name)]
    return files_of_script(Path(where)) if where.endswith(".py") else files_of_module(where)
