"""Weights go to the device that the network came from, each once, and are forgotten with it."""

import gc
import weakref

import pytest
import torch
from kolmogram.engine.coarse import complexity
from kolmogram.engine.coarse.placement import Placement
from kolmogram.engine.tasks.modular import ModularTask


def test_on_the_host_everything_stays():
    params = {"w": torch.zeros(3)}
    assert Placement(params)(params) is params


def test_each_goes_once():
    placed = Placement({"w": torch.zeros(3, device="meta")})
    w, v = torch.zeros(3), torch.ones(2)
    first, second = placed({"w": w, "v": v}), placed({"w": w, "v": v.clone()})
    assert all(value.device.type == "meta" for value in first.values())
    assert first["w"] is second["w"]
    assert first["v"] is not second["v"]
    assert placed(first)["w"] is first["w"]


def test_what_is_gone_is_forgotten():
    placed = Placement({"w": torch.zeros(3, device="meta")})
    w = torch.zeros(3)
    there = weakref.ref(placed({"w": w})["w"])
    del w
    gc.collect()
    assert there() is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", ["kolmogram", "paper"])
def test_a_search_on_a_gpu(method):
    if method == "paper":
        pytest.importorskip("bayes_opt")
    task = ModularTask("addition", modulus=11, architecture="mlp", width=16, device="cuda")
    params = {n: w.cuda() for n, w in task.network.initial(torch.Generator().manual_seed(0)).items()}
    found = complexity(params, task, 0.1, method=method, **({"moves": 10} if method == "kolmogram" else {}))
    assert found.status == "ok"
    assert found.bytes > 0


@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_a_network_goes_where_the_data_of_the_task_are(pretended, where):
    def found(network_on, data_on):
        task = ModularTask("addition", modulus=11, architecture="mlp", width=16, device=data_on)
        params = {n: w.to(network_on) for n, w in task.network.initial(torch.Generator().manual_seed(0)).items()}
        return complexity(params, task, 0.05, moves=2)

    assert found(where, "cuda").encoded == found("cpu", "cpu").encoded
