"""Frames, the messages between an edgeprune host and the agent on a device; both ends use this file.

A frame is 4 bytes of magic, the header's length (unsigned 32 bit, big endian), the header (JSON, UTF-8)
and the bytes of the arrays that the header lists under "arrays": [{name, dtype, shape}], in C order.

Standard library and numpy; Python 3.8; nothing of edgeprune.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

MAGIC = b"epr1"
MAX_HEADER = 1 << 22  # bytes; more than that is not one of our frames
MAX_BODY = 1 << 36  # bytes of all arrays, where the reader knows no closer limit
MAX_ARRAYS = 4096
MAX_DIMENSIONS = 32  # numpy's own limit is 64, of earlier versions 32
DTYPE = re.compile(r"[<>|=]?[biufc][0-9]{1,2}")  # numbers alone: nothing that numpy would unpickle


class NotAFrame(Exception):
    """Bytes that are no frame; `seen` are the first of those that do not even begin like one."""

    def __init__(self, why: str, seen: bytes = b"") -> None:
        super().__init__(why)
        self.seen = seen


def encode(header: Mapping[str, Any], arrays: Mapping[str, Any]) -> list[Any]:
    """One frame as a list of buffers to be written in order."""
    solid: dict[str, Any] = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    listed = [{"name": n, "dtype": a.dtype.str, "shape": list(np.shape(arrays[n]))} for n, a in solid.items()]
    text = json.dumps(dict(header, arrays=listed)).encode("utf-8")
    bodies = [memoryview(a.reshape(-1)).cast("B") for a in solid.values() if a.size]
    return [MAGIC + struct.pack(">I", len(text)) + text, *bodies]


def decode(read: Any, most: int = MAX_BODY) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The header and arrays of the next frame; `read(n)` gives exactly n bytes, or fewer at the end.

    most: bytes of all arrays together; nothing is read or taken before they are known to be no more.
    None when the stream ends before a frame begins. Raises `NotAFrame`, and EOFError inside a frame;
    nothing else, whatever comes.
    """
    start = read(8)
    if not start:
        return None
    length = struct.unpack(">I", start[4:])[0] if len(start) == 8 and start[:4] == MAGIC else None
    if length is None or length > MAX_HEADER:
        raise NotAFrame(f"not a frame: {start!r}", start)
    header = _header(_exactly(read, length))
    listed = header.pop("arrays", None)
    if not isinstance(listed, list) or len(listed) > MAX_ARRAYS:
        raise NotAFrame(f"its list of arrays is missing, no list, or longer than {MAX_ARRAYS}")
    plans: dict[str, Any] = {}
    for at, item in enumerate(listed):
        name, dtype, shape = _plan(at, item)
        if name in plans:
            raise NotAFrame(f"arrays[{at}].name is there twice")
        plans[name] = (dtype, shape, dtype.itemsize * _product(shape))
    total = sum(size for _, _, size in plans.values())
    if total > most:
        raise NotAFrame(f"its arrays have {total} bytes, where {most} are due at most")
    arrays = {}
    for name, (dtype, shape, size) in plans.items():
        data = _exactly(read, size)
        try:
            arrays[name] = np.frombuffer(data, dtype).reshape(shape)
        except ValueError as error:  # a dimension of 0 beside those that no memory could hold
            raise NotAFrame(f"an array has a shape that cannot be: {error}") from error
    return header, arrays


def _header(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise NotAFrame(f"its header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise NotAFrame("its header is no object")
    return header


def _plan(at: int, item: Any) -> tuple[str, Any, list[int]]:
    """Name, dtype and shape of a listed array."""
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        raise NotAFrame(f"arrays[{at}] has no name")
    told, shape = item.get("dtype"), item.get("shape")
    if not isinstance(told, str) or not DTYPE.fullmatch(told):
        raise NotAFrame(f"arrays[{at}].dtype is no dtype of numbers")
    try:
        dtype = np.dtype(told)
    except TypeError as error:
        raise NotAFrame(f"arrays[{at}].dtype is no dtype of numbers") from error
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS:
        raise NotAFrame(f"arrays[{at}].shape is no list of {MAX_DIMENSIONS} sizes at most")
    for size in shape:
        if type(size) is not int or size < 0:
            raise NotAFrame(f"arrays[{at}].shape holds what is no size")
    return item["name"], dtype, shape


def _product(shape: list[int]) -> int:
    count = 1
    for size in shape:
        count *= size  # of Python's integers, which do not wrap
    return count


def _exactly(read: Any, size: int) -> Any:
    data = read(size) if size else b""
    if len(data) < size:
        raise EOFError(f"the stream ended inside a frame: {len(data)} of {size} bytes")
    return data
