"""`edgeprune bundle`: pack a finished run for its device."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("bundle")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--tier", type=click.IntRange(min=1), metavar="N", help="The N-th of the frontier that `report` lists."
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

    Prints the path of the bundle on stdout.
    """
    from edgeprune.bundle import bundle_path, write_bundle
    from edgeprune.errors import InputError
    from edgeprune.results import load_result

    result = load_result(run)
    if tier is not None and tier > len(result.frontier):
        raise InputError(
            f"The frontier of {run} has {len(result.frontier)} tiers, and --tier is {tier}.",
            f"List them: edgeprune report {run}",
        )
    written = write_bundle(
        result,
        run,
        output or bundle_path(run, tier),
        chosen=result.frontier[tier - 1] if tier is not None else None,
        sign=sign,
    )
    click.echo(str(written))
