"""The house: the repository root is the package, and nothing in it gets in anybody's way."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def python(code, cwd=ROOT, **environment):
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, env=environment or None
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def source_folders():
    folders = {path.parent.relative_to(ROOT) for path in ROOT.rglob("*.py")}
    shipped = ("engine", "kernels", "analyzers")
    return {
        folder
        for folder in folders
        if folder.parts[:1] in {(name,) for name in shipped} and ".venv" not in folder.parts
    }


def test_every_source_folder_is_shipped():
    packages = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    assert packages == {"kolmogram"} | {".".join(("kolmogram", *folder.parts)) for folder in source_folders()}


def test_only_the_package_itself_lies_at_the_root():
    assert {path.name for path in ROOT.glob("*.py")} == {"__init__.py", "__main__.py", "cli.py"}


@pytest.mark.slow
def test_the_wheel_holds_the_sources_and_nothing_else(tmp_path):
    import zipfile

    # A copy: setuptools leaves build folders behind.
    source = tmp_path / "source"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(source)], check=True)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
    ]
    built = subprocess.run([*command, str(source)], capture_output=True, text=True, check=False)
    if "No module named 'setuptools'" in built.stderr or "BackendUnavailable" in built.stderr:
        pytest.skip("setuptools is not installed in this environment")
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert all(name.startswith("kolmogram/") and name.endswith(".py") for name in names)
    folders = {name.split("/")[1] for name in names if name.count("/") > 1}
    assert folders == {"engine", "kernels", "analyzers"}
    assert {"kolmogram/cli.py", "kolmogram/kernels/dispatch.py", "kolmogram/engine/analysis.py"} <= set(names)


def test_another_package_called_kernels_is_not_shadowed(tmp_path):
    """Python started in the repository root must find Hugging Face's `kernels`, not our folder."""
    package = tmp_path / "kernels"
    package.mkdir()
    (package / "__init__.py").write_text("owner = 'someone else'")
    code = f"import sys; sys.path.append({str(tmp_path)!r}); import kernels; print(kernels.owner)"
    assert python(code) == ["someone", "else"]
    assert python("import kolmogram.kernels.dispatch as d; print(d.__name__)") == ["kolmogram.kernels.dispatch"]


@pytest.mark.parametrize(
    "code", ["import kolmogram", "import kolmogram.cli", "import kolmogram; kolmogram.KolmogramError"]
)
def test_importing_is_light(code):
    heavy = {"torch", "triton", "numba", "matplotlib", "plotly", "pyarrow", "rich", "transformers", "lightning"}
    loaded = python(f"import sys; {code}; print(*(m for m in sys.modules if '.' not in m))")
    assert not heavy & set(loaded)


def test_commands_that_do_not_train_do_not_wait_for_torchs_compiler():
    code = "import sys, kolmogram.engine.report.terminal; print('torch' in sys.modules, 'torch._dynamo' in sys.modules)"
    assert python(code) == ["True", "False"]


def test_nothing_touches_cuda_at_import():
    modules = [
        ".".join(("kolmogram", *p.relative_to(ROOT).with_suffix("").parts))
        for p in sorted((ROOT / "engine").rglob("*.py"))
    ]
    optional = ("callbacks_hf", "callbacks_lightning")
    names = [name.removesuffix(".__init__") for name in modules if not name.endswith(optional)]
    code = (
        f"import importlib, torch; [importlib.import_module(n) for n in {names!r}]; print(torch.cuda.is_initialized())"
    )
    assert python(code) == ["False"]


@pytest.mark.parametrize("folder", ["engine", "analyzers", "kernels"])
def test_only_kernels_import_triton(folder):
    importers = [
        p
        for p in (ROOT / folder).rglob("*.py")
        if any(line.lstrip().startswith(("import triton", "from triton")) for line in p.read_text().splitlines())
    ]
    assert folder == "kernels" or not importers


def test_checkpoints_do_not_know_kernels_and_analyzers_open_no_files():
    checkpoints = "".join(p.read_text() for p in (ROOT / "engine" / "checkpoints").rglob("*.py"))
    assert "kernels" not in checkpoints
    analyzers = "".join(p.read_text() for p in (ROOT / "analyzers").rglob("*.py"))
    assert "open(" not in analyzers
    assert "pathlib" not in analyzers
