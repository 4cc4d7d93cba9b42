import copy
import math

import pytest
import torch
from kolmogram import SpectralEntropyRegularizer
from kolmogram.engine.errors import KolmogramError
from kolmogram.engine.training import spectral_entropy
from kolmogram.engine.training.spectral_entropy import spectra
from torch import nn


class Net(nn.Module):
    """A convolution, a tied embedding, a frozen matrix, and vectors."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(12, 8)
        self.conv = nn.Conv1d(8, 8, 3, padding=1)
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 12, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        x = self.conv(self.embedding(tokens).mT).mT
        return self.head(self.norm(self.frozen(x)))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def tokens():
    return torch.randint(12, (4, 6), generator=torch.Generator().manual_seed(1))


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def task_loss(model, tokens):
    return nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())


def test_the_penalty_is_the_weighted_mean_over_trainable_matrices(model):
    penalty = SpectralEntropyRegularizer(0.3)
    value = penalty(model)
    value.backward()
    conv = model.conv.weight.detach().view(8, 24)
    (h_embedding,), (g_embedding,) = spectra([model.embedding.weight.detach()])
    (h_conv,), (g_conv,) = spectra([conv])
    assert value.item() == pytest.approx(0.3 * (h_embedding + h_conv).item() / 2)
    assert value.dtype == torch.float32
    assert penalty.entropies == pytest.approx({"embedding.weight": h_embedding.item(), "conv.weight": h_conv.item()})
    assert penalty.effective_ranks["conv.weight"] == pytest.approx(math.exp(h_conv))
    assert gradients(model).keys() == {"embedding.weight", "conv.weight"}
    torch.testing.assert_close(model.conv.weight.grad, 0.15 * g_conv.view(8, 8, 3))
    torch.testing.assert_close(model.embedding.weight.grad, 0.15 * g_embedding)


def test_sum_power_and_patterns(model):
    chosen = SpectralEntropyRegularizer(1.0, include=("conv*", "embed*"), exclude="*embedding*", power=2)
    value = chosen(model)
    (expected,), _ = spectra([model.conv.weight.detach().flatten(1)], power=2)
    assert value.item() == pytest.approx(expected.item())
    assert list(chosen.entropies) == ["conv.weight"]
    total = SpectralEntropyRegularizer(1.0, reduction="sum")(model)
    assert total.item() == pytest.approx(2 * SpectralEntropyRegularizer(1.0)(model).item())


def test_what_is_no_weight_or_empty_is_left_out():
    weights = {"w": torch.randn(5, 6, requires_grad=True), "ids": torch.ones(4, 4, dtype=torch.int64)}
    weights |= {"none": torch.zeros(0, 6, requires_grad=True)}
    penalty = SpectralEntropyRegularizer(1.0)
    penalty(weights).backward()
    assert list(penalty.entropies) == ["w"]


class Wrapper(nn.Module):
    """Puts a part into the names of what it holds, as DistributedDataParallel, torch.compile and FSDP do."""

    def __init__(self, part, inner):
        super().__init__()
        self.add_module(part, inner)


@pytest.mark.parametrize("parts", [["module"], ["_orig_mod"], ["_orig_mod", "module"], ["_fsdp_wrapped_module"]])
def test_wrappers_do_not_change_names(model, parts):
    wrapped = model
    for part in reversed(parts):
        wrapped = Wrapper(part, wrapped)
    penalty = SpectralEntropyRegularizer()
    penalty(wrapped)
    assert set(penalty.entropies) == {"embedding.weight", "conv.weight"}


def test_names_are_whole_and_none_is_lost():
    net = nn.ModuleDict({name: nn.Linear(4, 4, bias=False) for name in ("submodule", "sub", "module")})
    penalty = SpectralEntropyRegularizer(exclude="submodule.*")
    penalty(net)
    assert set(penalty.entropies) == {"sub.weight", "module.weight"}
    twins = nn.ModuleDict({"a": nn.ModuleDict({"_orig_mod": nn.Linear(4, 4)}), "b": nn.Linear(4, 4)})
    twins["a"].register_parameter("weight", nn.Parameter(torch.eye(4)))
    penalty = SpectralEntropyRegularizer()
    penalty(twins)
    assert len(penalty.entropies) == 3
    twins["b"].requires_grad_(False)
    penalty(twins)
    assert set(penalty.entropies) == {"a.weight", "a._orig_mod.weight"}


def test_freezing_does_not_change_names():
    net = nn.ModuleDict({"module": nn.Linear(4, 4), "other": nn.Linear(4, 4).requires_grad_(False)})
    penalty = SpectralEntropyRegularizer()
    penalty(net)
    assert set(penalty.entropies) == {"module.weight"}


def test_it_lowers_the_entropy_when_it_is_minimised(model):
    penalty = SpectralEntropyRegularizer(1.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    start = penalty(model).item()
    for _ in range(30):
        optimizer.zero_grad()
        penalty(model).backward()
        optimizer.step()
    assert penalty(model).item() < 0.8 * start


def count_decompositions(monkeypatch):
    """A list that grows by the number of matrices at every decomposition."""
    calls = []
    solve = spectral_entropy.eigh

    def counting(stacks):
        calls.extend(1 for stack in stacks for _ in stack)
        return solve(stacks)

    monkeypatch.setattr(spectral_entropy, "eigh", counting)
    return calls


def drift(model):
    with torch.no_grad():
        model.conv.weight += 0.005 * torch.randn_like(model.conv.weight)


def test_every_decomposes_seldom_and_follows_the_weights(model, monkeypatch):
    penalty = SpectralEntropyRegularizer(1.0, include="conv*", every=3)
    exact = SpectralEntropyRegularizer(1.0, include="conv*")
    calls = count_decompositions(monkeypatch)
    for step in range(7):
        before = len(calls)
        (gradient,) = torch.autograd.grad(penalty(model), model.conv.weight)
        assert len(calls) - before == (step % 3 == 0)
        (expected,) = torch.autograd.grad(exact(model), model.conv.weight)
        tolerance = 3e-3 if step % 3 else 1e-5
        assert penalty.entropies["conv.weight"] == pytest.approx(exact.entropies["conv.weight"], abs=tolerance)
        assert (gradient - expected).norm() < (0.15 if step % 3 else 1e-4) * expected.norm()
        drift(model)


def test_every_lowers_the_entropy_as_the_exact_penalty_does(model):
    ends = []
    for every in (1, 10):
        trained, penalty = copy.deepcopy(model), SpectralEntropyRegularizer(1.0, every=every)
        optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-2)
        for _ in range(30):
            optimizer.zero_grad()
            penalty(trained).backward()
            optimizer.step()
        with torch.no_grad():
            ends.append(penalty(trained).item())
    assert ends[1] < ends[0] + 0.1


def test_a_look_without_gradients_is_exact_and_changes_nothing(model):
    looked_at, undisturbed = (SpectralEntropyRegularizer(1.0, every=3) for _ in range(2))
    for _ in range(5):
        assert looked_at(model).item() == undisturbed(model).item()
        drift(model)
        with torch.no_grad():
            assert looked_at(model) == SpectralEntropyRegularizer(1.0)(model)


def test_a_restart_goes_on_where_it_was(model, tmp_path):
    penalty, again = (SpectralEntropyRegularizer(1.0, every=4) for _ in range(2))
    penalty(model)
    torch.save(penalty.state_dict(), tmp_path / "state.pt")
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for _ in range(5):
        drift(model)
        assert penalty(model).item() == again(model).item()
        assert penalty.means() == again.means()
    drift(model)
    assert SpectralEntropyRegularizer(1.0, every=4)(model).item() != penalty(model).item()  # what is kept shows


def test_a_matrix_that_comes_later_is_not_left_out(model):
    penalty = SpectralEntropyRegularizer(1.0, every=100)
    penalty(model)
    model.frozen.requires_grad_()
    penalty(model)
    assert "frozen.weight" in penalty.entropies


def test_weights_may_be_given_by_name():
    weights = {"w": torch.randn(5, 6, requires_grad=True), "b": torch.randn(5, requires_grad=True)}
    penalty = SpectralEntropyRegularizer(1.0)
    penalty(weights).backward()
    assert weights["w"].grad.any()
    assert weights["b"].grad is None
    assert list(penalty.entropies) == ["w"]


def test_what_cannot_be_is_said_in_one_line(model):
    with pytest.raises(KolmogramError, match="power is 1 or 2"):
        SpectralEntropyRegularizer(every=0)
    for weight in (-0.1, math.nan):
        with pytest.raises(KolmogramError, match=f"weight is at least 0, not {weight}"):
            SpectralEntropyRegularizer(weight)
    assert SpectralEntropyRegularizer(0)(model).item() == 0
    with pytest.raises(KolmogramError, match="there was none yet"):
        SpectralEntropyRegularizer().means()
    with pytest.raises(KolmogramError, match="no matrix to regularise"):
        SpectralEntropyRegularizer(include="nothing")(model)
    with torch.no_grad():
        model.conv.weight[0, 0, 0] = math.nan
    with pytest.raises(KolmogramError, match=r"NaN or infinite weights in conv\.weight$"):
        SpectralEntropyRegularizer()(model)


def with_spread_spectra(model):
    """Singular values from 1 to 2: none is below the cap, so that `every` is exact at the weights it starts from."""
    with torch.no_grad():
        for weight in (model.embedding.weight, model.conv.weight):
            u, sigma, v = torch.linalg.svd(weight.flatten(1), full_matrices=False)
            weight.copy_((u * torch.linspace(1, 2, len(sigma)) @ v).view_as(weight))
    return model


def test_accumulation_over_micro_batches_is_exact(model, tokens, monkeypatch):
    reference = copy.deepcopy(with_spread_spectra(model))
    (task_loss(reference, tokens) + SpectralEntropyRegularizer(0.5)(reference)).backward()
    penalty = SpectralEntropyRegularizer(0.5, every=4)
    calls = count_decompositions(monkeypatch)
    for row in tokens:
        ((task_loss(model, row[None]) + penalty(model)) / 4).backward()
    assert len(calls) == 2  # of each matrix, once
    for name, gradient in gradients(reference).items():
        torch.testing.assert_close(gradients(model)[name], gradient, msg=name)


def test_every_micro_batch_gets_the_same_gradient(model):
    penalty, names = SpectralEntropyRegularizer(0.5, every=4), ["embedding.weight", "conv.weight"]
    matrices = [model.get_parameter(name) for name in names]
    first, *others = (torch.autograd.grad(penalty(model), matrices) for _ in range(4))
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("every", [1, 2])
def test_autocast_leaves_the_spectra_exact(model, tokens, every):
    plain = SpectralEntropyRegularizer(0.5, every=every)
    expected = plain(model)
    expected.backward()
    exact = gradients(model)
    model.zero_grad()
    penalty = SpectralEntropyRegularizer(0.5, every=every)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(tokens).dtype == torch.bfloat16
        value = penalty(model)
        value.backward()
    assert value.item() == expected.item()
    for name, gradient in exact.items():
        assert torch.equal(gradients(model)[name], gradient)


@pytest.mark.parametrize("every", [1, 4])
def test_adding_the_gradient_is_backward_without_the_graph(model, every):
    twin = copy.deepcopy(model)
    for network in (model, twin):
        for weight in network.parameters():
            weight.grad = torch.ones_like(weight)
        network.conv.weight.grad = None  # as before the first backward
    penalty = SpectralEntropyRegularizer(0.3, every=every)(model)
    penalty.backward()
    added = SpectralEntropyRegularizer(0.3, every=every).add_gradient(twin)
    assert added.item() == penalty.item()
    assert not added.requires_grad
    mine, theirs = gradients(model), gradients(twin)
    assert mine.keys() == theirs.keys()
    for name in mine:
        assert torch.allclose(mine[name], theirs[name], rtol=1e-6, atol=1e-7)  # 1 + s·g rounds once or twice


def test_loss_scaling_scales_the_gradient(model):
    (gradient,) = torch.autograd.grad(SpectralEntropyRegularizer()(model), model.conv.weight)
    scaled = torch.amp.GradScaler("cpu", init_scale=1024.0).scale(SpectralEntropyRegularizer()(model))
    (of_scaled,) = torch.autograd.grad(scaled, model.conv.weight)
    torch.testing.assert_close(of_scaled, 1024 * gradient)


def test_bfloat16_weights_train(model):
    model = model.bfloat16()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    penalty = SpectralEntropyRegularizer(1.0)
    start = penalty(model).item()
    for _ in range(20):
        optimizer.zero_grad()
        penalty(model).backward()
        optimizer.step()
    assert penalty(model).item() < start - 0.1


@pytest.mark.slow
def test_inside_a_compiled_training_step(model, tokens):
    reference = copy.deepcopy(model)
    (task_loss(reference, tokens) + SpectralEntropyRegularizer(0.5)(reference)).backward()
    penalty = SpectralEntropyRegularizer(0.5)
    compiled = torch.compile(model, backend="aot_eager")

    @torch.compile(backend="aot_eager")
    def loss():
        return task_loss(compiled, tokens) + penalty(compiled)

    loss().backward()
    assert "embedding.weight" in penalty.entropies  # without _orig_mod.
    for name, gradient in gradients(reference).items():
        torch.testing.assert_close(gradients(model)[name], gradient, msg=name)


@pytest.mark.parametrize("every", [1, 2])
def test_a_pretended_gpu_has_the_same_penalty(pretended, every):
    found = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(12, 8), torch.nn.Linear(8, 12)).to(device)
        penalty = SpectralEntropyRegularizer(0.1, every=every)
        for _ in range(3):
            value = penalty(model)
            value.backward()
            penalty.add_gradient(model)
            found.append((value.item(), penalty.means(), model[0].weight.grad.tolist()))
    assert found[:3] == found[3:]
