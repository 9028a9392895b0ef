"""An address is never more than an address: no word of it can be an option or a command."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.devices import open_device
from edgeprune.devices.address import SshAddress, check_jump, parse_ssh
from edgeprune.errors import InputError


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("ssh://board", SshAddress("board", None, None)),
        ("SSH://me@board/", SshAddress("board", "me", None)),
        ("Ssh://Bench", SshAddress("Bench", None, None)),  # an alias of ssh_config keeps its capitals
        ("ssh://me@10.0.0.7:2222", SshAddress("10.0.0.7", "me", 2222)),
        ("ssh://me@[fe80::1]:22", SshAddress("fe80::1", "me", 22)),
        ("ssh://[fe80::1%eth0]", SshAddress("fe80::1%eth0", None, None)),
        ("ssh://me@corp.example@board", SshAddress("board", "me@corp.example", None)),
    ],
)
def test_an_address_is_split_into_host_user_and_port(address: str, parts: SshAddress) -> None:
    assert parse_ssh(address) == parts


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("ssh://", "it has no host"),
        ("ssh://me@", "it has no host"),
        ("ssh://me:secret@board", "it carries a password"),
        ("ssh://board/some/path", "something follows the host"),
        ("ssh://board?x", "something follows the host"),
        ("ssh://[::1]x", "something follows the host"),
        ("ssh://-oProxyCommand=touch", "its host begins with a dash"),
        ("ssh://-l@board", "its user begins with a dash"),
        ("ssh://@board", "its user '' is empty"),
        ("ssh://board:port", "its port is 'port', not a number from 1 to 65535"),
        ("ssh://board:", "its port is ''"),
        ("ssh://board:0", "its port is '0'"),
        ("ssh://board:65536", "its port is '65536'"),
        ("ssh://board:\u0662\u0662", "its port is "),
        ("ssh://fe80::1", "an IPv6 address needs brackets"),
        ("ssh://[fe80::1", "a bracket is not closed"),
        ("ssh://[board]", "'board' is no IPv6 address"),
        ("ssh://[fe80::1%-x]", "its zone begins with a dash"),
        ("ssh://bo ard", "its host 'bo ard'"),
        ("ssh://board\n", r"its host 'board\\n'"),
        ("ssh://bo\x1b[2Jard", "its host "),
        ("ssh://$(reboot)", r"its host '\$\(reboot\)'"),
        ("ssh://me;id@board", "its user 'me;id'"),
        ("ssh://`id`@board", "its user '`id`'"),
        ("ssh://b\u00f6ard", "its host "),
        ("ssh://" + "a" * 254, "is empty, too long"),
    ],
)
def test_what_is_not_an_address_is_refused_with_the_reason(address: str, why: str) -> None:
    with pytest.raises(InputError, match=why) as refused:
        open_device(address)
    assert repr(address) in refused.value.what


@given(st.text(st.characters(codec="utf-8"), max_size=20))
def test_no_text_gives_a_part_that_a_shell_or_ssh_could_read_otherwise(text: str) -> None:
    try:
        parts = parse_ssh(f"ssh://{text}")
    except InputError:
        return
    for word in filter(None, (parts.host, parts.user)):
        assert not word.startswith("-")
        assert word.isascii()
        assert not set(word) & set(" \t\n;&|<>$`'\"\\\\*?#~=(){}!,/")


@pytest.mark.parametrize(
    "jump", ["gate", "me@gate:22", "me@gate,[fe80::1]:2222", "ssh://me@gate:22", "SSH://gate,second"]
)
def test_jump_takes_what_ssh_takes(jump: str) -> None:
    check_jump(jump)
