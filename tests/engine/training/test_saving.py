from pathlib import Path

import pytest
import torch
from kolmogram.engine.training.saving import save_checkpoint
from safetensors import safe_open
from safetensors.torch import load_file


def test_a_checkpoint_says_its_step(tmp_path):
    weights = {"a": torch.randn(3, 4, requires_grad=True), "b": torch.randn(4, 3).mT, "c": torch.ones(2).bfloat16()}
    path = save_checkpoint(tmp_path / "run", 1234, weights, epoch=7)
    assert path == tmp_path / "run" / "step-00001234.safetensors"
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "step": "1234", "epoch": "7"}
        assert set(file.keys()) == set(weights)
        for name, weight in weights.items():
            assert torch.equal(file.get_tensor(name), weight)
            assert file.get_tensor(name).dtype == weight.dtype
    assert list(path.parent.iterdir()) == [path]


def test_a_save_that_fails_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = save_checkpoint(tmp_path, 5, {"w": torch.ones(3)})

    def half(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("kolmogram.engine.training.saving.save_file", half)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(tmp_path, 5, {"w": torch.zeros(3)})
    assert load_file(path)["w"].tolist() == [1, 1, 1]
    assert list(tmp_path.iterdir()) == [path]
