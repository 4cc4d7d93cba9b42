"""The files that a program is made of, found by reading what they import: what happens to be loaded is no matter.

Imports count wherever they are written, also inside of functions; what is imported by a computed name does not.
"""

import ast
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.machinery import all_suffixes
from pathlib import Path

_OURS = __name__.partition(".")[0]


def files_of_script(path: Path) -> list[Path]:
    """A Python file, and what it imports from its folder."""
    path = path.resolve()
    return _with_imports([path], path.parent)


def files_of_module(name: str) -> list[Path]:
    """The file of a module that is loaded, and what it imports from the folder that it was found in; else none."""
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None:
        return []
    path = Path(file).resolve()
    folder = path.parents[name.count(".") + (path.stem == "__init__")]
    return _with_imports([path, *_files_of(name, folder)], folder)


def _with_imports(files: Iterable[Path], folder: Path) -> list[Path]:
    """Files below a folder, and what they import from it, and what that imports; nothing of an installed package's."""
    found: set[Path] = set()
    waiting = set(files)
    while waiting:
        found.add(file := waiting.pop())
        if file.suffix == ".py" and "site-packages" not in file.parts:
            waiting |= {path for name in _imports(file, folder) for path in _files_of(name, folder)} - found
    return sorted(found)


def _imports(file: Path, folder: Path) -> Iterator[str]:
    """Names of all that may be a module in the import statements of a file, as seen from the folder."""
    nodes: list[ast.AST] = []
    with suppress(SyntaxError, ValueError):  # who runs it will be told
        nodes += ast.walk(ast.parse(file.read_bytes()))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = file.relative_to(folder).parts[: -node.level] if node.level else ()
            module = [*package, node.module] if node.module else package
            yield from (".".join([*module, alias.name]) for alias in node.names)


def _files_of(name: str, folder: Path) -> Iterator[Path]:
    """The files below a folder of a module and of the packages that it is in; none of Kolmogram itself."""
    for part in name.split(".") if name.partition(".")[0] != _OURS else ():
        paths = (folder / f"{stem}{suffix}" for stem in (part, f"{part}/__init__") for suffix in all_suffixes())
        yield from filter(Path.is_file, paths)
        folder /= part
