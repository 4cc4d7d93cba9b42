import math

import numpy as np
import pytest
from kolmogram.analyzers.phases import TOLERANCE, find_phases, roughness
from kolmogram.engine.training.schedule import CheckpointSchedule

EMPTY = 124
STEPS = np.array([5 * epoch for epoch in CheckpointSchedule().until(917)], float)
LOG = np.log(np.maximum(STEPS, 1))


def step(centre, width=0.2):
    """From 0 to 1 around a step."""
    return 1 / (1 + np.exp(-(LOG - math.log(centre)) / width))


def grokking(rises=200.0, falls=2500.0, peak=45e3, end=5e3):
    """An untrained network needs nothing; it memorises; it understands."""
    logs = math.log(peak) + step(falls) * math.log(end / peak)
    return np.maximum(EMPTY, np.exp(logs) * step(rises))


def memorising(peak=45e3):
    return np.maximum(EMPTY, peak * step(200))


def wiggled(sizes, amplitude, seed):
    """Noise on all sizes but those of the empty network, which are always the same."""
    factors = np.random.default_rng(seed).uniform(1 - amplitude, 1 + amplitude, len(sizes))
    return np.where(sizes == EMPTY, sizes, sizes * factors)


def near(found, expected, factor=TOLERANCE):
    return max(found / expected, expected / found) <= factor


@pytest.mark.parametrize("amplitude", [0, 0.1, 0.2])
@pytest.mark.parametrize("falls", [700, 2500])
@pytest.mark.parametrize("end", [2e3, 5e3, 15e3])
def test_every_fall_is_found_where_it_is(amplitude, falls, end):
    for seed in range(20):
        phases = find_phases(STEPS, wiggled(grokking(falls=falls, end=end), amplitude, seed))
        assert phases.fall is not None
        assert phases.onset is not None
        assert phases.peak is not None
        assert near(phases.fall.step, falls)
        assert near(phases.onset.step, 200 / 9**0.2)  # where the logistic is at a tenth
        assert phases.onset.step < phases.peak.step < phases.fall.step
        assert STEPS[phases.fall.index] == phases.fall.step


@pytest.mark.parametrize("amplitude", [0, 0.1, 0.2])
@pytest.mark.parametrize(
    "sizes",
    [
        memorising(),
        memorising() * (1 + 0.3 * step(2000)),  # still rising
        memorising() * (1 - 0.3 * step(1000)),  # a little less in the end
        np.full(len(STEPS), EMPTY),
        np.full(len(STEPS), 50e3),
    ],
)
def test_no_fall_where_there_is_none(amplitude, sizes):
    for seed in range(50):
        phases = find_phases(STEPS, wiggled(np.maximum(sizes, EMPTY), amplitude, seed))
        assert phases.fall is None
        assert phases.peak is None
        assert (phases.onset is not None) == (sizes.max() > 2 * sizes.min())


def test_one_bad_value_is_no_phase():
    for bad in range(1, len(STEPS) - 1):
        sizes = memorising()
        sizes[bad] = 2e3 if sizes[bad] > EMPTY else 80e3
        assert find_phases(STEPS, sizes).fall is None


def test_a_fall_without_a_rise():
    """A network that starts complex, such as one that is fine-tuned."""
    sizes = 45e3 * np.exp(-2 * step(1000))
    phases = find_phases(STEPS, sizes)
    assert phases.onset is None
    assert phases.fall is not None
    assert near(phases.fall.step, 1000)


def test_a_clear_phase_is_surer_than_a_doubtful_one():
    clear, doubtful = (find_phases(STEPS, wiggled(grokking(end=end), 0.2, 1)).fall for end in (3e3, 19e3))
    assert clear is not None
    assert clear.confidence > 0.95
    assert doubtful is None or doubtful.confidence < clear.confidence


def test_the_peak_of_a_plateau_is_not_sure_of_its_place():
    phases = find_phases(STEPS, wiggled(grokking(rises=50), 0.1, 0))
    assert phases.peak is not None
    assert phases.fall is not None
    assert phases.peak.confidence < phases.fall.confidence


def test_the_scale_of_sizes_does_not_matter():
    sizes = wiggled(grokking(), 0.1, 3)
    assert find_phases(STEPS, sizes) == find_phases(STEPS, 8 * sizes)


def test_an_empty_network_does_not_hide_the_noise():
    noisy = np.random.default_rng(0).normal(math.log(45e3), 0.2, 30)
    assert roughness(np.concatenate([np.full(60, math.log(EMPTY)), noisy])) == roughness(noisy) > 0.1


def test_without_steps_there_are_no_phases():
    assert find_phases(np.full(len(STEPS), math.nan), grokking()) == find_phases([], [])


def test_unmeasured_checkpoints_are_passed_over():
    sizes = grokking()
    sizes[[0, 7, 15, 23]] = math.nan
    phases = find_phases(STEPS, sizes)
    assert phases.fall is not None
    assert near(phases.fall.step, 2500)
    assert sizes[phases.fall.index] > 0
    assert find_phases(STEPS, np.full(len(STEPS), math.nan)) == find_phases([], [])
