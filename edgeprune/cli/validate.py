"""`edgeprune validate`: prove a bundle again, here or on the devices of a lab."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeprune.cli.lab_lines import lines, summary
from edgeprune.cli.logs import log_options
from edgeprune.errors import InputError
from edgeprune.records.progress import Event

if TYPE_CHECKING:
    from edgeprune.bundle import Verified
    from edgeprune.devices import Device
    from edgeprune.devices.lab import LabDevice
    from edgeprune.errors import BundleError
    from edgeprune.records.bundle import Validation
    from edgeprune.records.machine import Target

FITS, FAILED, MISSES = 0, 1, 3


@click.command("validate")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--device", "address", metavar="URI", help="local (the default) or ssh://user@host:port.")
@click.option(
    "--lab",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A lab.toml: validate on the devices NAME... of it, or on all.",
)
@click.option(
    "--target", help="Your own target, whose sensors are read; by default your shelf's of that name."
)
@click.option(
    "--signers",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Demand a signature by one of these keys (ssh's allowed_signers format).",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
@click.option(
    "--junit",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the numbered checks as JUnit XML.",
)
@log_options
@click.pass_context
def command(
    context: click.Context,
    bundle: Path,
    names: tuple[str, ...],
    address: str | None,
    lab: Path | None,
    target: str | None,
    signers: Path | None,
    as_json: bool,
    junit: Path | None,
) -> None:
    """Check BUNDLE and repeat its proof on a device, from the bundle alone; on the devices of a lab at once.

    Exit codes: 0 it fits; 3 a device misses the budget; 1 a device failed or stayed inconclusive; 2 the
    bundle is refused.
    """
    from edgeprune.bundle import open_bundle
    from edgeprune.cli.output import check_file, emit_json
    from edgeprune.cli.settled import from_project
    from edgeprune.devices import open_device
    from edgeprune.errors import BundleError
    from edgeprune.shelf import load_target

    if lab is None and address is None and names:
        lab = from_project("lab").given.get("lab")
    if lab is None and names:
        raise click.UsageError(
            "NAME needs --lab FILE, or a project file with a lab: the file that says what the name means."
        )
    if lab is not None and address is not None:
        raise click.UsageError("--device and --lab exclude each other.")
    if junit is not None:
        check_file("--junit", junit)
    device = None if lab is not None else open_device("local" if address is None else address)
    chosen = {} if lab is None else _named(lab, names)
    own = None if target is None else load_target(target)
    try:
        with open_bundle(bundle, signers=signers) as verified:
            if device is not None:
                found = [_validated(device, verified, own, quiet=as_json)]
            else:
                found = _validated_lab(verified, chosen, own, lab, quiet=as_json)
    except BundleError as error:
        if junit is not None:
            _write_junit(junit, [_refusal(bundle, error)])
        raise
    if junit is not None:
        _write_junit(junit, found)
    if as_json:
        emit_json({"bundle": str(bundle), "verdict": _worst(found), "devices": [_document(v) for v in found]})
    elif lab is not None:
        click.echo(summary(found))
    context.exit(_exit_code(found))


def _named(lab: Path, names: Sequence[str]) -> dict[str, LabDevice]:
    """The named devices of a lab file, each once; all of it without a name."""
    from edgeprune.devices.lab import load_lab
    from edgeprune.toml import nearest

    devices = load_lab(lab)
    for name in names:
        if name not in devices:
            raise InputError(f"There is no device {name!r} in {lab}.", nearest(name, devices))
    return {name: devices[name] for name in names or devices}


def _validated(device: Device, verified: Verified, own: Target | None, *, quiet: bool) -> Validation:
    """The validation of a bundle on one device, shown as soon as it ends."""
    from edgeprune.cli.output import console
    from edgeprune.validating import validate_on

    with console().status(f"{device.name}: checking the device") as status:

        def listen(event: Event) -> None:
            status.update(f"{event.stage}: {event.doing}, {event.share or 0:.0%}")

        validation = validate_on(device, verified, own, listen=listen)
    if not quiet:
        _show(validation)
    return validation


def _validated_lab(
    verified: Verified, chosen: Mapping[str, LabDevice], own: Target | None, lab: Path | None, *, quiet: bool
) -> list[Validation]:
    """The validations on devices of a lab, in the order of the lab file; each is shown as it ends."""
    from edgeprune.devices import open_device
    from edgeprune.lab_validation import validate_lab

    found = {}
    with lines(chosen) as listen:
        opened = partial(open_device, lab=lab)
        with closing(validate_lab(verified, chosen, opened, own, listen=listen)) as validations:
            for name, validation in validations:
                found[name] = validation
                listen(name, Event(name, validation.word, 1.0, lasting=True))
                if not quiet:
                    _show(validation)
    return [found[name] for name in chosen]


def _show(validation: Validation) -> None:
    from rich.markup import escape

    from edgeprune.cli.output import console, table

    out = console(stderr=False)
    out.print(
        f"{validation.model} on {validation.device} ({validation.machine or 'no answer'})", markup=False
    )
    rows = [
        (f"({check.number})", check.outcome, check.title, escape(f"{check.detail}\n{check.hint}".rstrip()))
        for check in validation.checks
    ]
    out.print(table("", "", "check", "found", rows=rows))
    out.print(f"{validation.device}: {validation.word}", markup=False)


def _verdict(validation: Validation) -> str:
    """Verdict as programs know it: a device that cannot be reached has failed."""
    return "failed" if validation.verdict is None else validation.verdict.kind


def _exit_code(found: Sequence[Validation]) -> int:
    """The exit code of the worst device: no answer is worse than a miss."""
    return {"fits": FITS, "misses": MISSES}.get(_worst(found), FAILED)


def _worst(found: Sequence[Validation]) -> str:
    order = ("failed", "inconclusive", "misses", "fits")
    return min((_verdict(validation) for validation in found), key=order.index)


def _document(validation: Validation) -> dict[str, object]:
    measurement = validation.measurement
    latency = None if measurement is None else measurement.latency
    return {
        "device": validation.device,
        "machine": validation.machine,
        "verdict": _verdict(validation),
        "reachable": validation.reachable,
        "began": validation.began,
        "seconds": validation.seconds,
        "breaches": validation.verdict.breaches if validation.verdict else (),
        "budget": validation.budget,
        "metric": {
            "name": validation.metric_name,
            "value": validation.metric,
            "lower_is_better": validation.lower_is_better,
            "from": "the manifest's claim; the golden outputs prove that this device computes the same model",
        },
        "latency_ms": latency
        and {
            "p50": latency.p50_ms,
            "p90": latency.p90_ms,
            "p99": latency.p99_ms,
            "bound": latency.bound_ms,
            "runs": latency.runs,
        },
        "memory_mib": measurement and measurement.memory_mib,
        "memory_added_mib": measurement and measurement.added_mib,
        "size_mib": measurement and measurement.size_mib,
        "runtime": measurement and measurement.runtime,
        "threads": measurement and measurement.threads,
        "batch": measurement and measurement.batch,
        "state": measurement and measurement.state,
        "checks": validation.checks,
    }


def _refusal(bundle: Path, error: BundleError) -> Validation:
    """A refused bundle as a validation with one failed check, for the JUnit report."""
    from edgeprune.foreign import escaped, tame
    from edgeprune.records.bundle import Check, Validation
    from edgeprune.records.machine import Budget

    check = Check(error.check, "the bundle is accepted", "failed", escaped(error.what), escaped(error.hint))
    name = tame(bundle.name)
    return Validation(name, name, (check,), None, None, "", 0.0, Budget(), "")


def _write_junit(path: Path, found: Sequence[Validation]) -> None:
    from edgeprune.files import write
    from edgeprune.report.junit import junit

    write(path, junit(found))
