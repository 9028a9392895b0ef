"""The lab file, lab.toml: the user's devices by name.

[devices.bench]
address = "ssh://user@bench.local:22"    # or "local"
profile = "raspberry-pi-5"               # what `validate` holds it against; optional, like all below
python = "/opt/venv/bin/python"          # on the device, with numpy and the runtime
workdir = ".cache/edgeprune"             # on the device, its user's alone; relative to the home folder
ssh_config = "ssh_config"                # relative to the lab file
jump = "user@gateway:22"                 # several with commas, as for ssh -J
exclusive = true                         # refuse to run while another edgeprune does
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeprune.devices.address import check_jump, parse_ssh
from edgeprune.errors import InputError
from edgeprune.toml import Table, nearest, quoted

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
        return "ssh" if "://" in self.address else self.address


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
    known = [*devices, "local", "ssh://user@host:port"]
    if not name_or_address.strip():
        raise InputError(f"{name_or_address!r} names no device.", f"Valid: {', '.join(known)}.")
    if _is_ssh(name_or_address):
        parse_ssh(name_or_address)
    elif name_or_address != "local":
        where = f" in {lab}" if lab is not None else ""
        raise InputError(f"There is no device {name_or_address!r}{where}.", nearest(name_or_address, known))
    return LabDevice(name_or_address, name_or_address)


def _is_ssh(address: str) -> bool:
    """Whether an address has ssh's scheme; schemes are the same in capitals."""
    return address.partition("://")[0].lower() == "ssh" and "://" in address


def _device(name: str, table: Table) -> LabDevice:
    table.only("address", "profile", "python", "workdir", "ssh_config", "jump", "exclusive")
    if not name.strip() or not name.isprintable():
        raise InputError(
            f"{table.path} calls a device {name!r}.", "Give it a name that can be typed and printed."
        )
    address = table.text("address")
    if address != "local":
        _checked(table, "address", address, parse_ssh)
    config = table.path.parent / table.text("ssh_config") if "ssh_config" in table else None
    if config is not None and not config.is_file():
        raise table.error("ssh_config", f"names {config}, which is no file", "Correct the path.")
    python = table.text("python") if "python" in table else None
    if python is not None:
        _checked(table, "python", python, _check_path)
    jump = table.text("jump") if "jump" in table else None
    if jump is not None:
        _checked(table, "jump", jump, check_jump)
    workdir = table.text("workdir", default=WORKDIR)
    _checked(table, "workdir", workdir, check_workdir)
    return LabDevice(
        name=name,
        address=address,
        profile=table.text("profile") if "profile" in table else None,
        python=python,
        workdir=workdir,
        ssh_config=config.absolute() if config is not None else None,
        jump=jump,
        exclusive=table.flag("exclusive"),
    )


def _checked(table: Table, key: str, value: str, check: Callable[[str], object]) -> None:
    """Run `check` on the value of a key; its `InputError` then names file and key, too."""
    try:
        check(value)
    except InputError as error:
        raise table.error(key, f"is {quoted(value)}", f"{error.what} {error.hint}") from error


def check_workdir(folder: str) -> None:
    """Raise `InputError` for what is no path of a folder of edgeprune's own on a device.

    Nothing in it is expanded: the device's shell gets it in quotes.
    """
    _check_path(folder)
    hint = (
        f"Write a path that is absolute, or relative to the home folder there, such as {WORKDIR}: "
        "`~` and variables are not expanded."
    )
    if folder[0] in "~$":
        raise InputError(f"The working folder {folder!r} begins with {folder[0]!r}.", hint)
    if ".." in folder.split("/") or not folder.strip("./"):
        raise InputError(f"The working folder {folder!r} is none of edgeprune's own.", hint)


def _check_path(path: str) -> None:
    if path.startswith("-") or not path.isprintable():
        raise InputError(
            f"{path!r} is no path that a command can be given.",
            "Leave out a dash in front and control characters.",
        )
