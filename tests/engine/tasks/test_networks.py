"""The networks against plain modules that compute everything: all positions, all tokens, no sharing."""

import math

import pytest
import torch
from kolmogram.engine.tasks.networks import ARCHITECTURES, Network, bilinear, build, mlp, transformer
from torch import nn
from torch.func import functional_call, vmap


class PlainAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.key, self.value, self.output = (nn.Linear(128, 128) for _ in range(4))

    def forward(self, x):
        q, k, v = (p(x).view(len(x), -1, 4, 32).transpose(1, 2) for p in (self.query, self.key, self.value))
        weights = (q @ k.mT / math.sqrt(32)).softmax(-1)
        return self.output((weights @ v).transpose(1, 2).reshape(x.shape))


class PlainBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = PlainAttention()
        self.attention_norm = nn.LayerNorm(128, eps=1e-6)
        self.mlp = nn.ModuleDict({"up": nn.Linear(128, 512), "down": nn.Linear(512, 128)})
        self.mlp_norm = nn.LayerNorm(128, eps=1e-6)

    def forward(self, x):
        x = self.attention_norm(x + self.attention(x))
        return self.mlp_norm(x + self.mlp["down"](nn.functional.gelu(self.mlp["up"](x), approximate="tanh")))


class PlainTransformer(nn.Module):
    def __init__(self, vocabulary, layers):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 128)
        self.positional_embedding = nn.Embedding(vocabulary, 128)
        self.layers = nn.Sequential(*(PlainBlock() for _ in range(layers)))
        self.output = nn.Linear(128, vocabulary)

    def forward(self, tokens):
        x = self.embedding(tokens) + self.positional_embedding(torch.arange(4))
        return self.output(self.layers(x))[:, -1]


class PlainMLP(nn.Module):
    def __init__(self, vocabulary):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 128)
        self.layers = nn.ModuleList([nn.Linear(512, 512) for _ in range(3)])
        self.output = nn.Linear(512, vocabulary)

    def forward(self, tokens):
        x = self.embedding(tokens).flatten(1)
        first, second, third = self.layers
        return self.output(third(second(first(x).relu()).relu()))


class PlainBilinear(nn.Module):
    def __init__(self, modulus):
        super().__init__()
        self.left_embedding, self.right_embedding = (nn.Embedding(modulus, 128) for _ in range(2))
        self.output = nn.Linear(128, modulus, bias=False)

    def forward(self, tokens):
        return self.output(self.left_embedding(tokens[:, 0]) * self.right_embedding(tokens[:, 2]))


P = 11
CASES = {
    "one layer": (transformer(P, 1), PlainTransformer(P + 2, 1)),
    "two layers": (transformer(P, 2), PlainTransformer(P + 2, 2)),
    "three layers": (transformer(P, 3), PlainTransformer(P + 2, 3)),
    "mlp": (mlp(P), PlainMLP(P + 2)),
    "bilinear": (bilinear(P), PlainBilinear(P)),
}


def random_params(network: Network, dtype=torch.float64):
    """Weights large enough for attention to be far from uniform, biases included."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: (torch.randn(shape, generator=generator, dtype=dtype) * (0.3 if len(shape) > 1 else 1.0)).requires_grad_()
        for name, shape in network.shapes.items()
    }


def pairs_and_tokens():
    pairs = torch.cartesian_prod(torch.arange(P), torch.arange(P))[torch.randperm(P * P)]
    a, b = pairs.unbind(1)
    return pairs, torch.stack([a, torch.full_like(a, P), b, torch.full_like(a, P + 1)], dim=1)


@pytest.mark.parametrize("case", CASES)
def test_logits_and_gradients_equal_the_plain_network(case):
    network, plain = CASES[case]
    params = random_params(network)
    assert {name: tuple(t.shape) for name, t in plain.state_dict().items()} == network.shapes
    pairs, tokens = pairs_and_tokens()
    fast, slow = network.logits(params, pairs), functional_call(plain, params, (tokens,))
    torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-9)
    probe = torch.randn_like(slow)
    got = torch.autograd.grad(fast, list(params.values()), probe, allow_unused=True)
    expected = torch.autograd.grad(slow, list(params.values()), probe)
    for name, g, e in zip(params, got, expected, strict=True):
        torch.testing.assert_close(torch.zeros_like(e) if g is None else g, e, rtol=1e-7, atol=1e-7, msg=name)
    assert all(g.any() for name, g in zip(params, got, strict=True) if "key.bias" not in name)  # softmax cancels it


@pytest.mark.parametrize("case", CASES)
def test_vmap_over_weights_equals_a_loop(case):
    network, _ = CASES[case]
    pairs, _ = pairs_and_tokens()
    params = {name: p.detach() for name, p in random_params(network).items()}
    stacked = {name: torch.stack([p, p * 1.1, -p]) for name, p in params.items()}
    looped = [network.logits({name: p[i] for name, p in stacked.items()}, pairs) for i in range(3)]
    torch.testing.assert_close(vmap(network.logits, (0, None))(stacked, pairs), torch.stack(looped))


def test_the_transformer_has_the_papers_size():
    assert sum(math.prod(shape) for shape in transformer(113, 1).shapes.values()) == 242_547


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_narrow_network_is_the_same_with_fewer_weights(architecture):
    wide, narrow = build(architecture, P, 1), build(architecture, P, 1, width=16)
    assert list(wide.shapes) == list(narrow.shapes)
    assert sum(map(math.prod, wide.shapes.values())) > 7 * sum(map(math.prod, narrow.shapes.values()))
    pairs, _ = pairs_and_tokens()
    logits = [network.logits(random_params(network), pairs) for network in (wide, narrow)]
    assert logits[0].shape == logits[1].shape
    assert logits[1].isfinite().all()


def test_only_four_rows_of_the_positional_table_are_read():
    network = transformer(P, 1)
    params = random_params(network)
    network.logits(params, pairs_and_tokens()[0]).sum().backward()
    gradient = params["positional_embedding.weight"].grad
    assert gradient[:4].any(dim=1).all()
    assert not gradient[4:].any()


def test_initial_weights_have_the_variances_of_flax():
    initial = transformer(113, 1).initial(torch.Generator().manual_seed(0))
    for name, weight in initial.items():
        if name.endswith("norm.weight"):
            assert (weight == 1).all()
        elif weight.ndim == 1:
            assert not weight.any()
        else:  # 15,000 and more draws: the standard deviation is known to 1 %
            assert weight.std().item() == pytest.approx(weight.shape[1] ** -0.5, rel=0.03), name
            cut = 2 / 0.87962566 * weight.shape[1] ** -0.5
            assert (weight.abs().max() <= cut) == ("embedding" not in name), name
