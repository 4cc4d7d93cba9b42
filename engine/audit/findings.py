"""What is wrong with a run, from the evidence of its checkpoints: one rule a function.

A rule speaks only of what it has seen, and names it; what may be as it should be is a note, and nothing wrong.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ..checkpoints.steps import step_in_name
from .comparison import (
    common,
    comparable,
    copies,
    digest,
    distances,
    have_several_steps,
    matrices_like_noise,
    placeable,
    reversals,
    unrelated,
    with_places,
    without_copies,
)
from .evidence import Evidence

NEARER = 0.5  # of the distance to its neighbours: a checkpoint that is so near to another one is out of place
CLOSE_BY, NEARER_THERE = 3, 1.15  # places apart at most; times nearer that two are to the rest in each other's place
FRESH, TRAINED = 0.9, 0.5  # shares of matrices that may be noise: all but all of them; no more than half
ZEROS = 0.2  # share of a tensor's entries that are zero here and nowhere else
FEWEST, REGULAR = 4, 0.6  # strides between steps, and share of them alike, in a run that has one every so often
LONGEST_GAP = 10  # strides: where more are missing, nobody meant to save them
PLURAL = {"tensor": "tensors", "matrix": "matrices"}
LISTED = 3  # names or steps that a line says, of many


class Finding(NamedTuple):
    """One thing that was seen. `checkpoint` is empty where it is of the whole run; a note is nothing wrong."""

    checkpoint: str
    step: int | None
    finding: str
    evidence: str
    is_wrong: bool = True


def findings(run: Sequence[Evidence]) -> list[Finding]:
    """What the rules see in checkpoints in their order, rule after rule; of some copies only that they are."""
    seen = with_places(run)
    return [*same_weights(run), *(finding for rule in RULES for finding in rule(seen))]


def not_finite(run: Sequence[Evidence]) -> Iterator[Finding]:
    """NaN or infinity among the weights."""
    for one in run:
        if bad := [t.name for t in one.tensors if t.nonfinite]:
            entries = sum(t.nonfinite for t in one.tensors)
            yield _of(one, "not finite", f"{entries:,} entries are NaN or infinite, in {_some(bad, 'tensor')}")


def other_tensors(run: Sequence[Evidence]) -> Iterator[Finding]:
    """Names, shapes or types that are not those of most checkpoints."""
    layouts = [{t.name: (t.shape, t.dtype) for t in one.tensors} for one in run]
    usual = Counter(frozenset(layout.items()) for layout in layouts).most_common(1)
    expected = dict(usual[0][0]) if usual else {}
    for one, layout in zip(run, layouts, strict=True):
        lacks = [name for name in expected if name not in layout]
        more = [name for name in layout if name not in expected]
        differ = [name for name in layout if name in expected and layout[name] != expected[name]]
        other = [f"{name} ({_layout(*layout[name])}, not {_layout(*expected[name])})" for name in differ]
        parts = [("lacks", lacks), ("has besides", more), ("has otherwise", other)]
        if said := [f"{what} {_some(sorted(names), 'tensor')}" for what, names in parts if names]:
            yield _of(one, "other tensors", "than most checkpoints: " + ", ".join(said))


def same_weights(run: Sequence[Evidence]) -> Iterator[Finding]:
    """The very weights of another checkpoint; of the same step, or in a file that says none, that is a note."""
    for group in copies(run):
        several = have_several_steps(group)
        names = [_label(one) if several else one.checkpoint for one in group[1:]]
        yield _of(group[0], "same weights" if several else "copy", f"bit for bit as in {_some(names)}", several)


def repeated_steps(run: Sequence[Evidence]) -> Iterator[Finding]:
    """Different weights of the same step: an average beside the weights themselves, or one of them is wrong."""
    groups: dict[int, list[Evidence]] = defaultdict(list)
    for one in run:
        if one.step is not None:
            groups[one.step].append(one)
    for group in groups.values():
        if len({digest(one) for one in group}) > 1:
            names = [one.checkpoint for one in group[1:]]
            yield _of(group[0], "step repeated", f"other weights of the same step in {_some(names)}", False)


def named_otherwise(run: Sequence[Evidence]) -> Iterator[Finding]:
    """A name that says another step than the file."""
    for one in run:
        named = step_in_name(one.checkpoint)
        if named is not None and one.step is not None and abs(named - one.step) > 1:
            yield _of(one, "named otherwise", f"the name says step {named:,}, the file {one.step:,}", False)


def stale_tensors(run: Sequence[Evidence]) -> Iterator[Finding]:
    """Some tensors of an earlier or later checkpoint, which have other values in between."""
    latest = {digest(one): one for one in run}
    distinct = [one for one in run if latest[digest(one)] is one]
    places: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, one in enumerate(distinct):
        for t in one.tensors:
            if not t.constant:
                places[t.name, t.digest].append(number)
    stale: dict[tuple[int, int], list[str]] = defaultdict(list)
    for (name, _), numbers in places.items():
        for pair in pairwise(numbers):
            if pair[1] - pair[0] > 1:
                stale[pair].append(name)
    for (first, second), names in sorted(stale.items()):
        evidence = f"{_some(names, 'tensor')} as in {_label(distinct[second])}, but not in between"
        yield _of(distinct[first], "stale tensors", evidence)


def zeros(run: Sequence[Evidence]) -> Iterator[Finding]:
    """Parts of tensors that are zero in one checkpoint alone, as what could not be read often is."""
    found: dict[int, list[str]] = defaultdict(list)
    for tensor in common(run):
        shares = np.array([(one.samples[tensor.name] == 0).mean() for one in run])
        most, others = int(shares.argmax()), np.sort(shares)[:-1]
        if most > 0 and shares[most] > ZEROS + others[-1]:  # before training many tensors are zero
            found[most].append(tensor.name)
    for number, names in sorted(found.items()):
        evidence = f"where all other checkpoints have values, in {_some(names, 'tensor')}"
        yield _of(run[number], "zeros", evidence)


def out_of_place(run: Sequence[Evidence]) -> Iterator[Finding]:
    """Weights that are much nearer to those of a far step than to those of the steps before and after."""
    placed = placeable(run)
    apart = distances(placed)
    for i, one in enumerate(placed):
        beside = min((apart[i, j] for j in (i - 1, i + 1) if 0 <= j < len(placed)), default=np.inf)
        nearest = min((j for j in range(len(placed)) if abs(j - i) > 1), key=lambda j: apart[i, j], default=i)
        if nearest != i and apart[i, nearest] < NEARER * beside:
            ratio, other = apart[i, nearest] / beside, _label(placed[nearest])
            evidence = f"{ratio:.2f} times as far from {other} as from the nearer of its neighbours"
            yield _of(one, "out of place", evidence)


def exchanged(run: Sequence[Evidence]) -> Iterator[Finding]:
    """Two checkpoints close by that would be nearer to their neighbours in each other's place."""
    placed = placeable(run)
    gains = reversals(distances(placed), CLOSE_BY)
    taken: set[int] = set()
    for gain, i, j in sorted(gains, reverse=True):
        if gain > NEARER_THERE and not taken & {i, j}:
            taken |= {i, j}
            evidence = f"with {_label(placed[j])}: {gain:.1f} times as far from those around as in each other's place"
            yield _of(placed[i], "exchanged", evidence)


def another_network(run: Sequence[Evidence]) -> Iterator[Finding]:
    """Weights that have nothing in common with those of the step before: another run's, or begun anew."""
    for before, one in pairwise(comparable(run)):
        if (found := unrelated(before, one)) is not None:
            yield _of(one, "another network", f"correlation with {_label(before)} is {found:.3f}: none")


def begun_anew(run: Sequence[Evidence]) -> Iterator[Finding]:
    """Matrices that cannot be told from fresh noise, though those of an earlier step could."""
    trained: Evidence | None = None
    for one in run:
        noise, known = matrices_like_noise(one)
        if known and len(noise) >= FRESH * known and (trained or (len(run) == 1 and one.step != 0)):
            since = f", as they could in {_label(trained)}" if trained else ": was it ever trained?"
            yield _of(one, "random", f"{len(noise)} of {known} matrices cannot be told from fresh noise{since}")
        elif known and len(noise) <= TRAINED * known:
            trained = trained or one


def like_noise(run: Sequence[Evidence]) -> Iterator[Finding]:
    """Some matrices of the last checkpoint that cannot be told from fresh noise, while others can."""
    for one in run[-1:]:
        noise, known = matrices_like_noise(one)
        if noise and len(noise) <= TRAINED * known:
            yield _of(one, "like noise", f"{_some(noise, 'matrix')} cannot be told from fresh noise", False)


def never_changed(run: Sequence[Evidence]) -> Iterator[Finding]:
    """Tensors that are the same in every checkpoint."""
    distinct = without_copies(run)
    if len(distinct) < 3:
        return
    values: dict[str, set[str]] = defaultdict(set)
    for one in distinct:
        for t in one.tensors:
            values[t.name].add("constant" if t.constant else t.digest)
    frozen = [t.name for t in common(distinct) if len(values[t.name]) == 1 and "constant" not in values[t.name]]
    if frozen:
        yield Finding("", None, "never changes", f"{_some(frozen, 'tensor')}: frozen, or not trained", False)


def missing_steps(steps: Iterable[int | None]) -> Iterator[Finding]:
    """Steps that a run with one every so often does not have, not even broken."""
    known = sorted({step for step in steps if step is not None})
    strides = [b - a for a, b in pairwise(known)]
    stride, times = Counter(strides).most_common(1)[0] if strides else (0, 0)
    if len(strides) < FEWEST or times < REGULAR * len(strides):
        return
    gaps = [(a, b) for a, b in pairwise(known) if not (b - a) % stride and b - a <= LONGEST_GAP * stride]
    if missing := [step for a, b in gaps for step in range(a + stride, b, stride)]:
        evidence = f"one every {stride:,} steps, but for {_some(f'{step:,}' for step in missing)}"
        yield Finding("", None, "missing steps", evidence, False)


Rule = Callable[[Sequence[Evidence]], Iterable[Finding]]
RULES: tuple[Rule, ...] = (
    not_finite, other_tensors, repeated_steps, named_otherwise, stale_tensors, zeros, out_of_place,
    exchanged, another_network, begun_anew, like_noise, never_changed,
)  # fmt: skip


def _of(one: Evidence, finding: str, evidence: str, is_wrong: bool = True) -> Finding:
    return Finding(one.checkpoint, one.step, finding, evidence, is_wrong)


def _label(one: Evidence) -> str:
    return one.checkpoint if one.step is None else f"step {one.step:,}"


def _some(names: Iterable[str], what: str = "") -> str:
    """`3 tensors (a, b, c)`, `a, b, c and 7 more`."""
    names = list(names)
    listed = ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")
    return f"{len(names)} {what if len(names) == 1 else PLURAL[what]} ({listed})" if what else listed


def _layout(shape: tuple[int, ...], dtype: str) -> str:
    return f"{'×'.join(map(str, shape)) or 'scalar'} {dtype}"
