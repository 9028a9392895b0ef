"""TOML that nobody wrote by hand ends with one sentence that names the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeprune.errors import InputError
from edgeprune.toml import LARGEST_FILE, Table

REFUSED = {
    "arrays in arrays": (b"a = " + b"[" * 500 + b"]" * 500, "more than 16 deep"),
    "arrays without end": (b"a = " + b"[" * 100_000, "more than 16 deep"),
    "tables in tables": (b"a = " + b"{a = " * 500 + b"1" + b"}" * 500, "more than 16 deep"),
    "a dotted key": (b".".join([b"a"] * 5_000) + b" = 1", "more than 16 deep"),
    "a header": (b"[" + b".".join([b"a"] * 5_000) + b"]", "more than 16 deep"),
    "latin 1": (b"a = 'caf\xe9'", "is not UTF-8: invalid continuation byte at byte 8"),
    "UTF-16": ("a = 1".encode("utf-16"), "is not UTF-8"),
    "a surrogate": (b"a = '\xed\xa0\x80'", "is not UTF-8"),
    "a zero": (b"a = '\0'", "is not TOML"),
    "too large": (b"#" * (LARGEST_FILE + 1), "is larger than 1 MiB"),
    "a number of 5,000 digits": (b"a = " + b"9" * 5_000, "is not TOML"),
    "a number of 5,000 hexadecimal digits": (b"a = 0x" + b"f" * 5_000, "beyond 64 bits"),
    "a number beyond floats": (b"a = 1" + b"0" * 400, "beyond 64 bits"),
}


@pytest.mark.parametrize(("content", "says"), REFUSED.values(), ids=REFUSED)
def test_a_strange_file_is_refused_in_a_sentence(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "lab.toml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=says) as refused:
        Table.read(path)
    assert str(path) in refused.value.what
    assert len(refused.value.what) < 500


def test_an_endless_device_is_not_read_to_its_end() -> None:
    with pytest.raises(InputError, match="is larger than 1 MiB"):
        Table.read(Path("/dev/zero"))


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    path = tmp_path / "lab.toml"
    path.write_bytes(b"\xef\xbb\xbfname = 'x'\r\n")
    assert Table.read(path).text("name") == "x"


def test_a_refusal_repeats_no_control_characters_and_no_novel(tmp_path: Path) -> None:
    path = tmp_path / "lab.toml"
    path.write_text('name = "\\u001b[2J' + "x" * 10_000 + '"')
    with pytest.raises(InputError) as refused:
        Table.read(path).text("name", among=("one",))
    assert refused.value.what.isprintable()
    assert len(refused.value.what) < 500
