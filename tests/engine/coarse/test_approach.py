"""The way back to a smaller ε: nats become dearer until moves are worth it, and what stays stuck is given up."""

import math

import pytest
import torch
from kolmogram.engine.coarse import approach
from kolmogram.engine.coarse.approach import DEARER, DESCENDING, PATIENCE, Approach
from kolmogram.engine.coarse.loss import Loss
from kolmogram.engine.coarse.memory import Memory
from kolmogram.engine.coarse.state import State


@pytest.fixture
def descend(task, params, monkeypatch):
    """A descent in which the first `idle` passes find nothing; the state it ends in and what excess each pass had."""

    def run(idle):
        loss = Loss(task, params, {}, torch.Generator().manual_seed(0))
        seen = []

        def refine(self, before):
            seen.append(self.excess)
            state = before.copy()
            state.loss = before.loss if len(seen) <= idle else loss.original
            return state

        monkeypatch.setattr(approach.Refinement, "run", refine)
        way = Approach(loss, params, Memory(), 0.1, math.inf, lambda state: None, lambda state: None)
        far = State({}, {}, dict(params), loss.original + 1.0, loss.original + 1.0)
        return way.reaches(way.descend(far, passes=0)), seen

    return run


def test_nats_become_dearer_until_a_move_is_worth_it(descend):
    reached, excess = descend(idle=4)
    assert reached
    price = excess[0] / (DEARER - 1)
    assert excess == pytest.approx([price * (DEARER**k - 1) for k in range(1, 6)])


def test_what_stays_stuck_is_given_up(descend):
    reached, excess = descend(idle=DESCENDING)
    assert not reached
    assert len(excess) == math.ceil(PATIENCE * DESCENDING)
