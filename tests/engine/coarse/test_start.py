"""The start of descent: coded directly, well within ε, without what is of no use."""

from copy import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from kolmogram.engine.coarse import start as module
from kolmogram.engine.coarse.curvature import Curvature
from kolmogram.engine.coarse.search import Search
from kolmogram.engine.coarse.start import CLOSE, LEAST_STRIDE, RISE, Start
from kolmogram.engine.coarse.state import State
from kolmogram.engine.coarse.tensor_coder import dropped
from kolmogram.engine.codec.representation import Kind
from kolmogram.engine.tasks import Task


def uncoded(task, params):
    search = Search(task, params)
    return Start(search.loss, search.signatures, search.weights, search.matrices, search.generator)


def start_of(task, params, epsilon):
    start = uncoded(task, params)
    return start, start.coded(epsilon)


@pytest.mark.parametrize("epsilon", [1.0, 0.1, 0.01])
def test_it_is_about_half_of_the_way(task, params, epsilon):
    _, state = start_of(task, params, epsilon)
    rise = state.loss - float(task.loss(params))
    assert RISE / 30 * epsilon < rise <= RISE * epsilon, "it grows with the square of the step, or faster"
    assert float(task.loss(state.params)) == pytest.approx(state.loss, rel=1e-6)
    assert {code.code.kind for code in state.candidates.values()} <= {Kind.DIRECT, Kind.ZERO}


def test_smaller_rises_cost_more_bytes(task, params):
    sizes = [start_of(task, params, epsilon)[1].estimated_bytes for epsilon in (0.3, 0.03, 0.003)]
    assert sizes == sorted(sizes)
    assert sizes[2] > 1.2 * sizes[0]


def test_tensors_of_no_use_are_dropped(task, params):
    class Indifferent(Task):
        num_examples = task.num_examples

        def loss(self, p):
            return task.loss({name: value for name, value in p.items() if name != "unused"})

    _, state = start_of(Indifferent(), {**params, "unused": torch.randn(30, 30)}, 0.1)
    assert state.candidates["unused"].code.kind == Kind.ZERO
    assert state.candidates["up.weight"].code.kind == Kind.DIRECT


def test_features_that_only_seem_unused_are_kept(task, params):
    blind, misled = copy(task), copy(task)
    blind.inputs = torch.cat([torch.zeros(256, 6), task.inputs[:, 6:]], 1)
    misled.sampled_loss = blind.sampled_loss  # so that the curvature is of a network that does not see them
    assert not start_of(blind, params, 0.1)[0].matrices["up.weight"][:, :6].any()
    assert start_of(misled, params, 0.1)[0].matrices["up.weight"][:, :6].all()


class Padded(Task):
    """With tensors that it hardly uses."""

    def __init__(self, task):
        self.task, self.num_examples = task, task.num_examples

    def loss(self, p):
        others = {name: value for name, value in p.items() if name not in ("a", "b", "unused")}
        standing = 10 * F.relu(1 - p["a"].abs().sum() - p["b"].abs().sum()) if "a" in p else 0
        return self.task.loss(others) + standing


def test_of_two_tensors_that_stand_in_for_each_other_one_is_kept(task, params):
    start = uncoded(Padded(task), {**params, "a": torch.ones(9, 9), "b": torch.ones(9, 9)})
    assert start._useless(0.01) == {"a"}


def test_what_seems_dead_is_asked_one_by_one_where_not_all_of_it_is(task, params):
    start = uncoded(Padded(task), {**params, "unused": torch.ones(5, 5)})
    seen = {n: Curvature(np.ones(len(m)), np.ones(m.shape[1])) for n, m in start.matrices.items()}
    seen["up.weight"].columns[3] = 0  # which is not true
    seen["unused"].columns[:] = 0
    before = start.matrices["up.weight"].copy()
    start._silence(seen)
    np.testing.assert_array_equal(start.matrices["up.weight"], before)
    assert not start.matrices["unused"].any()


def test_a_loss_that_is_infinite_where_weights_are_coarse(task, params):
    class Strict(Task):
        num_examples = task.num_examples

        def loss(self, p):
            far = (p["up.weight"] - params["up.weight"]).norm() > 0.2 * params["up.weight"].norm()
            return task.loss(p) * (torch.inf if far else 1.0)

    _, state = start_of(Strict(), params, 0.1)
    assert float(task.loss(params)) < state.loss < float(task.loss(params)) + 0.1


def test_levels_end_close_to_each_other(task, params, monkeypatch):
    tried = []
    at = Start._at
    monkeypatch.setattr(
        Start,
        "_at",
        lambda self, a, levels, dropped: (tried.append(max(levels.values())), at(self, a, levels, dropped))[1],
    )
    _, state = start_of(task, params, 0.1)
    assert len(tried) < 15
    others = [level for level in tried if level != tried[-1]]
    assert min(abs(level - tried[-1]) for level in others) <= max(CLOSE, LEAST_STRIDE)
    assert state.loss > float(task.loss(params))


def test_a_loss_that_minds_nothing_ends_too(params):
    class Constant(Task):
        num_examples = 10

        def loss(self, p):
            return p["up.weight"].sum() * 0 + 1.0

    _, state = start_of(Constant(), params, 0.1)
    assert all(code.code.kind == Kind.ZERO for code in state.candidates.values())


def test_a_small_tensor_does_not_make_all_others_finer(task, params, monkeypatch):
    """The loss minds an error in it by far more than gradients say, as with the bias of a query."""

    class Guarded(Task):
        num_examples = task.num_examples

        def loss(self, p):
            error = p["guard"].detach() - params["up.bias"][:9]
            others = {name: value for name, value in p.items() if name != "guard"}
            return task.loss(others) + 1000 * (error * error).sum() + 0.01 * (p["guard"] ** 2).sum()

    guarded = {**params, "guard": params["up.bias"][:9].clone()}
    steps = []
    for helped in (0.0, 0.9):  # nobody is ever asked, and everybody is
        monkeypatch.setattr(module, "HELPED", helped)
        _, state = start_of(Guarded(), guarded, 0.1)
        assert state.loss <= float(Guarded().loss(guarded)) + 0.1
        steps.append({name: code.code.step for name, code in state.candidates.items() if code.code.symbols is not None})
    assert steps[1]["up.weight"] >= steps[0]["up.weight"] + 4, "half an octave at least"
    assert steps[1]["down.weight"] >= steps[0]["down.weight"] + 4


def test_a_large_tensor_that_vanished_is_not_taken_for_a_small_one(task, params):
    start, state = start_of(task, params, 0.1)
    gone = {name: dropped(candidate.decoded.matrix.shape) for name, candidate in state.candidates.items()}
    zeros = {name: torch.zeros_like(value) for name, value in params.items()}

    def blamed(*names):
        candidates = {name: gone[name] if name in names else code for name, code in state.candidates.items()}
        values = {name: zeros[name] if name in names else value for name, value in state.params.items()}
        return start._blamed(State(candidates, values, start.loss(values)), 0.1, frozenset())

    assert blamed("up.weight") == {}, "a quarter of the network"
    assert blamed("norm.weight").keys() == {"norm.weight"}
