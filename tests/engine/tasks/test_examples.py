"""The example of docs/tasks.md, run as its reader would run it."""

import runpy
import sys
from pathlib import Path

import pytest
import torch
from kolmogram import open_run
from kolmogram.engine.tasks import load_task

EXAMPLE = Path(__file__).parents[3] / "examples" / "tasks" / "spirals.py"


@pytest.mark.slow
def test_spirals_from_training_to_losses(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), str(tmp_path)])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    run = open_run(tmp_path)
    task = load_task(str(EXAMPLE), run)
    with torch.no_grad():
        losses = {checkpoint.step: task.loss(dict(checkpoint.items())).item() for checkpoint in run}
    assert list(losses)[:5] == [0, 1, 2, 3, 4]
    assert losses[0] == pytest.approx(0.7, abs=0.1)
    assert losses[400] < 0.1
    assert task.num_examples == 400
