"""Addresses of devices over SSH: ssh://user@host:port, and the hosts that `jump` names.

They are words of an ssh command line. Only letters, digits and a few signs are let through; whatever else a
host or user is called belongs into the user's ssh configuration, under an alias.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from edgeprune.errors import InputError

_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,63}")
_ZONE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,15}")
_PORT = re.compile(r"[0-9]{1,5}")
MOST_JUMPS = 8


@dataclass(frozen=True)
class SshAddress:
    """The parts of ssh://user@host:port; a part that is None is left to the user's ssh configuration."""

    host: str
    user: str | None
    port: int | None


def parse_ssh(address: str) -> SshAddress:
    """The parts of ssh://user@host:port, IPv6 in brackets. Raises `InputError` naming the fault."""
    scheme, mark, rest = address.partition("://")
    if scheme.lower() != "ssh" or not mark:
        raise _bad(address, "it does not begin with ssh://")
    return _parts(rest.removesuffix("/"), address)


def check_jump(jump: str) -> None:
    """Raise `InputError` for what is not a jump host, or several with commas, as `ssh -J` takes them."""
    hops = jump.split(",")
    if len(hops) > MOST_JUMPS:
        raise _bad(jump, f"it has more than {MOST_JUMPS} jump hosts")
    for hop in hops:
        if hop[:6].lower() == "ssh://":
            parse_ssh(hop)
        else:
            _parts(hop, jump)


def _parts(text: str, address: str) -> SshAddress:
    user, at, place = text.rpartition("@")
    if at and ":" in user:
        raise _bad(address, "it carries a password")
    if place.startswith("["):
        host, mark, port = place[1:].partition("]")
        _check_ipv6(host, address)
        if not mark or (port and not port.startswith(":")):
            raise _bad(address, "something follows the host" if mark else "a bracket is not closed")
    else:
        host, _, port = place.partition(":")
        if ":" in port:
            raise _bad(address, "an IPv6 address needs brackets")
        _check_host(host, address)
        port = place[len(host) :]
    if at and not _USER.fullmatch(user):
        raise _bad(address, _why("user", user))
    return SshAddress(host, user if at else None, _port(port[1:], address) if port else None)


def _check_host(host: str, address: str) -> None:
    if not host:
        raise _bad(address, "it has no host")
    if any(sign in host for sign in "/?#"):
        raise _bad(address, "something follows the host")
    if not _HOST.fullmatch(host):
        raise _bad(address, _why("host", host))


def _check_ipv6(host: str, address: str) -> None:
    number, mark, zone = host.partition("%")
    try:
        ipaddress.IPv6Address(number)
    except ValueError as error:
        raise _bad(address, f"{number!r} is no IPv6 address") from error
    if mark and not _ZONE.fullmatch(zone):
        raise _bad(address, _why("zone", zone))


def _port(text: str, address: str) -> int:
    if not _PORT.fullmatch(text) or not 1 <= int(text) <= 65535:
        raise _bad(address, f"its port is {text!r}, not a number from 1 to 65535")
    return int(text)


def _why(part: str, word: str) -> str:
    if word.startswith("-"):  # ssh would read it as an option
        return f"its {part} begins with a dash"
    return f"its {part} {word!r} is empty, too long, or holds other than letters, digits and .-_"


def _bad(address: str, why: str) -> InputError:
    return InputError(
        f"{address!r} is not the address of a device: {why}.",
        "Write ssh://user@host:port; keys, aliases and jump hosts come from your ssh configuration.",
    )
