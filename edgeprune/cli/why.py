"""`edgeprune why`: what holds the time of each layer of a finished run's chosen model."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("why")
@click.argument("run", type=click.Path(path_type=Path), required=False)
@click.option("--tier", type=click.IntRange(min=1), help="Of several budgets the N-th, the largest first.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def command(run: Path | None, tier: int | None, as_json: bool) -> None:
    """Say why the model that a fit found is not faster: what holds each layer, and where the next 10 % could
    come from. RUN is the fit's --out folder, by default the one that the project file brings."""
    from rich.markup import escape

    from edgeprune.cli.output import console, emit_json, table
    from edgeprune.cli.report import of_project
    from edgeprune.errors import InputError
    from edgeprune.report import HEAD, bottleneck_rows, bottlenecks, bottlenecks_document, summary_lines
    from edgeprune.results import load_result

    result = load_result(of_project() if run is None else run)
    if tier is not None:
        if tier > max(len(result.tiers), 1):
            raise InputError(
                f"There is no tier {tier}: the run has {max(len(result.tiers), 1)}.",
                "Give --tier 1 for the largest budget, 2 for the next one.",
            )
        result = result.of_tier(tier) if result.tiers else result
    found = bottlenecks(result)
    if as_json:
        emit_json(bottlenecks_document(found))
        return
    out = console(stderr=False)
    rows = [tuple(map(escape, row)) for row in bottleneck_rows(found)]
    if rows:
        out.print(table(*HEAD, rows=rows, right=("ms", "share")))
    for line in summary_lines(found, result.metric):
        out.print(line, markup=False)
