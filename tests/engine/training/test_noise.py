import pytest
import torch
from kolmogram import WeightNoise
from torch import nn


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 50), nn.Linear(50, 1))
    model[1].bias.requires_grad_(False)
    return model


def copies(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_the_gradient_is_taken_at_noisy_weights_and_the_clean_ones_come_back(model):
    x = torch.randn(8, 40)
    clean = copies(model)
    noise = WeightNoise(0.1, torch.Generator().manual_seed(3))
    with noise(model):
        noisy = copies(model)
        model(x).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, clean[name])
    assert torch.equal(noisy["1.bias"], clean["1.bias"])  # frozen
    difference = noisy["0.weight"] - clean["0.weight"]
    assert difference.std().item() == pytest.approx(0.1, rel=0.05)  # 2,000 draws
    assert abs(difference.mean().item()) < 0.01
    gradient = model[0].weight.grad.clone()
    model.load_state_dict(noisy)
    model.zero_grad()
    model(x).square().sum().backward()
    assert torch.equal(model[0].weight.grad, gradient)


def test_every_entry_draws_afresh_and_a_seed_repeats(model):
    draws = []
    for seed in (1, 1, 2):
        noise = WeightNoise(0.1, torch.Generator().manual_seed(seed))
        for _ in range(2):
            with noise(dict(model.named_parameters())):
                draws.append(model[0].weight.detach().clone())
    assert torch.equal(draws[0], draws[2])
    assert torch.equal(draws[1], draws[3])
    assert not torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[4])


def test_clean_weights_come_back_after_an_error(model):
    clean = copies(model)

    def fail():
        with WeightNoise(0.1)(model):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert all(torch.equal(p, clean[name]) for name, p in model.named_parameters())


def test_a_backward_pass_outside_the_block_is_refused(model):
    with WeightNoise(0.1)(model):
        loss = model(torch.randn(3, 40)).square().sum()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
