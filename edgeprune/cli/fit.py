"""`edgeprune fit`: the least compressed model that provably fits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeprune.cli import INTERRUPTED
from edgeprune.cli.logs import log_options
from edgeprune.cli.model import model_options, task_options
from edgeprune.cli.numbers import LargestDrop, Numbers
from edgeprune.cli.settled import current, model_folder, with_project
from edgeprune.options import FitOptions
from edgeprune.pruning.criteria import TABLE as CRITERIA
from edgeprune.recover.ways import LABELLED, OWN, UNLABELLED
from edgeprune.recover.ways import TABLE as RECOVERY_WAYS
from edgeprune.runtimes import TABLE as RUNTIMES

if TYPE_CHECKING:
    from edgeprune.records.progress import Event, Listen
    from edgeprune.records.trial import FitResult

EXIT = {"fits": 0, "predicted": 0, "inconclusive": 1, "misses": 3}
DEFAULTS = FitOptions()
_PATHS = ("out", "target", "profile")


@with_project
@click.command("fit")
@model_options
@click.option(
    "--target",
    help="Deployment target: a name or a .toml; by default the one that the profile brings, else local.",
)
@click.option(
    "--profile",
    multiple=True,
    help="Hardware profile; the target's own by default. Several are several budgets.",
)
@click.option(
    "--latency-ms",
    type=Numbers(word="none"),
    help="Budget: latency at the profile's percentile. Several, as in 20,10,5, are answered by one search; "
    "none is no limit.",
)
@click.option(
    "--speedup", type=Numbers(), help="Budget: latency relative to the dense float model; one or several."
)
@click.option(
    "--whole/--no-whole",
    default=DEFAULTS.whole,
    help="The latency is that of whole queries: of Task.before, the model and Task.after together.",
)
@click.option("--memory-mib", type=float, help="Budget: peak memory.")
@click.option("--size-mib", type=float, help="Budget: size of the artefact's files.")
@click.option(
    "--max-drop",
    type=LargestDrop(),
    help="Budget: largest loss of the metric, in its own unit, or in percent of the dense model's, as in 2%.",
)
@click.option(
    "--batch", type=int, help="Rows of a query, whose latency is limited; the profile's by default."
)
@click.option("--threads", type=int, help="Threads of the device that serve; the profile's by default.")
@click.option("--device", help="Where to measure: local, a URI, or a NAME of the lab.")
@click.option("--lab", type=click.Path(path_type=Path), help="A lab.toml that names devices.")
@click.option(
    "--recover",
    type=click.Choice(tuple(RECOVERY_WAYS)),
    help=f"How to recover; by default {UNLABELLED}, or {LABELLED} when the task has labels, or {OWN} when it "
    "has a training loop of its own.",
)
@click.option(
    "--epochs", type=int, default=DEFAULTS.epochs, show_default=True, help="Epochs of recovery training."
)
@click.option("--minutes", type=float, help="Minutes of recovery training, instead of --epochs.")
@click.option(
    "--accumulate",
    type=int,
    default=DEFAULTS.accumulate,
    show_default=True,
    help="Training batches whose gradients are averaged for one step.",
)
@click.option(
    "--train-device",
    default=DEFAULTS.train_device,
    show_default=True,
    help="What computes recovery training: cpu, cuda, cuda:N or mps; auto is a GPU where there is one.",
)
@click.option(
    "--processes",
    type=int,
    default=DEFAULTS.processes,
    show_default=True,
    help="Processes that share each batch of recovery training; on GPUs, one for each.",
)
@click.option(
    "--criterion",
    default=DEFAULTS.criterion,
    show_default=True,
    help=f"Importance: {', '.join(CRITERIA)}.",
)
@click.option(
    "--runtime",
    help=f"Serve with this runtime instead of the target's, in its INT8 dialect: {', '.join(RUNTIMES)}.",
)
@click.option(
    "--seed",
    type=int,
    default=DEFAULTS.seed,
    show_default=True,
    help="Seed of samples, training and search.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Run folder; runs/NAME by default.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="Tell of no progress and of no finished trial on stderr.")
@log_options
@click.pass_context
def command(
    context: click.Context, /, model: str, lab: Path | None, as_json: bool, quiet: bool, **options: Any
) -> None:
    """Find the least compressed version of MODEL that provably fits a device's budget.

    MODEL is FILE.py[:NAME], package.module:NAME, or, with --data, MODEL.pt2, MODEL.onnx or a FOLDER of
    transformers. Budget lines given here override the profile's. What is not given is the project file's,
    edgeprune.toml. For another machine's profile without --device the fit is predicted. Exit codes: 0 it fits
    or is predicted to; 3 nothing fits; 2 the input is wrong; 1 edgeprune or the device failed, or the device
    was too restless to prove anything. Of several budgets: 0 when all are met, 3 when one is missed, else 1.
    """
    from edgeprune.cli.drawing import draw_beside
    from edgeprune.cli.output import answers_alone, emit_json
    from edgeprune.devices import open_device
    from edgeprune.errors import DeviceError
    from edgeprune.fitting import fit
    from edgeprune.recover.workers import joined, leads, serve
    from edgeprune.report import document
    from edgeprune.tasks import load_task

    asked = task_options(options, options["seed"])
    given = {name: value for name, value in options.items() if value is not None and value != ()}
    given.setdefault("out", default_out(model, model_folder()))
    given["project"] = current().use
    FitOptions(**given)  # refuses what no fit can be asked for before the task's code runs
    if "device" in given:
        given["device"] = open_device(given["device"], lab=lab)
    here = Path.cwd()
    try:
        with answers_alone(), joined() as processes:
            if not leads():
                click.echo("this process serves the trainings of the launcher's first one", err=True)
                serve()
                context.exit()
            if processes > 1:
                given["processes"] = processes
            task = load_task(model, asked)
            if Path.cwd() != here:  # the task's code has moved; what edgeprune was given has not
                given |= {name: _seen_from(here, given[name]) for name in _PATHS if name in given}
            with _progress() as listen:
                result = fit(task, **given, listen=_quieter(listen) if quiet else listen)
    except KeyboardInterrupt:
        click.echo(f"interrupted; {_kept(given['out'])}", err=True)
        context.exit(INTERRUPTED)
    except DeviceError as error:
        kept = _kept(given["out"])
        raise DeviceError(error.what, f"{error.hint} {kept[0].upper()}{kept[1:]}.") from error
    if as_json:
        emit_json(document(result))
    else:
        _show(result)
    told = draw_beside(Path(result.out))
    if told:
        click.echo(told, err=as_json or told.startswith("note"))
    context.exit(EXIT[result.verdict.kind])


def _seen_from(here: Path, value: str | Path | tuple[str, ...]) -> str | Path | tuple[str, ...]:
    """A path that was meant from the folder `here`, from the root; names of the shelf as they are."""
    if isinstance(value, tuple):
        return tuple(str(_seen_from(here, one)) for one in value)
    if isinstance(value, Path):
        return here / value
    return str(here / value) if value.endswith(".toml") else value


def _kept(folder: Path) -> str:
    """What is left of a fit that ended before its answer."""
    if (folder / "ledger.jsonl").exists():
        return f"finished trials are kept: add --resume --out {folder} to go on"
    return "nothing was written"


def default_out(model: str, folder: Path) -> Path:
    """Run folder of a MODEL where none is named. folder: of the project file that MODEL is of."""
    return folder / "runs" / _stem(model)


def _stem(model: str) -> str:
    """A name for the run folder: of FILE.py, of package.module:NAME, of MODEL.pt2 and .onnx, of a FOLDER."""
    if Path(model).is_dir():
        return Path(model).resolve().name
    return Path(model.partition(":")[0]).name.removesuffix(".py").removesuffix(".pt2").removesuffix(".onnx")


def _show(result: FitResult) -> None:
    from edgeprune.cli.output import console
    from edgeprune.report import parts_table, table, verdict_lines

    out = console(stderr=False)
    out.print(table(result))
    if result.whole:
        out.print(parts_table(result))
    for line in verdict_lines(result):
        out.print(line, markup=False)


def _quieter(listen: Listen) -> Listen:
    """Listener that hears nothing but sentences to be read later."""
    return lambda event: listen(event) if event.lasting else None


@contextmanager
def _progress() -> Iterator[Listen]:
    """Lines on stderr about finished trials and what is to be read later; on a terminal a live line, too."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from edgeprune.cli.output import console

    screen = console()
    columns = (
        TextColumn("{task.fields[stage]:<14}"),
        BarColumn(bar_width=20),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        line = bar.add_task("starting", total=1.0, stage="", left="")

        def listen(event: Event) -> None:
            if event.lasting or event.ended:
                told = f"{event.stage}: {event.doing}" if event.ended else event.doing
                bar.console.print(told, markup=False, highlight=False, soft_wrap=event.ended)
                return
            left = "" if event.seconds_left is None else f"about {event.seconds_left / 60:.1f} min left"
            bar.update(
                line, description=event.doing, stage=event.stage, left=left, completed=event.share or 0
            )

        yield listen
