"""Routes lead beyond what is asked for, but not where nothing is left, and end at every ε."""

import math
from itertools import pairwise

import pytest
from kolmogram.engine.coarse.route import BEYOND, FURTHEST, STRIDE, route


@pytest.mark.parametrize("asked", [[1.0], [0.25], [1e-4], [0.0625, 0.25, 1.0, 4.0], [0.5, 8.0], [3.0], [3.0, 4.0]])
@pytest.mark.parametrize("empty", [2.7, 4.7, math.inf])
def test_every_epsilon_is_a_station(asked, empty):
    way = route(asked, empty)
    assert {*asked} <= {way.first, *way.back, *way.further}
    assert all(a > b for a, b in pairwise([way.first, *way.back]))
    assert all(a < b for a, b in pairwise([way.first, *way.further]))
    assert all(a <= b * STRIDE * (1 + 1e-9) for a, b in pairwise([way.first, *way.back]))
    assert {*way.further} <= {*asked}


def test_the_first_station_lies_beyond_but_something_must_be_left_there():
    assert route([1.0], 4.7).first == BEYOND
    assert route([1.0], 2.9).first == 1.0, "1.5 would be most of what the network knows"
    assert route([0.01], 4.7).first > BEYOND * 0.01, "home is further"
    assert route([4.0], 4.7) == (4.0, [], [])
    for asked in ([0.01], [1.0], [0.5, 1.0]):
        assert route(asked, 4.7).first <= FURTHEST * 4.7
