import torch
from kolmogram.engine.training.saving import save_checkpoint
from safetensors import safe_open


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
