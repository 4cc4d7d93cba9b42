"""`kolmogram demo`: the whole story on a small network, from training to the picture."""

import os
from collections.abc import Callable
from pathlib import Path

from .analysis import Progress, analyze
from .report.figure import write_figure
from .training.grokking import Metrics, train
from .trajectory import Trajectory

OPERATION = "addition"
MODULUS = 113
UNTIL_ACCURACY = 0.99


def run_demo(
    out: str | Path,
    on_training: Callable[[Metrics], None] = lambda metrics: None,
    on_analysis: Callable[[Progress], None] = lambda progress: None,
) -> Trajectory:
    """Train addition mod 113 by the paper's recipe until it has grokked, then measure every checkpoint at ε = 1 nat.

    Leaves the run in `out`/run; tables, report.html and trajectory.png in `out`. Killed and called again, goes on.
    """
    out = Path(out)
    train(OPERATION, out / "run", modulus=MODULUS, until_accuracy=UNTIL_ACCURACY, progress=on_training)
    trajectory = analyze(
        out / "run", epsilons=(1.0,), out=out, workers=min(8, os.cpu_count() or 1), progress=on_analysis
    )
    write_figure([out], out / "trajectory.png")
    return trajectory
