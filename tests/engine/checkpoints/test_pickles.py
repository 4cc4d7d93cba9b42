"""Pickles are parsed, and nothing in them is called."""

import io

import pytest
import torch
from kolmogram.engine.checkpoints.pickles import Global, WouldRunCodeError, load
from kolmogram.engine.checkpoints.torch_objects import Storage, call, persistent


@pytest.mark.parametrize(
    "name",
    ["os system", "posix system", "nt system", "sys exit", "subprocess Popen", "pty spawn", "shutil rmtree",
     "socket socket", "runpy run_path", "importlib import_module", "ctypes CDLL", "code interact", "os.path join",
     "builtins eval", "io open", "builtins breakpoint"],
)  # fmt: skip
def test_what_exists_to_run_code_is_named(name):
    program = b"\x80\x02c" + name.replace(" ", "\n").encode() + b"\n)R."
    with pytest.raises(WouldRunCodeError, match=name.replace(" ", ".")):
        load(io.BytesIO(program), call, persistent)


def test_views_of_storages_in_old_files_begin_where_they_say():
    floats = Global("torch.FloatStorage")
    assert persistent(("storage", floats, "0", "cpu", 10, ("1", 4, 3))) == Storage("0", torch.float32, 4)
    assert persistent(("storage", floats, "0", "cpu", 10, None)) == Storage("0", torch.float32, 0)
