"""How often the audit sees that something happened to one checkpoint of a sound run, and how often it cries wolf.

    python benchmarks/audit.py RUN...        # folders whose names end in the seed of their first weights

Everything is done to the evidence, which is gathered once.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path

from kolmogram.engine.audit.evidence import Evidence, TensorEvidence, gather
from kolmogram.engine.audit.findings import findings
from kolmogram.engine.checkpoints import open_run

FAR = 6  # places apart, and further


def spoilt(runs: dict[str, list[Evidence]], name: str) -> Iterator[tuple[str, list[Evidence], set[int]]]:
    """What was done, the run after it, and the places where it was done."""
    run = runs[name]
    others = [other for key, other in runs.items() if key[-1] != name[-1] and _alike(other, run)]
    for i, j in combinations(range(len(run)), 2):
        apart = f"{FAR} or more" if j - i >= FAR else str(j - i)
        yield f"two exchanged, {apart} places apart", _with(run, {i: run[j], j: run[i]}), {i, j}
    for i in range(len(run)):
        other = others[i % len(others)]
        places = {i, 1} if i == 0 else {i}  # whether the first is wrong, or the second, nobody can tell
        yield "one of another seed's run", _with(run, {i: other[min(i, len(other) - 1)]}), places
        if i:
            yield "fresh weights of another seed", _with(run, {i: other[0]}), {i}
            yield (
                "fresh weights of its own seed, in the second half" * (i > len(run) // 2),
                _with(run, {i: run[0]}),
                {i},
            )
        if i < len(run) - 2:
            half = dict(list(run[-1].samples.items())[::2])
            tensors = tuple(t if t.name not in half else _named(run[-1], t.name) for t in run[i].tensors)
            mixed = replace(run[i], tensors=tensors, samples=dict(run[i].samples) | half)
            yield "half of the last one's tensors", _with(run, {i: mixed}), {i}


def _with(run: list[Evidence], changes: dict[int, Evidence]) -> list[Evidence]:
    """The run with other evidence in some places, which keep their names and steps."""
    new = {i: replace(one, checkpoint=run[i].checkpoint, step=run[i].step) for i, one in changes.items()}
    return [new.get(i, one) for i, one in enumerate(run)]


def _alike(one: list[Evidence], other: list[Evidence]) -> bool:
    return len(one[0].tensors) == len(other[0].tensors)


def _named(one: Evidence, name: str) -> TensorEvidence:
    return next(t for t in one.tensors if t.name == name)


def main() -> None:
    runs = {Path(path).name: [gather(checkpoint) for checkpoint in open_run(path)] for path in sys.argv[1:]}
    wolf = sum(f.is_wrong for run in runs.values() for f in findings(run))
    print(f"{len(runs)} runs, {sum(map(len, runs.values()))} checkpoints as they are: {wolf} findings")
    seen, done = Counter(), Counter()
    for name in runs:
        for what, run, places in spoilt(runs, name):
            told = {f.checkpoint for f in findings(run) if f.is_wrong}
            done[what] += 1
            seen[what] += any(run[i].checkpoint in told for i in places)
    for what in sorted(filter(None, done)):
        print(f"{what:55} {done[what]:6} {seen[what] / done[what]:7.3f}")


if __name__ == "__main__":
    main()
