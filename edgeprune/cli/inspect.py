"""`edgeprune inspect`: the prunable groups of a model, and the reason for every frozen parameter."""

from __future__ import annotations

from typing import Any

import click

from edgeprune.cli.model import model_options, task_options, told_task
from edgeprune.cli.settled import with_project


@with_project
@click.command("inspect")
@model_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def command(model: str, as_json: bool, **options: Any) -> None:
    """List the groups of MODEL: their units, and what a unit costs in parameters and MACs; the residual
    branches that can be dropped whole; then what is frozen, and the operation that holds it."""
    from rich.markup import escape

    from edgeprune.cli.output import answers_alone, console, emit_json, table
    from edgeprune.graph.inspect import inspect
    from edgeprune.tasks import lengths_of

    with answers_alone():
        task = told_task(model, task_options(options))
        lengths = lengths_of(task.example, task.lengths, task.length_dims)
        found = inspect(task.model, task.example, lengths)
    if as_json:
        emit_json(found)
        return
    out = console(stderr=False)
    rows = [
        (
            escape(each.name),
            str(each.units),
            f"{each.unit_params:,}",
            f"{each.unit_macs:,}",
            str(each.parameters),
        )
        for each in found.groups
    ]
    heads = ("units", "parameters/unit", "MACs/unit", "tensors")
    out.print(table("group", *heads, rows=rows, right=heads))
    if found.branches:
        whole = [(escape(each.name), f"{each.params:,}", f"{each.macs:,}") for each in found.branches]
        costs = ("parameters", "MACs")
        out.print(table("residual branch", *costs, rows=whole, right=costs))
    if found.frozen:
        frozen = [
            (escape(each.name), f"{each.size:,}", each.op, escape(each.reason)) for each in found.frozen
        ]
        out.print(table("frozen", "parameters", "by", "reason", rows=frozen, right=["parameters"]))
    for op in found.unknown:
        out.print(f"no rule for {op}: whatever it touches is frozen", markup=False)
    if found.fixed_batch:
        out.print(found.fixed_batch, markup=False)
    out.print(
        f"{found.params:,} parameters, {found.frozen_params:,} of them frozen; {found.macs:,} MACs per sample"
    )
