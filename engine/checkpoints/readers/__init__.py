"""The table of readers: every module in this folder is one, so a new format is a new file.

A reader is a module with

    FORMAT: str                                                   # its name in tables and messages
    claim(folder: Path, names: Sequence[str]) -> Iterable[Claim]  # what it recognises among the file names of a folder
    read(path: Path) -> Contents                                  # what the claimed checkpoint holds; no tensor is read

`claim` opens nothing. A file that belongs to somebody's larger claim (a shard) is not a checkpoint of its own, whoever
else claims it. A claim on the folder itself takes everything below it.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Protocol, cast

from ..contents import Claim, Contents


class Reader(Protocol):
    """What a module in this folder offers."""

    FORMAT: str

    def claim(self, folder: Path, names: Sequence[str]) -> Iterable[Claim]: ...
    def read(self, path: Path) -> Contents: ...


@cache
def readers() -> dict[str, Reader]:
    """Every reader by its module's name."""
    found = sorted(module.name for module in iter_modules(__path__))
    return {name: cast(Reader, import_module(f".{name}", __name__)) for name in found}
