"""Checkpoints held against each other, on their evidence alone: equal, near, related, or no more than noise."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .evidence import Evidence, TensorEvidence

NOISE = 1.05  # times the largest singular value of noise up to which a matrix may be noise
CHANCE = 4.0  # standard deviations of the correlation of independent samples
ENOUGH = 500  # samples for a correlation or a distance to mean something
TINY = 1e-30


def digest(one: Evidence) -> frozenset[tuple[str, str]]:
    """What two checkpoints have in common if they hold the same tensors bit for bit."""
    return frozenset((tensor.name, tensor.digest) for tensor in one.tensors)


def copies(run: Sequence[Evidence]) -> list[list[Evidence]]:
    """Groups of checkpoints that are equal."""
    groups: dict[frozenset, list[Evidence]] = defaultdict(list)
    for one in run:
        groups[digest(one)].append(one)
    return [group for group in groups.values() if len(group) > 1]


def have_several_steps(group: Sequence[Evidence]) -> bool:
    """Whether they say different steps of themselves."""
    return len({one.step for one in group} - {None}) > 1


def with_places(run: Sequence[Evidence]) -> list[Evidence]:
    """Without the files that say no step (`best.pt`) and are copies of one that does, whose place is known."""
    known = {digest(one) for one in run if one.step is not None}
    return [one for one in run if one.step is not None or digest(one) not in known]


def without_copies(run: Sequence[Evidence]) -> list[Evidence]:
    """The checkpoints; of equal ones at one step the first, of equal ones at several steps none: who knows which."""
    out = {id(one) for group in copies(run) for one in (group if have_several_steps(group) else group[1:])}
    return [one for one in run if id(one) not in out]


def comparable(run: Sequence[Evidence]) -> list[Evidence]:
    """Those whose places in the run can be compared: with a step, with finite weights, no copies."""
    finite = [one for one in without_copies(run) if not any(tensor.nonfinite for tensor in one.tensors)]
    return [one for one in finite if one.step is not None]


def common(run: Sequence[Evidence]) -> list[TensorEvidence]:
    """The tensors with weights that all have in the same shape."""
    keys = [{(t.name, t.shape) for t in one.tensors if len(one.samples.get(t.name, ()))} for one in run]
    shared = set.intersection(*keys) if keys else set()
    return [tensor for tensor in (run[0].tensors if run else ()) if (tensor.name, tensor.shape) in shared]


def distances(run: Sequence[Evidence]) -> NDArray[np.float64]:
    """Between all checkpoints ([n, n]), on their samples, every tensor weighing alike."""
    products = np.zeros((len(run), len(run)))
    for tensor in common(run):
        values = np.stack([one.samples[tensor.name] for one in run]).astype(np.float64)
        products += values @ values.T / max(np.square(values).mean(), TINY)
    squares = np.diag(products)
    return np.sqrt(np.maximum(squares[:, None] + squares - 2 * products, 0))


def reversals(apart: NDArray[np.float64], places: int) -> Iterator[tuple[float, int, int]]:
    """For i and j up to so many `places` apart, how many times nearer those around them would be if i … j came in the
    opposite order (geometric mean of both ends, 1 for an end that the run does not have): below 1 where it is right.
    """
    logs, last = np.log(np.maximum(apart, TINY)), len(apart) - 1
    for i, j in ((i, i + span) for span in range(1, places + 1) for i in range(last + 1 - span)):
        ends = [(i - 1, i, j)] * (i > 0) + [(j + 1, j, i)] * (j < last)
        yield math.exp(sum(logs[a, b] - logs[a, c] for a, b, c in ends) / 2), i, j


def unrelated(one: Evidence, other: Evidence) -> float | None:
    """The correlation of two checkpoints where it is no more than chance; None where it is, or too few samples are."""
    found, samples = _correlation(one, other)
    return found if samples >= ENOUGH and abs(found) < CHANCE / samples**0.5 else None


def placeable(run: Sequence[Evidence]) -> list[Evidence]:
    """Those whose places distances can tell: related to the one before or after. None if samples are few."""
    compared = comparable(run)
    if sum(len(compared[0].samples[tensor.name]) for tensor in common(compared)) < ENOUGH:
        return []
    related = [unrelated(*pair) is None for pair in pairwise(compared)]
    return [one for one, *near in zip(compared, [False, *related], [*related, False], strict=True) if any(near)]


def _correlation(one: Evidence, other: Evidence) -> tuple[float, int]:
    """Mean correlation of the samples of their matrices, about zero; and of how many samples."""
    names = [tensor.name for tensor in common([one, other]) if len(tensor.shape) > 1]
    pairs = [(_unit(one.samples[name]), _unit(other.samples[name])) for name in names]
    count = sum(len(a) for a, _ in pairs)
    return sum(len(a) * float(a @ b) for a, b in pairs) / max(count, 1), count


def matrices_like_noise(one: Evidence) -> tuple[list[str], int]:
    """The matrices that cannot be told from fresh noise, and of how many of which something can be told."""
    known = [tensor for tensor in one.tensors if not np.isnan(tensor.excess)]
    return [tensor.name for tensor in known if tensor.excess < NOISE], len(known)


def _unit(sample: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = sample.astype(np.float64)
    return wide / max(float(np.linalg.norm(wide)), TINY)
