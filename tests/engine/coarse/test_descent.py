"""Descent keeps a loss where it is aimed at, comes within ε, and does not fall into what gradients do not show."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from kolmogram.engine.coarse import descent as module
from kolmogram.engine.coarse.descent import END, LOST, Descent, Price
from kolmogram.engine.coarse.latents import Latents
from kolmogram.engine.coarse.search import Search
from kolmogram.engine.coarse.start import Start
from kolmogram.engine.coarse.tensor_coder import recoded
from kolmogram.engine.tasks import Task

EPSILON = 0.25


def descent_of(task, params, notes=None):
    search = Search(task, params)
    search.run([1e6])  # what the empty network loses
    start = Start(search.loss, search.signatures, search.weights, search.matrices, search.generator).coded(EPSILON)
    note = (lambda *_: None) if notes is None else lambda *at: notes.append(at)
    return start, Descent(search.loss, search.weights, start, search._empty, note)


def test_it_takes_a_network_to_fewer_bytes_within_epsilon(task, params):
    start, descent = descent_of(task, params, notes := [])
    state = descent.run(EPSILON, 100, 2.0, 1.0)
    assert state.estimated_bytes < start.estimated_bytes / 1.3
    assert float(task.loss(state.params)) == pytest.approx(state.loss, rel=1e-6)
    assert state.loss <= descent.loss.original + EPSILON
    late = sum(number % module.LOOKS == 0 for number in range(67, 100))
    assert late < len(notes) <= late + 1 + module.SETTLING, "late looks, and from the last move on"
    limit = descent.loss.original + module.HEED * EPSILON
    assert [loss <= limit for _, loss in notes[late:]] == [False] * (len(notes) - late - 1) + [True], (
        "until it is within"
    )


def test_it_goes_on_from_where_it_was_to_a_smaller_epsilon(task, params):
    _, descent = descent_of(task, params)
    rough = descent.run(EPSILON, 100, 2.0, 1.0)
    fine = descent.run(EPSILON / 4, 50, END, 0.3) or descent.run(EPSILON / 4, 50, 0.6, 0.3, 0.6)
    assert fine.loss <= descent.loss.original + EPSILON / 4 < rough.loss
    assert fine.estimated_bytes > rough.estimated_bytes


def test_from_the_same_latents_it_goes_the_same_way(task, params):
    _, descent = descent_of(task, params)
    began = descent.latents.copy()
    first = descent.run(EPSILON, 30, 2.0, 1.0)
    descent.latents.assign(began)
    second = descent.run(EPSILON, 30, 2.0, 1.0)
    assert first.estimated_bytes == second.estimated_bytes, "this task has no batches to draw"
    assert first.candidates is not second.candidates


def test_out_of_reach_is_none(task, params):
    _, descent = descent_of(task, params)
    assert descent.run(1e-9, 5, END, 1.0) is None


def test_from_hopelessly_far_is_none(task, params, monkeypatch):
    _, descent = descent_of(task, params)
    assert descent.run(1e-30, 5, END, 1.0) is None
    monkeypatch.setattr(descent.loss, "_value", lambda *_: math.inf)
    assert descent.run(EPSILON, 5, END, 1.0) is None


def test_it_aims_at_no_more_than_a_share_of_what_the_empty_network_loses(task, params, monkeypatch):
    _, descent = descent_of(task, params)
    aims, at = [], Price.at
    monkeypatch.setattr(Price, "at", lambda self, rise, aim: (aims.append(aim), at(self, rise, aim))[1])
    descent.run(descent.empty / 1.2, 10, 2.4, 1.0)
    assert max(aims) == pytest.approx(module.FARTHEST * 1.2)


def test_from_above_epsilon_it_begins_with_finer_steps(task, params, monkeypatch):
    _, descent = descent_of(task, params)
    descent.run(EPSILON, 20, 2.0, 1.0)
    rise = descent.loss(descent._decoded(descent.latents)) - descent.loss.original
    refined = []
    monkeypatch.setattr(Latents, "refine", lambda self, factor: refined.append(factor))
    descent.run(rise / 7, 5, END, 0.3)
    assert refined == [3], "the root of seven"


def test_a_price_rises_while_the_loss_is_above_its_aim_and_falls_below():
    price = Price(100.0)
    above = [price.at(2.0, 1.0) for _ in range(20)]
    assert above == sorted(above)
    assert above[0] > 100
    below = [price.at(0.5, 1.0) for _ in range(40)]
    assert below[5:] == sorted(below[5:], reverse=True)
    assert below[-1] < 100
    assert math.isfinite(Price(1.0).at(-3.0, 1.0)), "a loss may be lower than the original's"


@pytest.mark.parametrize("rise", [math.inf, math.nan])
def test_a_price_comes_back_from_a_loss_that_is_no_number(rise):
    price = Price(100.0)
    assert price.at(rise, 1.0) > 100
    prices = [price.at(0.5, 1.0) for _ in range(40)]
    assert prices[-1] < 100


class Guarded(Task):
    """A network and a vector: its first number decides everything, but gradients only want all of it to be small."""

    def __init__(self, task):
        self.task = task
        self.num_examples = task.num_examples

    def loss(self, params):
        cliff = 50.0 * (params["guard"].detach()[0] < 0.2)
        pull = 0.01 * (params["guard"] ** 2).sum()
        return self.task.loss({name: value for name, value in params.items() if name != "guard"}) + pull + cliff


def test_a_number_that_decides_everything_is_held(task, params, monkeypatch):
    recoveries = []
    recover, hold = Descent._recover, Latents.hold
    monkeypatch.setattr(Descent, "_recover", lambda *a: (recoveries.append([]), recover(*a))[1])

    def watched(latents, place, other):
        recoveries[-1].append(place.stop - place.start)
        return hold(latents, place, other)

    monkeypatch.setattr(Latents, "hold", watched)
    guarded = {**params, "guard": torch.tensor([1.0, -1.0, 0.5, 0.0])}
    start, descent = descent_of(Guarded(task), guarded)
    fine = start.candidates["guard"]
    lone = replace(fine.code, step=0, offset=0, symbols=np.array([[1], [-1], [1], [0]]))  # one unit from the cliff
    start = start._replace(candidates=start.candidates | {"guard": recoded(fine, lone)})
    loss, weights = descent.loss, descent.weights
    descent = Descent(loss, weights, start, descent.empty, descent.note)
    state = descent.run(EPSILON, 100, 2.0, 0.5)
    assert state.loss <= descent.loss.original + EPSILON
    assert float(state.params["guard"][0]) > 0.2
    assert [4] in recoveries, "bytes have pulled at it, and nothing else was to blame"
    assert all(held == [4] for held in recoveries if 4 in held)


def unlucky_at(number, descent, monkeypatch, excess=LOST * 100):
    """A batch whose loss is far off in that move; the paces of all moves that are made."""
    paces = []
    move, on_batch = Latents.move, descent.loss.on_batch
    calls = iter(range(1000))

    def unlucky(values):
        loss = on_batch(values)
        return loss + excess if next(calls) == number else loss

    monkeypatch.setattr(descent.loss, "on_batch", unlucky)
    monkeypatch.setattr(Latents, "move", lambda *a: (paces.append(float(a[-1])), move(*a)))
    return paces


@pytest.mark.parametrize("excess", [LOST * 100, math.nan])
def test_where_no_tensor_alone_explains_the_loss_the_pace_falls_for_a_while(task, params, excess, monkeypatch):
    _, descent = descent_of(task, params)
    assert descent._recover(descent.latents.copy(), math.inf) == module.UNEXPLAINED
    paces = unlucky_at(20, descent, monkeypatch, excess)
    monkeypatch.setattr(descent, "_lost", lambda latents, _: latents is descent.latents)
    descent.run(EPSILON, 40, 2.0, 1.0)
    assert 39 <= len(paces) <= 39 + module.SETTLING, "the lost move is not made up for"
    usual = [module.Pace(1.0, 40).move(number) for number in range(40)]
    assert paces[:20] == pytest.approx(usual[:20])
    assert paces[20] == pytest.approx(module.UNEXPLAINED * usual[21])
    assert paces[21] == pytest.approx(module.UNEXPLAINED * module.REGAINED * usual[22])
    assert paces[30:39] == pytest.approx(usual[31:]), "it is regained"


def test_an_unusual_batch_is_not_a_lost_network(task, params, monkeypatch):
    _, descent = descent_of(task, params)
    paces = unlucky_at(20, descent, monkeypatch)
    descent.run(EPSILON, 40, 2.0, 1.0)
    assert paces[:40] == pytest.approx([module.Pace(1.0, 40).move(number) for number in range(40)])
