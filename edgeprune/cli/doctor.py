"""`edgeprune doctor`: runtimes and libraries tried on this machine, and lines that install the missing."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import click
from rich.markup import escape

import edgeprune
from edgeprune import detect
from edgeprune.cli.extras import HUB, REPORT, pip_line
from edgeprune.cli.output import console, emit_json, facts, table
from edgeprune.cli.runtime_probe import FIT, Finding
from edgeprune.runtimes import TABLE as RUNTIMES

TIMEOUT_SECONDS = 120.0  # a cold import of torch from a slow card takes half of that
COLOURS = {"works": "green", "imports": "yellow", "missing": "dim", "fails": "red"}


@dataclass(frozen=True)
class RuntimeCheck:
    """Line of the diagnosis; `repair` is None where nothing needs repair."""

    name: str
    finding: Finding
    repair: str | None


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Say what works on this machine, and how to repair the rest.

    Each library is imported in a process of its own; a runtime that needs no GPU runs a small model. Exits
    with 0 when at least one runtime works, else with 1.
    """
    with console().status("trying the runtimes") as status:
        runtimes = [_check(row.name, row.repair) for row in RUNTIMES.values()]
        status.update("importing what fit and its report need")
        modules = {FIT: "torch", HUB: "transformers", REPORT: "matplotlib"}
        others = [*(_check(name, pip_line(module)) for name, module in modules.items()), _ssh()]
    host = detect.host()
    works = any(check.finding.state == "works" for check in runtimes)
    if as_json:
        emit_json(
            {
                "works": works,
                "edgeprune": edgeprune.__version__,
                "python": platform.python_version(),
                "machine": {**vars(host), "int8": detect.int8_summary(host.isa)},
                "runtimes": [_document(check) for check in runtimes],
                "others": [_document(check) for check in others],
            }
        )
    else:
        _show(host, runtimes, others, works)
    ctx.exit(0 if works else 1)


def examine(name: str, timeout: float = TIMEOUT_SECONDS) -> Finding:
    """Finding of a probe that runs in a fresh interpreter; a crash or a hang is a finding too."""
    # -m puts the working folder first on the path: give it one where only the package itself lies.
    folder = Path(edgeprune.__file__).resolve().parent.parent
    line = [sys.executable, "-W", "ignore", "-m", "edgeprune.cli.runtime_probe", name]
    try:
        done = subprocess.run(
            line, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        return Finding("fails", None, f"did not answer within {timeout:g} s")
    if done.returncode < 0:
        return Finding("fails", None, f"crashed with {signal.Signals(-done.returncode).name}")
    answer = done.stdout.strip().splitlines()
    if done.returncode or not answer:
        last = (done.stderr.strip().splitlines() or ["nothing on stderr"])[-1]
        return Finding("fails", None, f"ended with exit code {done.returncode}: {last}")
    return Finding(**json.loads(answer[-1]))


def _check(name: str, repair: str) -> RuntimeCheck:
    finding = examine(name)
    return RuntimeCheck(name, finding, None if finding.state in ("works", "imports") else repair)


def _ssh() -> RuntimeCheck:
    """Check for OpenSSH, which connects to devices at ssh:// addresses."""
    program = shutil.which("ssh")
    if program is None:
        missing = Finding("missing", None, "needed for devices at ssh:// addresses only")
        return RuntimeCheck("ssh", missing, "install your system's openssh-client")
    said = subprocess.run([program, "-V"], capture_output=True, text=True, check=False)
    version = (said.stderr or said.stdout).strip().partition(",")[0]
    return RuntimeCheck("ssh", Finding("works", version or None, program), None)


def _document(check: RuntimeCheck) -> dict[str, object]:
    return {"name": check.name, **vars(check.finding), "repair": check.repair}


def _show(host: detect.Host, runtimes: list[RuntimeCheck], others: list[RuntimeCheck], works: bool) -> None:
    out = console(stderr=False)
    memory = f"{host.memory_mib:.0f} MiB" if host.memory_mib is not None else "unknown"
    out.print(
        facts(
            [
                ("edgeprune", f"{edgeprune.__version__} on Python {platform.python_version()}"),
                ("machine", f"{host.architecture}, {escape(host.processor or 'processor unknown')}"),
                (
                    "may use",
                    f"{host.cores or 'an unknown number of'} cores of {os.cpu_count()}, memory {memory}",
                ),
                ("INT8", detect.int8_summary(host.isa)),
            ]
        )
    )
    rows = [
        (
            check.name,
            f"[{COLOURS[check.finding.state]}]{check.finding.state}[/]",
            escape(check.finding.version or ""),
            escape(check.finding.detail),
        )
        for check in (*runtimes, *others)
    ]
    out.print(table("what", "state", "version", "detail", rows=rows))
    for check in (*runtimes, *others):
        if check.repair is not None:
            out.print(f"{check.name}: {escape(check.repair)}", soft_wrap=True)
    if not works:
        out.print("No runtime works here: nothing can be measured on this machine.")


__all__ = ["RuntimeCheck", "command", "examine"]
