"""`edgeprune report`: the tables and the verdict of a finished run, or a page with pictures of it."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("report")
@click.argument("run", type=click.Path(path_type=Path), required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the same JSON document as fit on stdout.")
@click.option(
    "--html",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Draw the run as one HTML page that needs no network, instead of the tables.",
)
def command(run: Path | None, as_json: bool, html: Path | None) -> None:
    """Show what a fit found: RUN is its --out folder, by default the one that the project file brings."""
    from edgeprune.cli.output import check_file, console, emit_json
    from edgeprune.report import (
        document,
        frontier_table,
        parts_table,
        table,
        trials_table,
        verdict_lines,
    )
    from edgeprune.results import load_result

    if html is not None:
        check_file("--html", html)
    result = load_result(of_project() if run is None else run)
    if html is not None:
        from edgeprune.files import write
        from edgeprune.report.html import page

        write(html, page(result).encode("utf-8"))
    if as_json:
        emit_json(document(result))
        return
    if html is not None:
        click.echo(f"report: {html}")
        return
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
