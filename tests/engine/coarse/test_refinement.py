"""Refinement moves integers to make up for the errors of other tensors, and for nothing else."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from kolmogram.engine.coarse import approach, assembly, complexity, refinement
from kolmogram.engine.coarse.assembly import Assembler
from kolmogram.engine.coarse.curvature import curvature, moments
from kolmogram.engine.coarse.loss import Loss
from kolmogram.engine.coarse.memory import Memory
from kolmogram.engine.coarse.refinement import RIGID, SOFTEN, Refinement
from kolmogram.engine.coarse.route import route
from kolmogram.engine.coarse.state import State
from kolmogram.engine.coarse.tensor_coder import ALL_KINDS, Candidate, recoded
from kolmogram.engine.codec.header import Signature
from kolmogram.engine.codec.representation import OCTAVE, Decoded, Kind, Representation, reconstruct
from torch.overrides import TorchFunctionMode

LEVEL = -1.7  # log of the noise, coarse enough that the loss minds


@pytest.fixture
def loss(task, params):
    return Loss(task, params, {}, torch.Generator().manual_seed(0))


@pytest.fixture
def assembler(task, params):
    found = moments(task, params, 8, torch.Generator().manual_seed(0))
    signatures = [Signature(name, tuple(value.shape), value.dtype) for name, value in params.items()]
    matrices = {n: v.double().numpy().reshape(len(v), -1) for n, v in params.items()}
    curvatures = {s.name: curvature(found[s.name], s.shape) for s in signatures}
    return Assembler(signatures, matrices, curvatures, {})


def coarse_state(assembler, loss, kinds=ALL_KINDS, level=LEVEL):
    levels = dict.fromkeys(assembler.coders, level)
    candidates = {name: assembler.code(name, level, [], kinds) for name in levels}
    decoded = {s.name: torch.from_numpy(candidates[s.name].decoded.matrix) for s in assembler.signatures}
    params = {s.name: decoded[s.name].reshape(s.shape).to(s.dtype) for s in assembler.signatures}
    return State(candidates, levels, params, loss(params), loss.on_part(params))


def gradients_of(task, params):
    point = {name: value.clone().requires_grad_() for name, value in params.items()}
    return torch.autograd.grad(task.loss(point), list(point.values()))


def refined(state, loss, params, assembler, price=1e4, memory=None, passes=8):
    memory = memory or Memory()
    for _ in range(passes):
        step = Refinement(loss, params, assembler, memory, price, loss.original + 10.0)
        state = step.run(state)
    return state


@pytest.mark.parametrize("kinds", [frozenset({Kind.DIRECT}), frozenset({Kind.FACTORS, Kind.DIRECT})])
def test_the_loss_comes_back_at_hardly_more_bytes(task, params, loss, assembler, kinds):
    before = coarse_state(assembler, loss, kinds)
    after = refined(before, loss, params, assembler, price=1e5)
    assert before.loss - loss.original > 5e-4
    assert after.loss - loss.original < 0.7 * (before.loss - loss.original)
    assert after.estimated_bytes < 1.1 * before.estimated_bytes
    assert loss(after.params) == pytest.approx(after.loss, rel=1e-5)


def test_without_errors_nothing_moves_however_much_there_is_to_learn(task, params, loss, assembler):
    coarse = coarse_state(assembler, loss, frozenset({Kind.DIRECT}), level=-1.2)
    untrained = Loss(task, coarse.params, {}, torch.Generator().manual_seed(0))  # the coarse network is the original
    assert max(float(g.abs().max()) for g in gradients_of(task, coarse.params)) > 0.005
    state = State(coarse.candidates, coarse.levels, coarse.params, untrained.original, coarse.part_loss)
    after = refined(state, untrained, coarse.params, assembler, price=1e9)  # where bytes are of no account
    for name, candidate in coarse.candidates.items():
        assert np.array_equal(after.candidates[name].decoded.matrix, candidate.decoded.matrix)


def test_a_lower_price_of_a_nat_gives_fewer_bytes(task, params, loss, assembler):
    before = coarse_state(assembler, loss)
    dear, cheap = (refined(before, loss, params, assembler, price).estimated_bytes for price in (1e4, 1e3))
    assert cheap < dear


def test_steps_follow_the_price_of_a_nat_and_levels_follow_steps(task, params, loss, assembler):
    before = coarse_state(assembler, loss, frozenset({Kind.DIRECT}))

    def moves(price):  # of the steps, in eighths of an octave, and of the levels
        after = refined(before, loss, params, assembler, price, passes=1)
        assert {c.code.kind for c in after.candidates.values()} == {c.code.kind for c in before.candidates.values()}
        coded = [name for name, c in after.candidates.items() if c.code.symbols is not None]
        steps = [after.candidates[n].code.step - before.candidates[n].code.step for n in coded]
        levels = [after.levels[n] - before.levels[n] for n in coded]
        assert levels == pytest.approx([step / OCTAVE * np.log(2) for step in steps])
        return steps

    cheap, dear = moves(1e3), moves(1e6)
    assert max(cheap) == OCTAVE, "coarser by an octave, and no more in one pass"
    assert min(dear) == -OCTAVE, "finer by an octave, and no more in one pass"
    assert min(cheap) >= 0 >= max(dear)


def test_a_rigid_tensor_is_left_alone_and_softens(task, params, loss, assembler):
    before = coarse_state(assembler, loss)
    memory = Memory(stiffnesses=dict.fromkeys(params, 2 * RIGID))
    after = refined(before, loss, params, assembler, memory=memory, passes=1)
    assert after.candidates == before.candidates
    seen = [n for n, c in before.candidates.items() if c.code.symbols is not None]
    assert all(memory.stiffness(name) == 2 * RIGID * SOFTEN for name in seen)


def test_torch_is_called_from_one_thread(task, params, monkeypatch):
    """Torch in the pool's threads as well makes every loss after it twice as slow."""
    calls, pieces = [], []

    class Watch(TorchFunctionMode):  # sees the calls of the thread that it is entered in
        def __torch_function__(self, function, types, args=(), kwargs=None):
            calls.append(function)
            return function(*args, **(kwargs or {}))

    for module in (assembly, refinement):
        original = module.with_one_blas_thread_each

        def watched(function, arguments, original=original):
            def work(piece):
                pieces.append(piece)
                with Watch():
                    return function(piece)

            return original(work, arguments)

        monkeypatch.setattr(module, "with_one_blas_thread_each", watched)
    complexity(params, task, 0.1)
    assert pieces
    assert not calls


def test_empty_components_and_empty_tensors_are_dropped():
    symbols = np.array([[1, 0], [2, 0], [1, 3], [0, 1], [1, 1]])  # sides of 2 and of 3 rows; the second left side is 0
    code = Representation(Kind.FACTORS, 0, symbols=symbols)
    old = Candidate(Decoded(code, np.zeros((2, 3)), (None, None)), 1.0, 0.0)
    new = recoded(old, code)
    assert new.code.symbols.shape == (5, 1)
    assert np.array_equal(new.decoded.matrix, reconstruct(new.code, (2, 3), []).matrix)
    assert recoded(old, replace(code, symbols=np.zeros_like(symbols))).code.kind == Kind.ZERO


def test_files_are_smaller_for_it(task, params, monkeypatch):
    refining = [complexity(params, task, 0.1, seed=seed).bytes for seed in range(3)]
    monkeypatch.setattr(approach.Refinement, "run", lambda self, state: state.copy())
    without = [complexity(params, task, 0.1, seed=seed).bytes for seed in range(3)]
    assert sum(refining) < 0.9 * sum(without)


def test_a_search_that_overshoots_and_does_not_come_back_goes_back(task, params, monkeypatch):
    """Without refinement what has gone beyond the station stays there: all sweeps but the first would be wasted."""
    monkeypatch.setattr(approach.Refinement, "run", lambda self, state: state.copy())
    empty = task.loss({name: torch.zeros_like(value) for name, value in params.items()}) - task.loss(params)
    station = route([0.1], float(empty)).first
    for seed in range(3):
        found = complexity(params, task, 0.1, seed=seed)
        assert found.loss <= found.original_loss + 0.1
        states = [loss <= found.original_loss + station for _, loss in found.frontier]
        assert sum(states) > len(states) / 2
        assert not any(not earlier and not later for earlier, later in pairwise(states)), "never beyond ε for long"
