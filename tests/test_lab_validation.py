"""Bundles on several devices at once: all of them at work together, but those that share a machine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from edgeprune.bundle import Verified, open_bundle
from edgeprune.devices.lab import LabDevice
from edgeprune.errors import DeviceLost, InputError
from edgeprune.lab_validation import machines, validate_lab
from edgeprune.records.machine import Budget


@pytest.fixture
def verified(make_run: Callable[..., Any]) -> Iterator[Verified]:
    budget = Budget(latency_ms=5.0, percentile=90, memory_mib=100.0, size_mib=1.0)
    with open_bundle(make_run(budget=budget).bundle()) as opened:
        yield opened


def lab(**addresses: str) -> dict[str, LabDevice]:
    return {name: LabDevice(name, address) for name, address in addresses.items()}


def device(scripted: ModuleType, name: str, machine: Callable[[], None] = lambda: None) -> Any:
    """A device of that name; `machine` is called when it is first asked what it is."""

    class Watched(scripted.ScriptedDevice):
        def machine(self) -> Any:
            machine()
            return super().machine()

    found = Watched()
    found.name = name
    return found


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        (lab(a="local", b="ssh://u@one", c="ssh://u@two"), (("a",), ("b",), ("c",))),
        (lab(a="local", b="local"), (("a", "b"),)),
        (lab(a="ssh://u@one:22", b="ssh://v@ONE:2222", c="local"), (("a", "b"), ("c",))),
        (lab(a="ssh://u@localhost", b="local", c="ssh://u@[::1]:2222"), (("a", "b", "c"),)),
    ],
    ids=["all different", "twice here", "two ports of a host", "loopback"],
)
def test_devices_are_one_machine_where_their_addresses_lead_to_it(
    devices: dict[str, LabDevice], expected: tuple[tuple[str, ...], ...]
) -> None:
    assert machines(devices) == expected


def test_a_host_behind_another_gateway_is_another_machine() -> None:
    behind = LabDevice("b", "ssh://u@10.0.0.2", jump="gateway")
    local = LabDevice("c", "ssh://u@localhost", jump="gateway")
    plain = LabDevice("a", "ssh://u@10.0.0.2")
    assert machines({"a": plain, "b": behind, "c": local}) == (("a",), ("b",), ("c",))


def test_all_machines_are_at_work_together(verified: Verified, scripted: ModuleType) -> None:
    together = threading.Barrier(3, timeout=60)
    devices = lab(a="local", b="ssh://u@one", c="ssh://u@two")

    found = dict(
        validate_lab(verified, devices, lambda name: device(scripted, name, lambda: together.wait() and None))
    )

    assert {name: each.word for name, each in found.items()} == dict.fromkeys("abc", "fits")


def test_devices_of_one_machine_take_turns(verified: Verified, scripted: ModuleType) -> None:
    log: list[str] = []

    def heard(name: str, event: object) -> None:
        log.append(name)

    list(validate_lab(verified, lab(a="local", b="local"), lambda name: device(scripted, name), listen=heard))

    assert log == sorted(log)
    assert set(log) == {"a", "b"}


def test_a_device_without_a_way_to_it_is_unreachable_and_the_others_go_on(
    verified: Verified, scripted: ModuleType
) -> None:
    def cut() -> None:
        raise DeviceLost("Device b cannot be reached.", "Plug it in.")

    def opened(name: str) -> Any:
        return device(scripted, name, cut if name == "b" else lambda: None)

    found = dict(validate_lab(verified, lab(a="local", b="ssh://u@one"), opened))

    assert (found["a"].word, found["b"].word) == ("fits", "unreachable")
    assert not found["b"].reachable
    assert found["a"].seconds > 0
    assert found["a"].began.endswith("+00:00")


def test_what_cannot_be_opened_is_raised(verified: Verified) -> None:
    def opened(name: str) -> Any:
        raise InputError("no such device", "name another")

    with pytest.raises(InputError, match="no such device"):
        list(validate_lab(verified, lab(a="local"), opened))


def test_a_closed_validation_ends_devices_at_their_next_word(
    verified: Verified, scripted: ModuleType
) -> None:
    started, go = threading.Event(), threading.Event()
    told: list[str] = []

    def wait() -> None:
        started.set()
        go.wait(60)

    def opened(name: str) -> Any:
        return device(scripted, name, wait if name == "b" else lambda: started.wait(60) and None)

    validations = validate_lab(
        verified,
        lab(a="local", b="ssh://u@one"),
        opened,
        listen=lambda name, event: told.append(name) if event else None,
    )
    name, _ = next(validations)
    go.set()
    validations.close()

    assert name == "a"
    assert "b" not in told, "it was heard after nobody listened"
    assert not [each for each in threading.enumerate() if each.name == "validation on b"]
