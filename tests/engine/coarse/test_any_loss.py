"""Complexity asks nothing of a network but its loss: other kinds of networks, losses, types and sizes."""

import math

import pytest
import torch
from kolmogram.engine.coarse import complexity
from kolmogram.engine.tasks import Task
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F  # noqa: N812


def images(count=192):
    """Noisy bars, (count, 1, 10, 10): class k is bright in column 2k + 1, at a random height."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 4
    pictures = 0.3 * torch.randn(count, 1, 10, 10, generator=generator)
    heights = torch.randint(0, 6, (count,), generator=generator)
    for k in range(count):
        pictures[k, 0, heights[k] : heights[k] + 4, 2 * labels[k] + 1] += 1.5
    return pictures, labels


def trained(model, loss, steps=60):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
    return model.eval()


def state(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def checked(params, loss, epsilon, **options):
    """The complexity, after looking oneself at the loss of what the file decodes to."""
    found = complexity(params, loss, epsilon, **options)
    assert found.status == "ok"
    decoded = found.decode()
    function = loss.loss if isinstance(loss, Task) else loss
    with torch.no_grad():
        original, reached = float(function(params)), float(function(decoded))
    assert math.isfinite(reached)
    assert reached <= original + epsilon + 1e-6
    assert {name: (v.shape, v.dtype) for name, v in decoded.items()} == {
        name: (v.shape, v.dtype) for name, v in params.items()
    }
    assert found.bytes < sum(value.nbytes for value in params.values())
    return found, decoded


@pytest.fixture(scope="module")
def convolutional():
    torch.manual_seed(0)
    inputs, labels = images()
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4),
    )  # fmt: skip
    trained(model, lambda m: F.cross_entropy(m(inputs), labels))
    return model, Task.from_module(model, [(inputs[:96], labels[:96]), (inputs[96:], labels[96:])], F.cross_entropy)


def test_convolutions_on_images_with_batch_norm_kept_exact(convolutional):
    model, task = convolutional
    params = state(model)
    found, decoded = checked(params, task, 0.1)
    assert task.error_rate(decoded) < 0.1
    for name in ("1.running_mean", "1.running_var", "1.num_batches_tracked"):
        assert torch.equal(decoded[name], params[name])
        assert found.per_tensor[name].transform == "exact"
    assert found.per_tensor["4.weight"].bytes < params["4.weight"].nbytes / 8


def test_batch_norm_is_kept_exact_by_name_under_a_plain_function(convolutional):
    model, task = convolutional
    params = state(model)
    decoded = checked(params, lambda p: task.loss(p), 0.5)[1]
    assert torch.equal(decoded["1.running_var"], params["1.running_var"])


def regression():
    """A network without labels or logits: squared error, seen as a plain function of its weights."""
    torch.manual_seed(0)
    x = torch.linspace(-2, 2, 128)[:, None]
    y = torch.sin(3 * x) + 0.5 * x
    model = trained(nn.Sequential(nn.Linear(1, 48), nn.Tanh(), nn.Linear(48, 48), nn.Tanh(), nn.Linear(48, 1)),
                    lambda m: F.mse_loss(m(x), y), 150)  # fmt: skip
    return state(model), lambda p: F.mse_loss(functional_call(model, {k: v.float() for k, v in p.items()}, x), y)


def test_regression_by_squared_error():
    params, loss = regression()
    assert float(loss(params)) < 0.02
    checked(params, loss, 0.01)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_checkpoints(dtype):
    params, loss = regression()
    checked({name: value.to(dtype) for name, value in params.items()}, loss, 0.02)


def test_a_causal_language_model():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=32, n_positions=24, n_embd=24, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    model = transformers.GPT2LMHeadModel(config)
    text = "the sea is the sea and the sky is the sky and the sea is not the sky "
    tokens = torch.tensor([[ord(c) % 32 for c in (text * 3)[k : k + 24]] for k in range(0, 96, 4)])
    trained(model, lambda m: m(input_ids=tokens, labels=tokens).loss, 100)
    params = {name: value for name, value in state(model).items() if name != "lm_head.weight"}  # it is tied

    def loss(p):
        return functional_call(model, p, kwargs={"input_ids": tokens, "labels": tokens, "use_cache": False}).loss

    assert float(loss(params)) < 1.5
    found, _ = checked(params, loss, 0.3)
    assert found.per_tensor["transformer.wte.weight"].bytes > 0


@pytest.mark.slow
def test_more_than_300_kilobytes():
    """Where the authors' search would take an infeasible trial: incompressible weights, every one of which matters."""
    generator = torch.Generator().manual_seed(0)
    params = {f"layers.{k}.weight": torch.randn(2000, 120, generator=generator) for k in range(2)}
    exact = dict(params)

    def loss(p):
        return torch.stack([((p[name] - exact[name]) ** 2).mean() for name in exact]).mean()

    found, _ = checked(params, loss, 5e-4)
    assert found.bytes > 300_000
