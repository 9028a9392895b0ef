"""lab.toml is read strictly, and an address is never more than an address."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from edgeprune.devices import TABLE, LabDevice, open_device
from edgeprune.devices.lab import SCHEMES, find_device, load_lab
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


def _ssh(line: str) -> str:
    return f'[devices.a]\naddress = "ssh://x"\n{line}'


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
    "address without a scheme": Refused('[devices.a]\naddress = "board"', "does not begin with ssh://"),
    "local with more": Refused('[devices.a]\naddress = "local://x"', "does not begin with ssh://"),
    "blank name": Refused('[devices." "]\naddress = "local"', "calls a device ' '"),
    "name that moves the cursor": Refused('[devices."a\\u001b[2J"]\naddress = "local"', "calls a device "),
    "option as jump": Refused(_ssh('jump = "-oProxyCommand=x"'), "its host begins with a dash"),
    "command as jump": Refused(_ssh('jump = "gate;reboot"'), "its host 'gate;reboot' is empty, too long"),
    "empty hop": Refused(_ssh('jump = "gate,,gate"'), "it has no host"),
    "jumps without end": Refused(_ssh(f'jump = "{",".join("abcdefghi")}"'), "more than 8 jump hosts"),
    "option as python": Refused(_ssh('python = "-c"'), "'-c' is no path"),
    "control character in python": Refused(_ssh('python = "py\\u0007"'), "is no path"),
    "home of the host as workdir": Refused(_ssh('workdir = "~/data"'), "begins with '~'"),
    "variable as workdir": Refused(_ssh('workdir = "$HOME/data"'), "begins with '$'"),
    "option as workdir": Refused(_ssh('workdir = "-p"'), "'-p' is no path"),
    "newline in workdir": Refused(_ssh('workdir = "a\\nb"'), "is no path"),
    "home itself as workdir": Refused(_ssh('workdir = "./"'), "is none of edgeprune's own"),
    "root as workdir": Refused(_ssh('workdir = "/"'), "is none of edgeprune's own"),
    "upwards as workdir": Refused(_ssh('workdir = "a/../../b"'), "is none of edgeprune's own"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_a_file_that_is_not_exactly_a_lab_is_refused(case: Refused, tmp_path: Path) -> None:
    path = tmp_path / "lab.toml"
    path.write_text(case.content)
    with pytest.raises(InputError) as caught:
        load_lab(path)
    assert str(path) in caught.value.what
    assert case.what in f"{caught.value.what} {caught.value.hint}"


@pytest.mark.parametrize("word", ["", " ", "\t"])
def test_a_blank_names_no_device(word: str, lab: Path) -> None:
    for file in (None, lab):
        with pytest.raises(InputError, match="names no device"):
            open_device(word, lab=file)


def test_every_scheme_of_an_address_has_a_transport() -> None:
    assert set(SCHEMES) == set(TABLE)
