"""A checkpoint becomes a .kolmo file that is close enough, and the file becomes a checkpoint again."""

import math

import kolmogram
import pytest
import torch
from click.testing import CliRunner
from kolmogram.cli import CODERS, main
from kolmogram.engine.codec.coders import Coder
from kolmogram.engine.compression import compress_checkpoint, decompress_file
from kolmogram.engine.errors import CodecError, KolmogramError, TaskError
from safetensors.torch import load_file, save_file


@pytest.fixture(scope="module")
def params():
    generator = torch.Generator().manual_seed(0)
    low_rank = torch.randn(40, 3, generator=generator) @ torch.randn(3, 30, generator=generator)
    return {
        "up.weight": low_rank + 0.05 * torch.randn(40, 30, generator=generator),
        "up.bias": 0.1 * torch.randn(40, generator=generator),
        "half.weight": torch.randn(30, 8, generator=generator).bfloat16(),
        "norm.running_mean": torch.randn(30, generator=generator),
        "norm.num_batches_tracked": torch.tensor(17),
        "mask": torch.tensor([0.0, -math.inf]),
    }


def quadratic(params):
    return (params["up.weight"] ** 2).mean() + (params["half.weight"].float() ** 2).mean()


@pytest.mark.parametrize("coder", CODERS)
def test_python_by_relative_error(params, tmp_path, coder):
    found = kolmogram.compress(params, tmp_path / "n.kolmo", relative_error=0.01, coder=coder)
    assert (tmp_path / "n.kolmo").stat().st_size == found.bytes
    decoded = kolmogram.decompress(tmp_path / "n.kolmo")
    assert decoded.keys() == params.keys()
    coarse = ("up.weight", "up.bias", "half.weight")
    error = sum(((params[n].double() - decoded[n].double()) ** 2).sum() for n in coarse)
    assert float(error / sum((params[n].double() ** 2).sum() for n in coarse)) == pytest.approx(found.relative_error)
    assert 0 < found.relative_error <= 0.01
    for name in params.keys() - set(coarse):
        assert torch.equal(decoded[name], params[name])
    assert math.isnan(found.loss)
    assert found.ratio > 4


def test_python_by_loss(params, tmp_path):
    found = kolmogram.compress(params, tmp_path / "n.kolmo", quadratic, 0.2)
    decoded = kolmogram.decompress(tmp_path / "n.kolmo")
    assert float(quadratic(decoded)) == pytest.approx(found.loss, abs=1e-6)
    assert found.loss <= found.original_loss + 0.2
    fast = kolmogram.compress(params, tmp_path / "fast.kolmo", quadratic, 0.2, coder="ans")
    assert all(map(torch.equal, kolmogram.decompress(tmp_path / "fast.kolmo").values(), decoded.values()))
    assert (fast.loss, fast.relative_error) == (found.loss, found.relative_error)


def test_what_does_not_go_together_is_refused_and_nothing_written(params, tmp_path):
    for arguments in ({}, {"epsilon": 1.0}, {"loss": quadratic, "relative_error": 0.1}):
        with pytest.raises(KolmogramError, match="how close"):
            kolmogram.compress(params, tmp_path / "n.kolmo", **arguments)
    with pytest.raises(KolmogramError, match="must be positive"):
        kolmogram.compress(params, tmp_path / "n.kolmo", relative_error=0.0)
    with pytest.raises(KolmogramError, match="unknown coder 'gzip': use mixing"):
        kolmogram.compress(params, tmp_path / "n.kolmo", relative_error=0.1, coder="gzip")
    assert not list(tmp_path.iterdir())


def test_command_line_there_and_back(params, tmp_path):
    save_file(params, tmp_path / "model.safetensors")

    def run(*arguments):
        return CliRunner().invoke(main, [str(argument) for argument in arguments])

    file, back = tmp_path / "model.kolmo", tmp_path / "back.safetensors"
    result = run("compress", tmp_path / "model.safetensors", "-o", file, "-D", "0.02", "--coder", "ans")
    assert result.exit_code == 0, result.output
    header, row = (line.split() for line in result.stdout.strip().splitlines())
    assert int(dict(zip(header, row, strict=True))["bytes"]) == file.stat().st_size
    assert header == ["bytes", "original_bytes", "ratio", "relative_error"], "no losses, as none was asked for"
    assert run("decompress", file, "-o", back).exit_code == 0
    decoded, expected = load_file(back), kolmogram.decompress(file)
    assert decoded.keys() == params.keys()
    assert all(torch.equal(decoded[name], expected[name]) for name in decoded)
    refused = run("compress", tmp_path / "model.safetensors", "-o", file)
    assert refused.exit_code == 1
    assert "names no task" in refused.output
    damaged = run("decompress", tmp_path / "model.safetensors", "-o", back)
    assert damaged.exit_code == 1
    assert f"{tmp_path}/model.safetensors: not a .kolmo file" in damaged.output
    assert run("decompress", file, "-o", back, "--max-weights", "100").exit_code == 1


def test_half_precision_is_widened_for_a_task(params, tmp_path):
    save_file({name: value.half() for name, value in params.items() if "weight" in name}, tmp_path / "m.safetensors")
    (tmp_path / "task.py").write_text(
        "class Quadratic:\n"
        "    def loss(self, params):\n"
        "        return sum((value ** 2).mean() for value in params.values())\n"
        "task = Quadratic\n"
    )
    found = compress_checkpoint(tmp_path / "m.safetensors", tmp_path / "m.kolmo", str(tmp_path / "task.py"), 0.2)
    assert found.loss <= found.original_loss + 0.2
    assert {value.dtype for value in kolmogram.decompress(tmp_path / "m.kolmo").values()} == {torch.float32}
    save_file(params, tmp_path / "other.safetensors")
    with pytest.raises(TaskError, match="names no task"):
        compress_checkpoint(tmp_path / "other.safetensors", tmp_path / "m.kolmo")


def test_what_safetensors_cannot_hold_is_one_line(tmp_path):
    wide = {"w": torch.zeros(2, dtype=torch.complex128)}
    kolmogram.compress(wide, tmp_path / "w.kolmo", relative_error=0.1)
    assert torch.equal(kolmogram.decompress(tmp_path / "w.kolmo")["w"], wide["w"])
    with pytest.raises(CodecError, match="safetensors cannot hold"):
        decompress_file(tmp_path / "w.kolmo", tmp_path / "w.safetensors")
    assert not (tmp_path / "w.safetensors").exists()


def test_choices_are_those_of_the_codec():
    assert tuple(coder.label for coder in Coder) == CODERS
