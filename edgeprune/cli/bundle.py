"""`edgeprune bundle`: pack a finished run for its device."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("bundle")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--tier",
    type=click.IntRange(min=1),
    metavar="N",
    help="The N-th budget of the fit, the largest first; of a fit with one budget, the N-th of its frontier.",
)
@click.option(
    "--sign", type=click.Path(path_type=Path), metavar="KEY", help="Sign with this SSH private key."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Default: NAME.edgeprune.zip in RUN.",
)
def command(run: Path, tier: int | None, sign: Path | None, output: Path | None) -> None:
    """Pack a candidate of RUN, the --out folder of a fit, with its proof, golden vectors and runner.

    Without --tier that is the candidate that the fit's verdict is about. Prints the bundle's path on stdout.
    """
    from edgeprune.bundle import bundle_path, write_bundle
    from edgeprune.errors import InputError
    from edgeprune.records.bundle import GOLDEN
    from edgeprune.results import check_carried, check_golden, load_result

    result = load_result(run)
    chosen = None
    if tier is not None:
        count = len(result.tiers or result.frontier)
        if tier > count:
            held = (
                f"{run} answers {count} budgets"
                if result.tiers
                else f"The frontier of {run} has {count} tiers"
            )
            raise InputError(f"{held}, and --tier is {tier}.", f"List them: edgeprune report {run}")
        if result.tiers:
            result = result.of_tier(tier)
        else:
            chosen = result.frontier[tier - 1]
    check_golden(run, (run / result.chosen.artefact).parent / GOLDEN)
    check_carried(run)
    written = write_bundle(result, run, output or bundle_path(run, tier), chosen=chosen, sign=sign)
    click.echo(str(written))
