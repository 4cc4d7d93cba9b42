"""Phases of a trajectory: when complexity begins to rise, where it peaks, when it falls.

Found from the sizes along one run and nothing else: no accuracy, no test data, no second run. Everything is relative
and in the logarithm of the step, since that is how training looks and how checkpoints are spaced.

- onset: where the size leaves its lowest: the last checkpoint before the largest size that was less than `LEAVES` of
  the way up is behind.
- peak: the largest size, if there is a fall from it.
- fall: the first checkpoint after the largest size that is half-way down, on a log scale, to the lowest after it.

A rise or a fall counts only if the size changes by a factor of `SMALLEST_CHANGE`, and by `NOISES` times the roughness
of the trajectory. The confidence of a marker is the share of noisy copies of the trajectory, as rough again as it is
itself, in which it is found within `TOLERANCE` of the same step.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SMALLEST_CHANGE = 2.0
NOISES = 3.0
LEAVES = 0.1
TOLERANCE = 1.7
"""A factor in steps: two of the checkpoint spacings of the paper, 1.3²."""

SMALLEST_ROUGHNESS = 0.03
"""Relative; what a search differs by from seed to seed."""
COPIES = 200


@dataclass(frozen=True)
class Phase:
    """A marker: the checkpoint's place in the trajectory, its step, and how sure it is, from 0 to 1."""

    index: int
    step: float
    confidence: float


@dataclass(frozen=True)
class Phases:
    """The markers of one run; None where there is no such change."""

    onset: Phase | None
    peak: Phase | None
    fall: Phase | None


def find_phases(steps: Sequence[float], sizes: Sequence[float], seed: int = 0) -> Phases:
    """Phases of a trajectory, from its steps and sizes in any unit; what has no positive size does not count."""
    known = [i for i, size in enumerate(sizes) if np.isfinite(size) and size > 0 and np.isfinite(steps[i])]
    if len(known) < 3:
        return Phases(None, None, None)
    times = np.asarray([steps[i] for i in known], float)
    logs = np.log([sizes[i] for i in known])
    noise = roughness(logs)
    found = _markers(logs, noise)
    generator = np.random.default_rng(seed)
    copies = [_markers(logs + generator.normal(0, noise, len(logs)), noise) for _ in range(COPIES)]

    def phase(marker: int, index: int | None) -> Phase | None:
        if index is None:
            return None
        others = [copy[marker] for copy in copies]
        near = [other is not None and _near(times[other], times[index]) for other in others]
        return Phase(known[index], float(times[index]), float(np.mean(near)))

    return Phases(*(phase(marker, index) for marker, index in enumerate(found)))


def roughness(logs: np.ndarray) -> float:
    """Standard deviation of the noise in a smooth curve (n,), from its second differences, which shapes hardly touch.

    Sizes below a tenth of the largest are left out: an empty network has always the same size, and would hide noise.
    """
    large = logs[logs > logs.max() - np.log(10)]
    bends = np.abs(np.diff(large, 2))
    return max(SMALLEST_ROUGHNESS, float(np.median(bends)) / (0.6745 * 6**0.5)) if len(bends) else SMALLEST_ROUGHNESS


def _markers(logs: np.ndarray, noise: float) -> tuple[int | None, int | None, int | None]:
    """Indices of onset, peak and fall on logarithms of sizes (n,)."""
    smooth = _median_of_three(logs)
    needed = max(np.log(SMALLEST_CHANGE), NOISES * noise)
    peak = int(np.argmax(smooth))
    before, after = smooth[: peak + 1].min(), smooth[peak:].min()
    risen, fallen = smooth[peak] - before > needed, smooth[peak] - after > needed
    onset = fall = None
    if risen:
        left = np.log((1 - LEAVES) * np.exp(before) + LEAVES * np.exp(smooth[peak]))
        onset = int(np.flatnonzero(smooth[:peak] <= left)[-1]) + 1
    if fallen:
        half_way = (smooth[peak] + after) / 2
        fall = peak + int(np.argmax(smooth[peak:] <= half_way))
    largest = max(range(max(0, peak - 1), min(len(logs), peak + 2)), key=lambda i: logs[i])
    return onset, largest if fallen else None, fall


def _median_of_three(values: np.ndarray) -> np.ndarray:
    """Every inner value becomes the median of itself and its neighbours: single outliers go, edges stay."""
    inner = np.median([values[:-2], values[1:-1], values[2:]], axis=0)
    return np.concatenate([values[:1], inner, values[-1:]])


def _near(step: float, other: float) -> bool:
    low, high = sorted((step, other))
    return high <= TOLERANCE * low
