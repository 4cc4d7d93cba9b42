"""The files that a program is made of, by what they say."""

import sys
from importlib import import_module

import pytest
from kolmogram.engine.imports import files_of_module, files_of_script

FILES = {
    "script.py": "import os, one.two\nclass Task:\n    def loss(self):\n        from neighbour import helper\n",
    "neighbour.py": "import script\nimport fast\nfrom elsewhere import nothing\n",
    "fast.abi3.so": "\0",
    "one/__init__.py": "",
    "one/two.py": "from . import three\nfrom .four import x\nfrom ..one.five import *\n",
    "one/three.py": "def broken(:",
    "one/four/__init__.py": "from .six import x",
    "one/four/six.py": "x = 1",
    "one/five.py": "from ....beyond import x",
    "one/unused.py": "",
    "unused.py": "",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(folder)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "one"]:
        del sys.modules[name]


def below(folder, files):
    return {str(file.relative_to(folder)) for file in files}


def test_a_script_is_made_of_all_that_it_imports_from_beside_it(folder):
    assert below(folder, files_of_script(folder / "script.py")) == {n for n in FILES if "unused" not in n}


def test_a_module_is_found_where_it_was_loaded_from(folder):
    assert files_of_module("one.four.six") == []
    import_module("one.four.six")
    expected = {"one/__init__.py", "one/four/__init__.py", "one/four/six.py"}
    assert below(folder, files_of_module("one.four.six")) == below(folder, files_of_module("one.four")) == expected


def test_of_an_installed_package_only_what_is_named_counts():
    assert [file.name for file in files_of_module("pytest")] == ["__init__.py"]


def test_modules_without_a_file_have_none():
    assert files_of_module("sys") == []
