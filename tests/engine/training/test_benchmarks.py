"""The benchmarks of this folder run, on as little as they take; their numbers are for people."""

import runpy
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[3] / "benchmarks"
CASES = {
    "regularizer.py": ["--repeats", "1", "--sizes", "16"],
    "training.py": ["--repeats", "1", "--modulus", "11"],
    "regularizer_tasks.py": ["cnn", "--seeds", "1", "--steps", "2", "--weights", "0.1", "--decays", "0"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_it_prints_a_table_of_numbers(name, monkeypatch, capsys):
    monkeypatch.syspath_prepend(FOLDER)
    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", [name, *CASES[name]])
    try:
        runpy.run_path(str(FOLDER / name), run_name="__main__")
    finally:
        torch.set_num_threads(threads)
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ") and "every" not in line]
    assert len(rows) >= 2
    assert "nan" not in "".join(rows)
