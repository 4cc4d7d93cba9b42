from itertools import count, takewhile

import pytest
from kolmogram import CheckpointSchedule
from kolmogram.engine.training.schedule import PYTHIA


def test_the_papers_cadence():
    expected = sorted({0} | {int(1.3**n) for n in range(40)})
    assert list(CheckpointSchedule().until(expected[-1])) == expected
    assert expected[:8] == [0, 1, 2, 3, 4, 6, 8, 10]


@pytest.mark.parametrize("base", [1.01, 1.1, 1.5, 2, 3, 5, 7, 10])
def test_every_power_and_nothing_else(base):
    """Exact powers are where a logarithm falls on the wrong side of an integer."""
    powers = set(takewhile(lambda power: power <= 20_000, (int(base**n) for n in count())))
    assert set(CheckpointSchedule(base).until(20_000)) == powers | {0}


def test_pythias_cadence():
    assert list(PYTHIA.until(3500)) == [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 2000, 3000]
    assert 143_000 in PYTHIA
    assert 1024 not in PYTHIA


def test_no_step_before_the_start():
    assert -1 not in CheckpointSchedule()


@pytest.mark.parametrize("settings", [{"base": 1.0}, {"base": 0.5}, {"interval": 0}])
def test_impossible_settings(settings):
    with pytest.raises(ValueError, match="base must exceed 1"):
        CheckpointSchedule(**settings)
