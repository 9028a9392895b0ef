"""`edgeprune profiles`: the machines on the shelf, and the budget that each gives a model."""

from __future__ import annotations

import click
from rich.markup import escape

from edgeprune import detect, shelf
from edgeprune.cli.output import console, emit_json, facts, table
from edgeprune.records.machine import Budget, Profile

BUDGET = ("max latency", "max memory", "max size", "max drop")


@click.command("profiles")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def command(name: str | None, as_json: bool) -> None:
    """List hardware profiles, or show one with its budget and the source of every figure.

    NAME is a profile on the shelf, or the path of a .toml file of your own.
    """
    if name is not None:
        profile = shelf.load_profile(name)
        if as_json:
            emit_json(document(profile))
        else:
            _show(profile)
        return
    profiles = [shelf.load_profile(each) for each in shelf.names("profiles")]
    if as_json:
        emit_json({"profiles": [document(each) for each in profiles]})
    else:
        rows = [(each.name, escape(each.title), str(each.threads), *lines(each.budget)) for each in profiles]
        console(stderr=False).print(
            table("profile", "machine", "threads", *BUDGET, rows=rows, right=("threads", *BUDGET))
        )


def document(profile: Profile) -> dict[str, object]:
    """The `--json` form of a profile."""
    return {
        "name": profile.name,
        "title": profile.title,
        "architecture": profile.architecture,
        "threads": profile.threads,
        "batch": profile.batch,
        "isa": profile.isa,
        "int8": detect.int8_summary(profile.isa),
        "budget": profile.budget,
        "figures": dict(profile.figures),
        "sources": profile.sources,
    }


def lines(budget: Budget) -> tuple[str, str, str, str]:
    """The cells of a budget under the heads of `BUDGET`; "-" for a line that does not bind."""
    latency = "-"
    if budget.latency_ms is not None:
        latency = f"p{budget.percentile} {budget.latency_ms:g} ms"
    elif budget.speedup is not None:
        latency = f"p{budget.percentile} {budget.speedup:g}x faster"
    memory, size = ("-" if mib is None else f"{mib:g} MiB" for mib in (budget.memory_mib, budget.size_mib))
    percent = budget.max_drop_percent
    return latency, memory, size, f"{budget.max_drop:g}" if percent is None else f"{percent:g}%"


def _show(profile: Profile) -> None:
    out = console(stderr=False)
    out.print(f"[bold]{escape(profile.name)}[/]  {escape(profile.title)}")
    out.print(
        facts(
            [
                ("architecture", profile.architecture),
                ("threads", str(profile.threads)),
                ("batch", str(profile.batch)),
                ("instruction sets", " ".join(profile.isa) or "none that matters to INT8 is listed"),
                ("INT8 on the CPU", detect.int8_summary(profile.isa)),
                *((head, line) for head, line in zip(BUDGET, lines(profile.budget), strict=True)),
                *(("read in", escape(source)) for source in profile.sources),
            ]
        )
    )
    rows = [
        (name, f"{figure.value:g}", figure.unit, escape(figure.source)) for name, figure in profile.figures
    ]
    if rows:
        out.print(table("figure", "value", "unit", "source", rows=rows, right=["value"]))
