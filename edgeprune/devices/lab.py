"""The lab file, lab.toml: the user's devices by name.

[devices.bench]
address = "ssh://user@bench.local:22"    # or "local"
profile = "raspberry-pi-5"               # what `validate` holds it against; optional, like all below
python = "/opt/venv/bin/python"          # on the device, with numpy and the runtime
workdir = ".cache/edgeprune"             # on the device; relative to the home folder
ssh_config = "ssh_config"                # relative to the lab file
jump = "user@gateway"
exclusive = true                         # refuse to run while another edgeprune does
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeprune.errors import InputError
from edgeprune.toml import Table, nearest

WORKDIR = ".cache/edgeprune"
SCHEMES = ("local", "ssh")


@dataclass(frozen=True)
class LabDevice:
    """A device of a lab file: its address, and how edgeprune reaches and uses it."""

    name: str
    address: str
    profile: str | None = None
    python: str | None = None  # None: this Python for "local", `python3` over ssh
    workdir: str = WORKDIR
    ssh_config: Path | None = None
    jump: str | None = None
    exclusive: bool = False

    @property
    def scheme(self) -> str:
        return self.address.partition("://")[0]


@dataclass(frozen=True)
class SshAddress:
    """The parts of ssh://user@host:port; a part that is None is left to the user's ssh configuration."""

    host: str
    user: str | None
    port: int | None


def load_lab(path: Path) -> Mapping[str, LabDevice]:
    """The devices of a lab file by name, in its order.

    Raises `InputError` naming file, key and value when it cannot be read or is not exactly a lab file.
    """
    file = Table.read(path)
    file.only("devices")
    tables = file.table("devices")
    devices = {name: _device(name, tables.table(name)) for name in tables}
    if not devices:
        raise InputError(f"{path} names no device.", 'Add a table such as [devices.bench] with an "address".')
    return devices


def find_device(name_or_address: str, lab: Path | None = None) -> LabDevice:
    """The device with that name in the lab file, else at that address. Raises `InputError`."""
    devices = load_lab(lab) if lab is not None else {}
    if name_or_address in devices:
        return devices[name_or_address]
    device = LabDevice(name_or_address, name_or_address)
    if device.scheme not in SCHEMES:
        known = [*devices, "local", "ssh://user@host:port"]
        where = f" in {lab}" if lab is not None else ""
        raise InputError(f"There is no device {name_or_address!r}{where}.", nearest(name_or_address, known))
    if device.scheme == "ssh":
        parse_ssh(name_or_address)
    return device


def parse_ssh(address: str) -> SshAddress:
    """The parts of ssh://user@host:port. Raises `InputError` naming the fault."""
    try:
        parts = urllib.parse.urlsplit(address)
        host, user, port = parts.hostname, parts.username, parts.port
    except ValueError as error:
        raise _bad_address(address, str(error)) from error
    if parts.scheme != "ssh" or not host:
        raise _bad_address(address, "it has no host")
    if parts.password is not None:
        raise _bad_address(address, "it carries a password")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise _bad_address(address, "something follows the host")
    if host.startswith("-") or (user or "").startswith("-"):  # ssh would read it as an option
        raise _bad_address(address, "host and user cannot begin with a dash")
    return SshAddress(host, user, port)


def _bad_address(address: str, why: str) -> InputError:
    return InputError(
        f"{address!r} is not the address of a device: {why}.",
        "Write ssh://user@host:port; keys, aliases and jump hosts come from your ssh configuration.",
    )


def _device(name: str, table: Table) -> LabDevice:
    table.only("address", "profile", "python", "workdir", "ssh_config", "jump", "exclusive")
    address = table.text("address")
    if address != "local":
        try:
            parse_ssh(address)
        except InputError as error:
            raise table.error("address", f'is "{address}"', f"{error.what} {error.hint}") from error
    config = table.path.parent / table.text("ssh_config") if "ssh_config" in table else None
    if config is not None and not config.is_file():
        raise table.error("ssh_config", f"names {config}, which is no file", "Correct the path.")
    return LabDevice(
        name=name,
        address=address,
        profile=table.text("profile") if "profile" in table else None,
        python=table.text("python") if "python" in table else None,
        workdir=table.text("workdir", default=WORKDIR),
        ssh_config=config,
        jump=table.text("jump") if "jump" in table else None,
        exclusive=table.flag("exclusive"),
    )
