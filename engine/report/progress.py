"""Progress where no bar can be drawn (nohup, Slurm, a pipe): now and then a line on stderr."""

import math
import sys
import time
from collections.abc import Callable

EVERY = 5.0
"""Seconds between lines, at least; the first, the last, and those that tell a problem come at once."""


class ProgressLines:
    """Lines such as `analyzing 12/40: step-00001235.safetensors, 3 min left`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun: dict[str, tuple[float, int]] = {}
        self._printed = -math.inf
        self._pending = ""

    def show(self, what: str, done: int, total: int | None, note: str, problem: str = "") -> None:
        """Tell how far `what` is, unless something was told just now."""
        if total == 0:
            return
        now, first = self._clock(), what not in self._begun
        start, before = self._begun.setdefault(what, (now, done))
        left = (total - done) * (now - start) / (done - before) if total and done > before else 0.0
        words = ", ".join(filter(None, (note, problem, f"{_duration(left)} left" if left else "")))
        self._pending = f"{what} {done}{f'/{total}' if total else ''}{': ' if words else ''}{words}"
        if first or problem or done == total or now - self._printed >= EVERY:
            self._printed = now
            self.flush()

    def flush(self) -> None:
        """Print what was last told, if it was not printed."""
        if self._pending:
            print(self._pending, file=sys.stderr, flush=True)
        self._pending = ""


def _duration(seconds: float) -> str:
    """Time for people, in one unit."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
