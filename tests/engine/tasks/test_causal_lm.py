from types import SimpleNamespace

import pytest
import torch
from kolmogram.engine.checkpoints import open_run
from kolmogram.engine.errors import TaskError
from kolmogram.engine.tasks import as_parameter, load_task

transformers = pytest.importorskip("transformers")


class FakeRun(list):
    """What load_task needs of a run: its path, its config, its checkpoints' paths."""

    def __init__(self, path, *checkpoints):
        super().__init__(SimpleNamespace(path=p) for p in checkpoints)
        self.path, self.config = path, None


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=256, n_positions=32, n_embd=16, n_layer=2, n_head=2)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "checkpoint-10")
    (tmp_path / "text.txt").write_text("to be, or not to be: that is the question. " * 9)
    return tmp_path


@pytest.fixture
def model(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder / "checkpoint-10").eval()


@pytest.fixture
def task(folder):
    return load_task(f"causal-lm:{folder / 'text.txt'}", FakeRun(folder, folder / "checkpoint-10"))


def stored(model):
    """The weights as the checkpoint has them: the tied head once."""
    return {name: t for name, t in model.state_dict().items() if name != "lm_head.weight"}


def test_the_loss_is_the_models_own(task, model, folder):
    tokens = torch.tensor(list((folder / "text.txt").read_bytes()))
    blocks = tokens[: len(tokens) // 32 * 32].view(-1, 32)
    expected = model(input_ids=blocks, labels=blocks).loss
    params = stored(model)
    torch.testing.assert_close(task.loss(params), expected, rtol=1e-5, atol=1e-5)
    each = task.per_example_loss(params)
    assert each.shape == (task.num_examples,) == (blocks[:, 1:].numel(),)
    assert task.num_classes == 256
    assert 0 < task.error_rate(params) <= 1


def test_gradients_reach_the_tied_embedding(task, model):
    params = {name: t.requires_grad_() for name, t in stored(model).items()}
    task.loss(params).backward()
    assert params["transformer.wte.weight"].grad.abs().sum() > 0


def test_sampled_tokens_cost_the_entropy(task, model):
    with torch.no_grad():
        sharp = {name: 5 * t if "wte" in name else t for name, t in stored(model).items()}
        draws = torch.cat([task.sampled_loss(sharp, torch.Generator().manual_seed(s)) for s in range(20)])
        logits = torch.cat([x.flatten(0, 1) for x, _ in task._predictions(sharp)])
    p = logits.softmax(-1)
    entropy = -(p * p.log()).sum(-1).mean()
    assert draws.mean().item() == pytest.approx(entropy.item(), rel=0.02)  # 7,440 draws


def test_a_model_behind_a_url(folder, task, model, memory):
    memory.put(str(folder / "checkpoint-10"), "/run/checkpoint-10", recursive=True)
    there = load_task(f"causal-lm:{folder / 'text.txt'}", open_run("memory://run"))
    assert torch.equal(there.loss(stored(model)), task.loss(stored(model)))


def test_what_is_missing_is_named(folder, model, task):
    run = FakeRun(folder, folder / "checkpoint-10")
    with pytest.raises(TaskError, match="no such text file"):
        load_task("causal-lm:absent.txt", run)
    with pytest.raises(TaskError, match=r"no transformers config.json"):
        load_task(f"causal-lm:{folder / 'text.txt'}", FakeRun(folder))
    with pytest.raises(TaskError, match=r"missing transformer.ln_f.bias"):
        task.loss({name: t for name, t in stored(model).items() if name != "transformer.ln_f.bias"})
    config = folder / "checkpoint-10" / "config.json"
    config.write_text(config.read_text().replace('"vocab_size": 256', '"vocab_size": 300'))
    with pytest.raises(TaskError, match=r"no tokenizer beside config.json"):
        load_task(f"causal-lm:{folder / 'text.txt'}", run)
    config.write_text('{"model_type": "never_heard_of"}')
    with pytest.raises(TaskError, match=r"config.json: .*never_heard_of"):
        load_task(f"causal-lm:{folder / 'text.txt'}", run)


def test_a_pretended_gpu_reads_the_same(folder, model, task, pretended):
    there = load_task(f"causal-lm:{folder / 'text.txt'}", FakeRun(folder, folder / "checkpoint-10"), "cuda")
    params = {name: as_parameter(t, there) for name, t in stored(model).items()}
    assert params["transformer.wte.weight"].is_cuda
    assert there.per_example_loss(params).tolist() == task.per_example_loss(stored(model)).tolist()
    assert there.error_rate(params) == task.error_rate(stored(model))
    assert there.sampled_loss(params, torch.Generator().manual_seed(0)).is_cuda
