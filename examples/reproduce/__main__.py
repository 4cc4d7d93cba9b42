"""The paper, reproduced: train the grid, measure it, draw it.

    python examples/reproduce                         # everything; hours on two cores
    python examples/reproduce train -o runs/grid      # a stage: train, analyze, authors, draw
    python examples/reproduce analyze --only 'addition-*'
    python examples/reproduce --quick                 # the same on tiny networks, in a minute, to see it work

Kill it at any moment and start it again: it goes on where it was. Runs lie in OUT/NAME, their tables in RESULTS as CSV.
"""

import argparse
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

from figure import draw
from kolmogram.engine.report.terminal import ProgressBars
from kolmogram.engine.training.grokking import train
from measure import measure
from runs import GridRun, grid
from summary import summarise

HERE = Path(__file__).parent
STAGES = ("train", "analyze", "authors", "draw")


def main() -> None:
    """Do the stages that were asked for."""
    arguments = parse()
    runs = [run for run in grid(arguments.quick) if fnmatch(run.name, arguments.only)]
    results = arguments.results or (arguments.out / "results" if arguments.quick else HERE / "results")

    def table(run: GridRun) -> Path:
        return results / f"{run.name}.csv"

    def each(stage: str, work: Callable[[GridRun, ProgressBars], object]) -> None:
        for run in runs:
            if stage in arguments.stages:
                print(f"{stage} {run.name}", flush=True)
                with ProgressBars(run.epochs) as bars:
                    work(run, bars)

    each(
        "train",
        lambda run, bars: train(run.operation, arguments.out / run.name, progress=bars.training, **run.options()),
    )
    each("analyze", lambda run, bars: measure(arguments.out / run.name, table(run), bars.analysis))
    each("authors", lambda run, bars: measure(arguments.out / run.name, table(run), bars.analysis, authors=True))
    if "draw" in arguments.stages:
        tables = {run: table(run) for run in runs if table(run).is_file()}
        draw(tables, results)
        print(summarise(tables, results))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"of {', '.join(STAGES)} [all but authors]")
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/grid"), help="folder of the runs")
    parser.add_argument("--results", type=Path, help="folder of tables and figures [this example's own]")
    parser.add_argument("--only", default="*", metavar="GLOB", help="runs with such a name: OPERATION-RECIPE-SEED")
    parser.add_argument("--quick", action="store_true", help="tiny networks")
    arguments = parser.parse_args()
    if unknown := set(arguments.stages) - set(STAGES):
        parser.error(f"no stage {', '.join(sorted(unknown))}; there are {', '.join(STAGES)}")
    arguments.stages = arguments.stages or ["train", "analyze", "draw"]
    return arguments


if __name__ == "__main__":
    main()
