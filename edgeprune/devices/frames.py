"""Frames, the messages between an edgeprune host and the agent on a device; both ends use this file.

A frame is 4 bytes of magic, the header's length (unsigned 32 bit, big endian), the header (JSON, UTF-8)
and the bytes of the arrays that the header lists under "arrays": [{name, dtype, shape}], in C order.

Standard library and numpy; Python 3.8; nothing of edgeprune.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

MAGIC = b"epr1"
MAX_HEADER = 1 << 24  # bytes; more than that is not one of our frames


class NotAFrame(Exception):
    """The stream holds no frame; `seen` are its first bytes."""

    def __init__(self, seen: bytes) -> None:
        super().__init__(f"not a frame: {seen!r}")
        self.seen = seen


def encode(header: Mapping[str, Any], arrays: Mapping[str, Any]) -> list[Any]:
    """One frame as a list of buffers to be written in order."""
    solid: dict[str, Any] = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    listed = [{"name": n, "dtype": a.dtype.str, "shape": list(np.shape(arrays[n]))} for n, a in solid.items()]
    text = json.dumps(dict(header, arrays=listed)).encode("utf-8")
    bodies = [memoryview(a.reshape(-1)).cast("B") for a in solid.values() if a.size]
    return [MAGIC + struct.pack(">I", len(text)) + text, *bodies]


def decode(read: Any) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The header and arrays of the next frame; `read(n)` gives exactly n bytes, or fewer at the end.

    None when the stream ends before a frame begins. Raises `NotAFrame`, and EOFError inside a frame.
    """
    start = read(8)
    if not start:
        return None
    if len(start) == 8 and start[:4] == MAGIC:
        (length,) = struct.unpack(">I", start[4:])
    if len(start) < 8 or start[:4] != MAGIC or length > MAX_HEADER:
        raise NotAFrame(start)
    header = json.loads(_exactly(read, length).decode("utf-8"))
    arrays = {}
    for item in header.pop("arrays"):
        dtype = np.dtype(item["dtype"])
        size = dtype.itemsize * int(np.prod(item["shape"], dtype=np.int64))
        arrays[item["name"]] = np.frombuffer(_exactly(read, size), dtype).reshape(item["shape"])
    return header, arrays


def _exactly(read: Any, size: int) -> Any:
    data = read(size) if size else b""
    if len(data) < size:
        raise EOFError(f"the stream ended inside a frame: {len(data)} of {size} bytes")
    return data
