"""`edgeprune targets`: the deployment platforms on the shelf."""

from __future__ import annotations

import click
from rich.markup import escape

from edgeprune import shelf
from edgeprune.cli.output import console, emit_json, facts, table
from edgeprune.records.machine import Target


@click.command("targets")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def command(name: str | None, as_json: bool) -> None:
    """List deployment targets, or show one with what it watches on the device.

    NAME is a target on the shelf, or the path of a .toml file of your own.
    """
    if name is not None:
        target = shelf.load_target(name)
        if as_json:
            emit_json(target)
        else:
            _show(target)
        return
    targets = [shelf.load_target(each) for each in shelf.names("targets")]
    if as_json:
        emit_json({"targets": targets})
    else:
        rows = [(each.name, escape(each.title), each.runtime, each.dialect, each.profile) for each in targets]
        console(stderr=False).print(
            table("target", "platform", "runtime", "INT8 dialect", "default profile", rows=rows)
        )


def _show(target: Target) -> None:
    out = console(stderr=False)
    out.print(f"[bold]{escape(target.name)}[/]  {escape(target.title)}")
    out.print(
        facts(
            [
                ("runtime", f"{target.runtime}, device {target.device}"),
                ("INT8 dialect", _dialect(target.dialect)),
                ("default profile", target.profile),
                ("channel multiple", str(target.channel_multiple)),
                *(("sensor", escape(each)) for each in target.sensors),
                *(("throttle flag", escape(each)) for each in target.throttle),
            ]
        )
    )


def _dialect(name: str) -> str:
    return "auto: the runtime's own for the architecture of the profile" if name == "auto" else name
