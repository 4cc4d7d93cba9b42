"""When to keep a checkpoint: steps evenly spaced in log time, since that is how training looks."""

import math
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class CheckpointSchedule:
    """Steps (or epochs) to keep: 0, int(baseⁿ) for n = 0, 1, …, and from `interval` on its multiples instead.

    schedule = CheckpointSchedule()             # 0 1 2 3 4 6 8 10 13 17 23 …, the paper's
    CheckpointSchedule(2)                       # powers of two
    CheckpointSchedule(2, interval=1000)        # Pythia's: 0 1 2 4 … 512 1000 2000 …
    if step in schedule: save(step)
    """

    base: float = 1.3
    interval: int | None = None

    def __post_init__(self) -> None:
        if self.base <= 1 or (self.interval is not None and self.interval < 1):
            raise ValueError(f"CheckpointSchedule: base must exceed 1 and interval be positive; got {self}")

    def __contains__(self, step: int) -> bool:
        if step <= 0:
            return step == 0
        if self.interval is not None and step >= self.interval:
            return step % self.interval == 0
        n = math.floor(math.log(step, self.base))
        return any(int(self.base**k) == step for k in (n, n + 1))

    def until(self, last: int) -> Iterator[int]:
        """The scheduled steps up to and including `last`, in order."""
        return (step for step in range(last + 1) if step in self)


PYTHIA = CheckpointSchedule(2, interval=1000)
