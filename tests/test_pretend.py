"""The pretended GPU refuses what a GPU refuses, grants what it grants, and has the host wait where it waits."""

import pytest
import torch
from torch.nn import functional as F  # noqa: N812


@pytest.fixture
def there(pretended):
    return torch.arange(3.0, device="cuda")


def test_what_is_there_is_not_here(there):
    assert there.device == torch.device("cuda", 0)
    assert (there + 1).to(torch.float64).device == torch.device("cuda", 0)
    assert there.cpu().device == torch.device("cpu")
    assert torch.nn.Linear(3, 2).to("cuda").weight.is_cuda


@pytest.mark.parametrize(
    "mix",
    [
        lambda there, here: there + here,
        lambda there, here: here.add_(there),
        lambda there, here: here.sum().add_(there.sum()),
        lambda there, here: here[there.long()],
        lambda there, here: torch.cat([there, here]),
        lambda there, here: F.linear(there, here[None]),
        lambda there, here: torch.rand(3, device="cuda", generator=torch.Generator()),
        lambda there, here: there.normal_(generator=torch.Generator()),
        lambda there, here: torch.rand(3, generator=torch.Generator("cuda")),
    ],
)
def test_mixing_is_refused(there, mix):
    with pytest.raises(RuntimeError, match="Expected"):
        mix(there, torch.ones(3))


def test_numpy_is_refused(there):
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()


def test_host_scalars_and_indices_are_granted(there):
    assert (there * torch.tensor(2.0)).tolist() == [0, 2, 4]
    assert there[torch.tensor([2])].is_cuda
    there[there > 1] = 7
    assert there.normal_(generator=torch.Generator("cuda").manual_seed(0)).is_cuda


def test_gradients_stay_where_their_tensors_are(there):
    here, there = torch.ones(3, requires_grad=True), there.requires_grad_()
    (here.cuda() * there).sum().backward()
    assert not here.grad.is_cuda
    assert there.grad.is_cuda
    assert there.grad.tolist() == [1, 1, 1]


def test_waits_are_counted(there, pretended):
    pretended.waits.clear()
    there.mul_(2).sum()
    there[there > 1] = 0
    torch.ones(3).to("cuda", non_blocking=True)
    assert not pretended.waits
    for wait in (there.sum().item, there.cpu, there.nonzero, lambda: there[there > 1], lambda: torch.ones(3).cuda()):
        before = pretended.waits.total()
        wait()
        assert pretended.waits.total() == before + 1
