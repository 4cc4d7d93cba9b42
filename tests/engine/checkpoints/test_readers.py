import sys

import pytest
import torch
from kolmogram.engine.checkpoints import open_run, readers

RAW = '''
"""A folder with a marker and one file of float32 elements per tensor, as a format that keeps folders might have it."""
import torch
from ..contents import Claim, Contents
from ..sources import source
from ..stored import Span

FORMAT = "raw"

def claim(folder, names):
    if "MARKER" in names:
        yield Claim(folder, tuple(folder / name for name in names))

def read(path):
    files = [source(file) for file in sorted((path / "tensors").iterdir())]
    return Contents(FORMAT, {f.path.stem: Span(f, 0, torch.float32, (f.size // 4,)) for f in files})
'''


@pytest.fixture
def raw_reader(tmp_path, monkeypatch):
    (tmp_path / "readers").mkdir()
    (tmp_path / "readers" / "raw.py").write_text(RAW)
    monkeypatch.setattr(readers, "__path__", [*readers.__path__, str(tmp_path / "readers")])
    readers.readers.cache_clear()
    yield
    readers.readers.cache_clear()
    sys.modules.pop(f"{readers.__name__}.raw", None)


def test_the_table_is_the_folder():
    assert set(readers.readers()) == {"dcp", "npz", "safetensors", "sharded", "torch_save"}


def test_a_format_joins_by_adding_one_file(tmp_path, raw_reader):
    for step in (2, 10):
        folder = tmp_path / "run" / f"step_{step}"
        (folder / "tensors").mkdir(parents=True)
        (folder / "MARKER").touch()
        (folder / "tensors" / "w.bin").write_bytes(torch.full((3,), float(step)).numpy().tobytes())
        for place in ("beside.pt", "tensors/below.pt"):
            torch.save({"w": torch.ones(1)}, folder / place)
    run = open_run(tmp_path / "run")
    assert [(checkpoint.step, checkpoint.name, checkpoint.format) for checkpoint in run] == [
        (2, "step_2", "raw"),
        (10, "step_10", "raw"),
    ]
    assert run[1].tensor("w").tolist() == [10, 10, 10]
