"""The `kolmogram` command: parse, call, print. No arithmetic here.

Everything heavy is imported inside the commands, so that `--help` needs neither torch nor triton.
"""

import errno
import os
from pathlib import Path
from typing import Any

import click

from . import __version__
from .analyzers import ANALYZERS
from .engine.arguments import METHODS
from .engine.errors import KolmogramError

OPERATIONS = ("addition", "subtraction", "multiplication", "division", "x2_plus_y2", "x2_plus_xy_plus_y2")
ARCHITECTURES = ("transformer", "mlp", "bilinear")
PRECISIONS = ("float32", "bfloat16")
CODERS = ("mixing", "ans", "zstd", "bzip2")
RECIPES = ("paper", "weight_decay", "spectral", "noise", "none")

FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
EXISTING_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


class Commands(click.Group):
    """A group whose commands end in one line, not a traceback, when the user can do something about it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of this file: what most people want comes first."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; our own errors and those of the file system become exit code 1."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("interrupted; what was finished is kept", err=True)
            raise SystemExit(130) from None
        except KolmogramError as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            raise click.ClickException(
                f"{error.filename}: {error.strerror}" if error.filename else str(error)
            ) from error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="kolmogram")
def main() -> None:
    """How complex is this network, and when did it start to understand?

    \b
    Example:
      kolmogram demo
      kolmogram analyze runs/my-run --task my_task.py
    """  # noqa: D301
    if "OMP_WAIT_POLICY" not in os.environ:
        # Torch's threads wait for each other spinning: beside other work they do little else unless they soon give up.
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


@main.command()
@click.option(
    "-o", "--out", type=FOLDER, default="kolmogram-demo", show_default=True, help="Folder for run and results."
)
def demo(out: Path) -> None:
    """Train, analyze and report a small run.

    A grokking run on the CPU, about a minute on two cores. Stop it at any moment; the same command goes on from there.
    """
    from .engine.demo import run_demo
    from .engine.report.terminal import ProgressBars, print_trajectory

    with ProgressBars() as bars:
        trajectory = run_demo(out, bars.training, bars.analysis)
    print_trajectory(trajectory)
    click.echo(f"\n{out}/report.html  {out}/trajectory.png  {out}/trajectory.csv", err=True)


@main.command()
@click.argument("run")
@click.option("-t", "--task", help="FILE.py[:NAME], pkg.module[:NAME] or a built-in name; without one, weights alone.")
@click.option("-o", "--out", type=FOLDER, help="Folder for tables and report.  [default: RUN/kolmogram]")
@click.option("-e", "--epsilon", type=float, multiple=True, default=(1.0,), help="Rise of loss, in nats; repeatable.")
@click.option("-m", "--measure", type=click.Choice(list(ANALYZERS)), multiple=True, help="Only these.  [default: all]")
@click.option("--method", type=click.Choice(METHODS), default="kolmogram", help="How complexity is found.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes, a checkpoint each.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the complexity search.")
@click.option(
    "--seeds", type=click.IntRange(1), default=1, show_default=True, help="Searches for each ε; the smallest counts."
)
@click.option("--moves", type=click.IntRange(1), help="Of the search; more find smaller files.  [default: 100]")
@click.option("--watch", is_flag=True, help="Go on as new checkpoints come, until interrupted.")
def analyze(
    run: str, out: Path | None, epsilon: tuple[float, ...], measure: tuple[str, ...], watch: bool, **options: Any
) -> None:
    """Measure every checkpoint of RUN.

    RUN is a folder, a single checkpoint, a glob, or the URL of one. Writes trajectory.csv and .parquet,
    tensors.parquet, report.html and the decodable .kolmo files. Stop it at any moment; the same command goes on where
    it was and repeats no finished checkpoint.

    \b
    Examples:
      kolmogram analyze runs/my-run --task my_task.py --epsilon 1 --epsilon 0.25
      kolmogram analyze 's3://bucket/my-run/checkpoint-*'
      kolmogram analyze 'hf://org/model@step*'
    """  # noqa: D301
    from .engine.analysis import default_out

    options |= {"measures": measure or None, "epsilons": epsilon, "out": out or default_out(run)}
    if watch:
        _watch(run, options)
    else:
        _analyze(run, options)


def _watch(run: str, options: dict[str, Any]) -> None:
    """Measure what comes, until interrupted."""
    from .engine.watching import changes

    click.echo(f"watching {run}: Ctrl-C ends it, what was measured is kept", err=True)
    try:
        for opened, fresh in changes(run):
            _analyze(opened, options, fresh)
    except KeyboardInterrupt:
        click.echo("no longer watching", err=True)


def _analyze(run: Any, options: dict[str, Any], fresh: frozenset[str] | None = None) -> None:
    """Measure a run and print its rows, only those of `fresh` checkpoints if they are given."""
    from .engine.analysis import analyze
    from .engine.report.terminal import ProgressBars, print_problems, print_trajectory

    with ProgressBars() as bars:
        table = analyze(run, progress=bars.analysis, **options)
    if fresh != frozenset():
        print_trajectory(table, fresh)
    problems = print_problems(table)
    click.echo(f"{options['out']}/report.html", err=True)
    if problems == len(table) and fresh is None:
        raise click.ClickException(f"{run}: no checkpoint could be measured as asked")


@main.command()
@click.argument("run")
@click.option("-o", "--out", type=FOLDER, help="Folder for audit.csv.  [default: RUN/kolmogram]")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes, a checkpoint each.")
def audit(run: str, out: Path | None, workers: int) -> None:
    """Say whether the checkpoints of RUN are what they seem.

    Copies, stale shards, wrong steps, fresh noise, other networks, missing tensors: what to know before a plot is
    believed. Needs no task; reads every tensor once. Ends with exit code 1 if something is wrong, 0 if there are only
    notes. Stop it at any moment; the same command reads only what is left.

    \b
    Example:
      kolmogram audit runs/my-run && kolmogram analyze runs/my-run
    """  # noqa: D301
    from .engine.analysis import default_out
    from .engine.audit import audit
    from .engine.report.terminal import ProgressBars, print_audit

    with ProgressBars() as bars:
        seen = audit(run, out or default_out(run), workers=workers, progress=bars.audit)
    print_audit(seen)
    if seen.wrong:
        raise click.ClickException(f"{run}: not all is as it seems, see above")


@main.command()
@click.argument("checkpoint")
def inspect(checkpoint: str) -> None:
    """Show the tensors of one CHECKPOINT.

    Data type, shape, size, spectrum and bits.
    Bits are the order-0 entropy of weights quantised at a quarter of each tensor's standard deviation: an estimate.
    """
    from .engine.inspection import inspect_tensors, single_checkpoint
    from .engine.report.terminal import print_inspection

    opened = single_checkpoint(checkpoint)
    print_inspection(opened, inspect_tensors(opened))


@main.command()
@click.argument("checkpoint")
@click.option("-o", "--output", type=FILE, required=True, help="The file, .kolmo.")
@click.option("-t", "--task", help="As in analyze.  [default: the run's own]")
@click.option("-e", "--epsilon", type=float, help="Allowed rise of the loss in nats.  [default: 1]")
@click.option("-D", "--relative-error", type=float, help="Allowed squared error of the weights, in place of a task.")
@click.option("--coder", type=click.Choice(CODERS), default="mixing", show_default=True, help="ans is fast.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the search.")
def compress(checkpoint: str, output: Path, relative_error: float | None, **options: Any) -> None:
    """Write one CHECKPOINT as a .kolmo file.

    The smallest found whose decoded weights keep the training loss within epsilon, or whose squared error is at most
    a share of the squared weights.

    \b
    Example:
      kolmogram compress model.safetensors -o model.kolmo --task my_task.py --epsilon 0.1
      kolmogram compress model.safetensors -o model.kolmo --relative-error 0.01
    """  # noqa: D301
    from .engine.compression import compress_checkpoint
    from .engine.report.terminal import print_table

    found = compress_checkpoint(checkpoint, output, relative_error=relative_error, **options)
    losses = () if relative_error else ("original_loss", "loss")
    columns = ("bytes", "original_bytes", "ratio", "relative_error", *losses)
    print_table(columns, [tuple(_short(getattr(found, column)) for column in columns)])


@main.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("-o", "--output", type=FILE, required=True, help="The checkpoint, .safetensors.")
@click.option("--max-weights", type=click.IntRange(1), help="Read larger files.  [default: 1024 weights a byte]")
def decompress(file: Path, output: Path, max_weights: int | None) -> None:
    """Write a .kolmo FILE as safetensors."""
    from .engine.compression import decompress_file

    decompress_file(file, output, max_weights)
    click.echo(output)


@main.command()
@click.argument("operation", type=click.Choice(OPERATIONS))
@click.option("-o", "--out", type=FOLDER, required=True, help="Folder of the run.")
@click.option("--modulus", type=int, default=113, show_default=True, help="A prime.")
@click.option("--architecture", type=click.Choice(ARCHITECTURES), default="transformer", show_default=True)
@click.option("--width", type=click.IntRange(1), default=128, show_default=True, help="Of the embedding.")
@click.option("--train-fraction", type=click.FloatRange(0, 1), help="Share of all pairs.  [default: the paper's]")
@click.option("--recipe", type=click.Choice(RECIPES), default="paper", show_default=True, help="Regularisation.")
@click.option("--epochs", type=click.IntRange(1), default=1000, show_default=True)
@click.option("--until-accuracy", type=click.FloatRange(0, 1), help="Stop at this test accuracy.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--device", default="cpu", show_default=True, help="auto, cpu, cuda, cuda:1, …")
@click.option("--compile", "compiled", is_flag=True, help="torch.compile: pays on a GPU or over many epochs.")
@click.option("--precision", type=click.Choice(PRECISIONS), default="float32", show_default=True, help="Of products.")
def train(operation: str, out: Path, **options: Any) -> None:
    """Train a grokking run.

    Modular arithmetic by the paper's recipe, with checkpoints evenly spaced in log time. Prints the rows of
    metrics.csv. Stop it at any moment; the same command goes on where it was.

    \b
    Example:
      kolmogram train addition -o runs/addition --until-accuracy 0.99
      kolmogram analyze runs/addition
    """  # noqa: D301
    from .engine.report.terminal import ProgressBars, print_metrics
    from .engine.training.grokking import train

    with ProgressBars(options["epochs"]) as bars:
        rows = train(operation, out, progress=bars.training, **options)
    print_metrics(rows)


@main.command()
@click.argument("out", type=EXISTING_FOLDER)
@click.option("-t", "--task", help="The one that analyze had.  [default: the run's own]")
@click.option(
    "--delta", type=click.FloatRange(0, 1, True, True), default=0.05, show_default=True, help="Chance to fail."
)
def bound(out: Path, task: str | None, delta: float) -> None:
    """Say what the files of an analysis prove.

    Description length of the labels, and upper bounds on error and loss beyond the training examples, which hold with
    probability 1 - delta. OUT is a folder that `analyze` wrote; its tables and report get the new columns. What the
    bounds assume is said beneath them.

    \b
    Example:
      kolmogram analyze runs/addition -e 1 -e 0.1
      kolmogram bound runs/addition/kolmogram
    """  # noqa: D301
    from .engine.certificate import bound
    from .engine.report.terminal import print_bounds

    print_bounds(bound(out, task, delta))


@main.command()
@click.argument("folders", type=EXISTING_FOLDER, nargs=-1, required=True, metavar="OUT...")
@click.option("-o", "--output", type=FILE, required=True, help="The page, .html.")
def report(folders: tuple[Path, ...], output: Path) -> None:
    """Write one page about one or several runs.

    OUT are folders that `analyze` wrote; the page needs no network to be read.
    """
    from .engine.report.page import write_report

    write_report(folders, output)
    click.echo(output)


@main.command()
@click.argument("folders", type=EXISTING_FOLDER, nargs=-1, required=True, metavar="OUT...")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help=".pdf, .png or .svg"
)
def figure(folders: tuple[Path, ...], output: Path) -> None:
    """Draw a figure for a paper.

    OUT are folders that `analyze` wrote; the figure is one column wide.
    """
    from .engine.report.figure import write_figure

    write_figure(folders, output)
    click.echo(output)


@main.command()
@click.option(
    "--size", type=click.IntRange(1), multiple=True, default=(10**5, 10**6, 10**7), help="Numbers of weights."
)
@click.option("--run", help="Also say where the time of analysing this run goes.")
@click.option("-t", "--task", help="Task for that run, as in analyze.")
@click.option("--device", default="cpu", show_default=True, help="auto, cpu, cuda, cuda:1, …")
@click.option("--json", "as_json", is_flag=True, help="Everything as JSON instead of tables.")
@click.option("--trace", type=FILE, help="Write a Chrome trace of analysing --run.")
@click.option("--proton", type=FILE, help="Write Triton's own profile of the kernels, .hatchet; on a GPU.")
def profile(size: tuple[int, ...], as_json: bool, **options: Any) -> None:
    """Measure the kernels against this machine's own limits.

    Milliseconds and GB/s of every kernel, beside what torch offers for the same answer, and the share of the read
    bandwidth that this machine was measured to have.
    """
    from .engine import profiling
    from .engine.report.terminal import print_table

    if options["trace"] is not None and options["run"] is None:
        raise click.UsageError("--trace needs --run")
    report = profiling.profile(size, **options)
    if as_json:
        click.echo(report.to_json())
        return
    rows = report.table()
    print_table(tuple(rows[0]), [tuple(map(_short, row.values())) for row in rows])
    if report.stages:
        print_table(("stage", "seconds"), [(stage, f"{seconds:.2f}") for stage, seconds in report.stages.items()])
    click.echo(report.summary(), err=True)


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "" if value is None else str(value)


@main.command()
def doctor() -> None:
    """Say what runs here and why.

    Versions, device and backend; what is missing and how to get it.
    """
    from .engine.doctor import diagnose
    from .engine.report.terminal import print_table

    findings = list(diagnose())
    print_table(("what", "state"), [(finding.what, finding.state) for finding in findings])
    if not all(finding.ok for finding in findings):
        raise click.ClickException("something needs attention, see above")
