"""Validation of one bundle on all devices of a lab at once.

Each machine has a thread of its own, which waits for its device nearly all the time. Devices that share a
machine take turns: proofs at the same time would wait for one another's processors, and prove nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from queue import SimpleQueue

from edgeprune.bundle import Verified
from edgeprune.devices import Device
from edgeprune.devices.address import parse_ssh
from edgeprune.devices.lab import LabDevice
from edgeprune.measure import PROOF, Effort
from edgeprune.records.bundle import Validation
from edgeprune.records.machine import Target
from edgeprune.records.progress import Event
from edgeprune.validating import validate_on

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
LEAVING_SECONDS = 10.0  # for threads to leave their devices in order, once nobody waits for the answers

Open = Callable[[str], Device]
Hear = Callable[[str, Event | None], None]  # name of a device, and what it does; None when it begins


class _StoppedError(Exception):
    """Ends a thread whose answers nobody waits for."""


def machines(devices: Mapping[str, LabDevice]) -> tuple[tuple[str, ...], ...]:
    """Names of devices by the machine that their addresses lead to, each in the order of the lab file."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, device in devices.items():
        found.setdefault(_machine(device), []).append(name)
    return tuple(tuple(names) for names in found.values())


def _machine(device: LabDevice) -> tuple[str, str]:
    """Jump hosts and host of a device: behind other jump hosts the same name may be another machine."""
    if device.scheme == "local":
        return "", ""
    host, jump = parse_ssh(device.address).host.lower(), device.jump or ""
    return (jump, "" if host in LOOPBACK and not jump else host)


def validate_lab(
    verified: Verified,
    devices: Mapping[str, LabDevice],
    opened: Open,
    target: Target | None = None,
    *,
    effort: Effort = PROOF,
    listen: Hear = lambda name, event: None,
) -> Generator[tuple[str, Validation], None, None]:
    """Names of devices and validations of a bundle that passed (1) to (6), in the order in which they end.

    devices: those of a lab file to validate on. opened: makes a device of its name. target, effort: as
    `validate_on` takes them. listen: is called from the devices' threads.
    What a thread raises is raised here, and the others end at their next block of queries; so they do when
    the iterator is closed.
    """
    answers: SimpleQueue[tuple[str, Validation] | BaseException] = SimpleQueue()
    stopped = threading.Event()

    def heard(name: str, event: Event | None) -> None:
        if stopped.is_set():
            raise _StoppedError
        listen(name, event)

    def work(names: Sequence[str]) -> None:
        try:
            for name in names:
                heard(name, None)
                listens = partial(heard, name)
                found = validate_on(opened(name), verified, target, effort=effort, listen=listens)
                answers.put((name, found))
        except BaseException as error:  # told to whoever waits: a thread has no caller
            answers.put(error)

    threads = [
        threading.Thread(target=work, args=(names,), name=f"validation on {names[0]}", daemon=True)
        for names in machines(devices)
    ]
    for thread in threads:
        thread.start()
    try:
        for _ in devices:
            answer = answers.get()
            if isinstance(answer, BaseException):
                raise answer
            yield answer
    finally:
        stopped.set()
        for thread in threads:
            thread.join(LEAVING_SECONDS)
