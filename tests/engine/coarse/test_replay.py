"""What is replayed does what a call does, and what cannot be replayed is called."""

import gc

import pytest
import torch
from kolmogram.engine.coarse import complexity
from kolmogram.engine.coarse.descent import Descent
from kolmogram.engine.coarse.loss import Loss
from kolmogram.engine.coarse.replay import Replayed
from kolmogram.engine.tasks.modular import ModularTask


@pytest.fixture
def gpu():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device("cuda")


def test_on_the_host_it_is_called_every_time():
    calls = []
    repeated = Replayed(lambda: calls.append(None), torch.device("cpu"))
    for _ in range(5):
        repeated()
    assert len(calls) == 5
    assert not repeated.is_replayed


@pytest.mark.gpu
def test_replays_read_and_write_what_calls_would(gpu):
    x, total, calls = torch.zeros((), device=gpu), torch.zeros((), device=gpu), []

    def add():
        calls.append(None)
        total.add_(x * x)

    repeated = Replayed(add, gpu)
    for value in range(10):
        x.fill_(value)
        repeated()
        assert float(total) == sum(v * v for v in range(value + 1)), "once for each call"
    assert repeated.is_replayed
    assert len(calls) == 3, "two calls, and one that was written down"


@pytest.mark.gpu
def test_one_is_replayed_after_another_is_gone(gpu):
    result = torch.zeros((), device=gpu)
    for _ in range(3):
        repeated = Replayed(lambda: result.copy_(torch.ones(1000, device=gpu).sum()), gpu)
        for _ in range(4):
            repeated()
        assert repeated.is_replayed
        del repeated
        torch.cuda.empty_cache()


def test_nothing_is_collected_while_a_graph_is_captured(pretended):
    result, collects = torch.zeros((), device="cuda"), []
    repeated = Replayed(lambda: (collects.append(gc.isenabled()), result.fill_(1)), torch.device("cuda"), result)
    for _ in range(5):
        repeated()
    assert repeated.is_replayed
    assert collects == [True, False, True], "called, written down, compared"
    assert gc.isenabled()


@pytest.mark.gpu
def test_a_graph_that_becomes_garbage_does_not_spoil_another(gpu):
    result, kept = torch.zeros((), device=gpu), []

    def fill():
        if torch.cuda.is_current_stream_capturing():
            kept.clear()
            gc.set_threshold(1, 1, 1)
            [[] for _ in range(1000)]  # where collecting is on, that collects
        result.copy_(torch.ones(1000, device=gpu).sum())

    thresholds = gc.get_threshold()
    try:
        for _ in range(3):
            repeated = Replayed(fill, gpu, result)
            for _ in range(4):
                repeated()
            assert repeated.is_replayed
            repeated.itself = repeated  # only the collector finds it
            kept.append(repeated)
            del repeated
            gc.set_threshold(*thresholds)
    finally:
        gc.set_threshold(*thresholds)


@pytest.mark.gpu
def test_a_capture_that_fails_does_not_spoil_another(gpu):
    result, host = torch.zeros(4, device=gpu), torch.zeros(4)
    for _ in range(3):
        refused = Replayed(lambda: result.copy_(host.add_(1)), gpu, result[0])
        accepted = Replayed(lambda: result.copy_(torch.ones(4, device=gpu)), gpu, result[0])
        for _ in range(4):
            refused()
            accepted()
        assert not refused.is_replayed
        assert accepted.is_replayed


@pytest.mark.gpu
def test_what_waits_for_the_gpu_is_called(gpu):
    x, result = torch.zeros((), device=gpu), torch.zeros((), device=gpu)
    repeated = Replayed(lambda: result.fill_(x.item() + 1), gpu, result)
    for value in range(6):
        x.fill_(value)
        repeated()
        assert float(result) == value + 1
    assert not repeated.is_replayed
    assert torch.randn(3, device=gpu).isfinite().all(), "and nothing has been left in a capture"


@pytest.mark.gpu
def test_what_cannot_be_written_down_is_called(gpu):
    """A copy from pageable memory does not wait, but is none of a graph's."""
    result, host = torch.zeros(4, device=gpu), torch.zeros(4)
    repeated = Replayed(lambda: result.copy_(host.add_(1)), gpu, result[0])
    for _ in range(6):
        repeated()
    assert not repeated.is_replayed
    assert float(result[0]) == float(host[0])
    assert torch.randn(3, device=gpu).isfinite().all()


@pytest.mark.gpu
def test_what_changes_on_the_host_is_found_out(gpu):
    result, calls = torch.zeros((), device=gpu), []

    def count():
        calls.append(None)
        result.fill_(len(calls))

    repeated = Replayed(count, gpu, result)
    seen = []
    for _ in range(6):
        repeated()
        seen.append(float(result))
    assert seen == [1, 3, 4, 5, 6, 7], "all of them called; the second only written down"
    assert not repeated.is_replayed


def trained(device):
    """A network that has learned enough to be worth a search, and has batches to draw."""
    task = ModularTask("addition", modulus=29, architecture="mlp", width=16, train_fraction=0.8, device=device)
    weights = task.network.initial(torch.Generator().manual_seed(0))
    weights = {name: value.to(device).requires_grad_() for name, value in weights.items()}
    optimizer = torch.optim.AdamW(weights.values(), lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        task.loss(weights).backward()
        optimizer.step()
    return task, {name: value.detach() for name, value in weights.items()}


def test_batches_are_written_over_those_before():
    """Or a replay would go on with the first."""
    task, weights = trained("cpu")
    loss = Loss(task, weights, {}, torch.Generator().manual_seed(0))
    loss.draw()
    batch = loss._batch
    first = batch.clone()
    loss.draw()
    assert loss._batch is batch
    assert not torch.equal(batch, first)


@pytest.mark.gpu
def test_moves_are_replayed_and_change_nothing(gpu, monkeypatch):
    task, weights = trained(gpu)
    descents = []
    init = Descent.__init__
    monkeypatch.setattr(Descent, "__init__", lambda self, *args: (init(self, *args), descents.append(self))[0])
    replayed = complexity(weights, task, 0.25, moves=40)
    assert descents[0]._differentiate.is_replayed
    assert descents[0]._move.is_replayed
    monkeypatch.setattr(Replayed, "__call__", Replayed._call)
    called = complexity(weights, task, 0.25, moves=40)
    assert replayed.bytes == pytest.approx(called.bytes, rel=0.1)  # sums in another order end elsewhere
    assert replayed.evaluations == called.evaluations


def test_moves_are_replayed_on_a_pretended_gpu_and_change_nothing(pretended, monkeypatch):
    task, weights = trained("cpu")
    here = complexity(weights, task, 0.25, moves=4)
    descents = []
    init = Descent.__init__
    monkeypatch.setattr(Descent, "__init__", lambda self, *args: (init(self, *args), descents.append(self))[0])
    task, weights = trained("cuda")
    assert complexity(weights, task, 0.25, moves=4).encoded == here.encoded
    assert descents[0]._differentiate.is_replayed
    assert descents[0]._move.is_replayed
    assert descents[0].loss._whole._evaluate.is_replayed
