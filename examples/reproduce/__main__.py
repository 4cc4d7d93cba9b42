"""The paper, reproduced: train the grid, measure it, draw it.

    python examples/reproduce                         # everything; hours on two cores
    python examples/reproduce train -o runs/grid      # a stage: train, analyze, authors, draw
    python examples/reproduce analyze --only 'addition-*'
    python examples/reproduce --quick                 # the same on tiny networks, in minutes, to see it work

Kill it at any moment and start it again: it goes on where it was. Runs lie in OUT/NAME, their tables in RESULTS as CSV.
"""

import argparse
from fnmatch import fnmatch
from pathlib import Path

from figure import draw
from kolmogram.engine.errors import KolmogramError
from kolmogram.engine.report.terminal import ProgressBars
from kolmogram.engine.training.grokking import train
from measure import measure
from runs import GridRun, grid
from summary import summarise

HERE = Path(__file__).parent
STAGES = ("train", "analyze", "authors", "draw")


def main() -> None:
    """Do the stages that were asked for, each for all runs; those that are not trained yet are passed over."""
    arguments = parse()
    runs = [run for run in grid(arguments.quick) if fnmatch(run.name, arguments.only)]
    results = arguments.results or (arguments.out / "results" if arguments.quick else HERE / "results")
    for stage in arguments.stages:
        for run in runs:
            folder = arguments.out / run.name
            if stage == "train" or (stage != "draw" and (folder / "metrics.csv").is_file()):
                print(f"{stage} {run.name}", flush=True)
                do(stage, run, folder, results)
    if "draw" in arguments.stages:
        tables = {run: path for run in runs if (path := table(run, results)).is_file()}
        draw(tables, results)
        print(summarise(tables, results))


def do(stage: str, run: GridRun, folder: Path, results: Path) -> None:
    """One stage of one run."""
    with ProgressBars(run.epochs) as bars:
        if stage == "train":
            train(run.operation, folder, progress=bars.training, **run.options())
        else:
            measure(folder, table(run, results), bars.analysis, authors=stage == "authors")


def table(run: GridRun, results: Path) -> Path:
    """Where the numbers of a run go."""
    return results / f"{run.name}.csv"


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
    try:
        main()
    except KolmogramError as error:
        raise SystemExit(f"Error: {error}") from None
