"""Two gloo processes on the CPU: the same penalty and the same gradients as one process."""

import os
import socket

import pytest
import torch
import torch.distributed as dist
from kolmogram import SpectralEntropyRegularizer
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

pytestmark = pytest.mark.slow


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 10), nn.Tanh(), nn.Linear(10, 5, bias=False), nn.Tanh(), nn.Linear(5, 3))


def loss_of(model, penalty, x, order):
    """The penalty may be taken before or after the forward pass; FSDP2 shows different parameters in between."""
    if order == "before":
        value = penalty(model)
        return model(x).square().mean() + value
    return model(x).square().mean() + penalty(model)


def single_process(x):
    model, penalty = make_model(), SpectralEntropyRegularizer(0.5)
    loss_of(model, penalty, x, "after").backward()
    return penalty.entropies, {name: p.grad for name, p in model.named_parameters()}


def as_ddp(model):
    return DistributedDataParallel(model)


def as_fsdp(model):
    mesh = init_device_mesh("cpu", (2,))  # by default it would be of a GPU where there is one
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def check_equals_one_process(wrap, order, rank, x):
    entropies, gradients = single_process(x)
    model, penalty = wrap(make_model()), SpectralEntropyRegularizer(0.5, every=2)
    for _ in range(2):  # the second time without a decomposition
        model.zero_grad()
        loss_of(model, penalty, x[rank::2], order).backward()
        assert penalty.entropies == pytest.approx(entropies)
        for name, parameter in model.named_parameters():
            got = parameter.grad
            got = got.full_tensor() if wrap is as_fsdp else got
            torch.testing.assert_close(got, gradients[name.removeprefix("module.")], msg=f"{wrap} {order} {name}")


def work(rank, port):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    try:
        x = torch.randn(8, 7, generator=torch.Generator().manual_seed(1))
        for wrap in (as_ddp, as_fsdp):
            for order in ("before", "after"):
                check_equals_one_process(wrap, order, rank, x)
        dist.barrier()  # gloo can abort a process that leaves while the other still talks to it
    finally:
        dist.destroy_process_group()


def test_two_processes_equal_one():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    torch.multiprocessing.spawn(work, args=(port,), nprocs=2)
