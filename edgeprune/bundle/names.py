"""Names in a manifest: each follows its pattern and length before anything is done or printed with it.

Some are words that edgeprune itself chose (a candidate, a runtime). Others come from the maker's folders and
files (model, target, profile) and may be in any language: they are one line with nothing to tame in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from edgeprune.foreign import is_tame, tame
from edgeprune.records.bundle import Manifest

MOST_NAME = 300  # characters; file systems allow 255 bytes
MOST_PORTS = 1024

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
_DEVICE = re.compile(r"[A-Za-z0-9](?!.*::)[A-Za-z0-9._:,()-]{0,99}")  # "CPU", "GPU.1", "HETERO:GPU,CPU"
_TIME = re.compile(r"[0-9][0-9T:.+Z-]{0,39}")


def wrong_names(manifest: Manifest) -> Iterator[str]:
    """A phrase about each name in a manifest that is not one."""
    for key in ("edgeprune", "candidate", "runtime"):
        if not _WORD.fullmatch(getattr(manifest, key)):
            yield _said(key, getattr(manifest, key), "a word of at most 100 letters, digits and . _ + -")
    for key, text, pattern in (("device", manifest.device, _DEVICE), ("created", manifest.created, _TIME)):
        if not pattern.fullmatch(text):
            yield _said(key, text, "as edgeprune writes it")
    named = {key: getattr(manifest, key) for key in ("model", "target", "profile")}
    for key, ports in (("inputs", manifest.inputs), ("outputs", manifest.outputs)):
        if len(ports) > MOST_PORTS:
            yield f"{key} are {len(ports)}, of which {MOST_PORTS} are allowed"
        named |= {f"{key}[{at}].name": port.name for at, port in enumerate(ports)}
    for key, text in named.items():
        if not is_tame(text, MOST_NAME):
            yield _said(key, text, f"one plain line of at most {MOST_NAME} characters")


def _said(key: str, text: str, expected: str) -> str:
    return f'{key} is "{tame(text, 60)}", not {expected}'
