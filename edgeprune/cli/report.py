"""`edgeprune report`: a finished run as tables, as a page with pictures, or as a run of MLflow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from edgeprune.records.trial import FitResult


@click.command("report")
@click.argument("run", type=click.Path(path_type=Path), required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the same JSON document as fit on stdout.")
@click.option(
    "--html",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Draw the run as one HTML page that needs no network, instead of the tables.",
)
@click.option(
    "--mlflow",
    metavar="URI",
    help="Log the run in MLflow, such as http://HOST:5000 or sqlite:///mlflow.db, instead of the tables.",
)
@click.option("--mlflow-experiment", metavar="NAME", help="MLflow's experiment for it. Default: edgeprune.")
def command(
    run: Path | None, as_json: bool, html: Path | None, mlflow: str | None, mlflow_experiment: str | None
) -> None:
    """Show what a fit found: RUN is its --out folder, by default the one that the project file brings."""
    from edgeprune.cli.output import check_file, emit_json
    from edgeprune.errors import InputError
    from edgeprune.report import document
    from edgeprune.results import load_result

    if html is not None:
        check_file("--html", html)
    if mlflow_experiment is not None and mlflow is None:
        raise InputError("--mlflow-experiment names a place in MLflow, and no --mlflow was given.", "Add it.")
    if mlflow is not None and not mlflow.strip():  # MLflow would take an address of its own
        raise InputError("--mlflow is blank.", "Give an address, such as http://HOST:5000.")
    folder = of_project() if run is None else run
    result = load_result(folder)
    if html is not None:
        from edgeprune.files import write
        from edgeprune.report.html import page

        write(html, page(result).encode("utf-8"))
    told = [f"report: {html}"] if html is not None else []
    if mlflow is not None:
        told.append(_logged(result, folder, mlflow, mlflow_experiment))
    if as_json:
        emit_json(document(result))
    elif told:
        click.echo("\n".join(told))
    else:
        _show(result)


def _logged(result: FitResult, folder: Path, uri: str, experiment: str | None) -> str:
    """Log a run in MLflow, and return a sentence about where it is. Raises `EdgepruneError`."""
    from edgeprune.cli.output import answers_alone
    from edgeprune.report.mlflow_log import EXPERIMENT, log_run
    from edgeprune.report.tracked_run import tracked_run

    with answers_alone():  # MLflow prints addresses of its pages
        logged = log_run(tracked_run(result, folder), uri, experiment or EXPERIMENT)
    return f"mlflow: run {logged.run} of experiment {logged.experiment}"


def _show(result: FitResult) -> None:
    """Print the tables and the verdict of a run."""
    from edgeprune.cli.output import console
    from edgeprune.report import frontier_table, parts_table, table, trials_table, verdict_lines

    out = console(stderr=False)
    for title, part in (
        ("Result", table(result)),
        ("Whole queries", parts_table(result)),
        ("Trials", trials_table(result)),
        ("Frontier", frontier_table(result)),
    ):
        if part.row_count:
            out.print(f"[bold]{title}[/]")
            out.print(part)
    for line in (*(f"note: {remark}" for remark in result.remarks), *verdict_lines(result)):
        out.print(line, markup=False)


def of_project() -> Path:
    """Run folder of a fit that takes MODEL and everything else from the project file. Raises `InputError`."""
    from edgeprune.cli.fit import default_out
    from edgeprune.cli.project import near
    from edgeprune.cli.settled import from_project
    from edgeprune.errors import InputError

    found = from_project("model", "out")
    if "out" in found.given:
        return Path(found.given["out"])
    if found.project is None or "model" not in found.given:
        raise InputError(
            "No RUN was given, and no project file in this folder or above it names a model or a run folder.",
            "Give the --out folder of a fit.",
        )
    return default_out(found.given["model"], near(found.project.folder))
