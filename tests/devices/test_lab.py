"""lab.toml is read strictly, and an address is never more than an address."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from edgeprune.devices import TABLE, LabDevice, open_device
from edgeprune.devices.lab import SCHEMES, SshAddress, find_device, load_lab, parse_ssh
from edgeprune.errors import InputError

FULL = """
[devices.bench]
address = "ssh://me@bench.local:2222"
profile = "raspberry-pi-5"
python = "/opt/venv/bin/python"
workdir = "/data/edgeprune"
ssh_config = "ssh_config"
jump = "me@gateway"
exclusive = true

[devices.here]
address = "local"
"""


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    (tmp_path / "ssh_config").touch()
    (tmp_path / "lab.toml").write_text(FULL)
    return tmp_path / "lab.toml"


def test_every_key_is_read_and_every_other_has_a_default(lab: Path) -> None:
    devices = load_lab(lab)
    assert list(devices) == ["bench", "here"]
    assert devices["bench"] == LabDevice(
        name="bench",
        address="ssh://me@bench.local:2222",
        profile="raspberry-pi-5",
        python="/opt/venv/bin/python",
        workdir="/data/edgeprune",
        ssh_config=lab.parent / "ssh_config",
        jump="me@gateway",
        exclusive=True,
    )
    assert devices["here"] == LabDevice("here", "local")


def test_a_name_of_the_lab_wins_and_an_address_needs_no_lab(lab: Path) -> None:
    assert find_device("bench", lab).jump == "me@gateway"
    assert find_device("ssh://other", lab) == LabDevice("ssh://other", "ssh://other")
    assert open_device("here", lab=lab).name == "local"


def test_an_unknown_name_is_refused_with_the_nearest(lab: Path) -> None:
    with pytest.raises(InputError, match="no device 'bensh' in ") as caught:
        open_device("bensh", lab=lab)
    assert 'Did you mean "bench"?' in caught.value.hint


@dataclass(frozen=True)
class Refused:
    content: str
    what: str


REFUSED = {
    "unknown key": Refused(
        '[devices.a]\naddress = "local"\npyton = "x"', "devices.a.pyton is not a known key"
    ),
    "unknown table": Refused('[device.a]\naddress = "local"', "device is not a known key"),
    "no address": Refused("[devices.a]", "devices.a.address is missing"),
    "other scheme": Refused('[devices.a]\naddress = "ftp://x"', 'devices.a.address is "ftp://x"'),
    "wrong type": Refused('[devices.a]\naddress = "local"\nexclusive = 1', "devices.a.exclusive is 1"),
    "no such config": Refused(
        '[devices.a]\naddress = "ssh://x"\nssh_config = "absent"', "devices.a.ssh_config names "
    ),
    "empty": Refused("", "names no device"),
    "not TOML": Refused("[devices", "is not TOML"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_a_file_that_is_not_exactly_a_lab_is_refused(case: Refused, tmp_path: Path) -> None:
    path = tmp_path / "lab.toml"
    path.write_text(case.content)
    with pytest.raises(InputError) as caught:
        load_lab(path)
    assert str(path) in caught.value.what
    assert case.what in caught.value.what


def test_an_address_is_split_into_host_user_and_port() -> None:
    assert parse_ssh("ssh://board") == SshAddress("board", None, None)
    assert parse_ssh("ssh://me@10.0.0.7:2222") == SshAddress("10.0.0.7", "me", 2222)
    assert parse_ssh("ssh://me@[fe80::1]:22") == SshAddress("fe80::1", "me", 22)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("ssh://", "it has no host"),
        ("ssh://me:secret@board", "it carries a password"),
        ("ssh://board/some/path", "something follows the host"),
        ("ssh://-oProxyCommand=touch", "cannot begin with a dash"),
        ("ssh://-l@board", "cannot begin with a dash"),
        ("ssh://board:port", "Port could not be cast"),
    ],
)
def test_what_is_not_an_address_is_refused_with_the_reason(address: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        open_device(address)


def test_every_scheme_of_an_address_has_a_transport() -> None:
    assert set(SCHEMES) == set(TABLE)
