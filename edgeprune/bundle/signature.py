"""Signatures over a manifest, made and checked by OpenSSH's ssh-keygen.

A signature says nothing by itself but that one key signed these bytes; whose key it is, an
`allowed_signers` file says (man ssh-keygen, ALLOWED SIGNERS).
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from edgeprune.errors import BundleError, InputError, MissingExtraError
from edgeprune.foreign import tame

NAMESPACE = "edgeprune-bundle"


def sign(manifest: bytes, key: Path) -> bytes:
    """Armoured signature by a private key, or by the agent that holds it when `key` is the public one."""
    if not key.is_file():
        raise InputError(f"There is no key {key}.", "Make one: ssh-keygen -t ed25519 -f KEY")
    done = _keygen(["-Y", "sign", "-q", "-f", str(key), "-n", NAMESPACE], manifest)
    if done.returncode or b"BEGIN SSH SIGNATURE" not in done.stdout:
        raise InputError(
            f"ssh-keygen could not sign with {key}: {_words(done)}.",
            "Give a private SSH key, or a public one whose private half ssh-agent holds.",
        )
    return done.stdout


def verify(manifest: bytes, signature: Path, signers: Path | None) -> str:
    """Sentence about the signer of a manifest. Raises `BundleError` (6) when it is nobody in `signers`."""
    if signers is None:
        done = _keygen(["-Y", "check-novalidate", "-n", NAMESPACE, "-s", str(signature)], manifest)
        if done.returncode:
            raise BundleError(6, f"The signature does not match the manifest: {_words(done)}.", _changed())
        return f"{_words(done)}; name the keys you trust with --signers"
    if not signers.is_file():
        raise InputError(f"There is no file {signers}.", "Give a file in ssh's allowed_signers format.")
    refusals = []
    for lines in _signer_lines(signers):
        for name in _principals(lines, signature):
            asked = ["-Y", "verify", "-f", str(lines), "-I", name, "-n", NAMESPACE, "-s", str(signature)]
            done = _keygen(asked, manifest)
            if not done.returncode:
                return _words(done)
            refusals.append(_words(done))
    if not refusals:
        raise BundleError(
            6,
            f"The manifest is signed by a key that {signers} does not list.",
            "Add the key when you trust it, or ask for a bundle signed by one that is listed.",
        )
    raise BundleError(6, f"The signature does not match the manifest: {refusals[0]}.", _changed())


def _signer_lines(signers: Path) -> Iterator[Path]:
    """Files to look a signer up in: the user's own, then one for each of its lines.

    ssh-keygen stops at the first line that lists a key, although that line may allow another purpose only
    (`namespaces=`) and a later one this purpose.
    """
    yield signers
    with tempfile.TemporaryDirectory(prefix="edgeprune-signers-") as folder:
        alone = Path(folder) / "signers"
        for line in signers.read_bytes().splitlines():
            if line.strip() and not line.lstrip().startswith(b"#"):
                alone.write_bytes(line + b"\n")
                yield alone


def _principals(signers: Path, signature: Path) -> list[str]:
    """Names, one a line, of the first line of `signers` that lists the key of a signature."""
    found = _keygen(["-Y", "find-principals", "-f", str(signers), "-s", str(signature)], b"")
    if found.returncode:
        return []
    return [line for line in found.stdout.decode("utf-8", "surrogateescape").splitlines() if line]


def _keygen(arguments: Sequence[str], stdin: bytes) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(["ssh-keygen", *arguments], input=stdin, capture_output=True, check=False)
    except FileNotFoundError as error:
        raise MissingExtraError(
            "ssh-keygen is not installed, so signatures can be neither made nor checked.",
            "Install OpenSSH's client, e.g. apt-get install openssh-client",
        ) from error


def _words(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = (done.stderr + done.stdout).decode("utf-8", "replace").strip().splitlines()
    return tame(lines[-1].rstrip(".\r")) if lines else f"exit code {done.returncode}"


def _changed() -> str:
    return "The bundle was changed after it was signed: get it again from whoever signed it."
