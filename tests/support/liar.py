"""A device that lies: a program in place of the agent's Python, which speaks frames and lies in one way.

    python liar.py ORDER.json agent.py --serve

ORDER.json: {"do": which request is answered with a lie, "lie": a name of LIES, "with": its argument,
"outputs": the honest answers to `predict`, in order}. Standard library alone, so that it starts in no time.
"""

from __future__ import annotations

import json
import os
import select
import struct
import sys
from collections.abc import Callable
from typing import Any, BinaryIO, NoReturn

MAGIC = b"epr1"
HONEST: dict[str, dict[str, Any]] = {
    "machine": {
        "architecture": "x86_64",
        "processor": "Honest",
        "cores": 2,
        "memory_mib": 2048.0,
        "isa": ["avx2"],
        "system": "test",
        "python": "3.11.0",
        "runtimes": {"onnxruntime": "1.0"},
    },
    "load": {
        "version": "onnxruntime 1.0",
        "inputs": [["pixels", "float32", ["N", 8]]],
        "outputs": [["output", "float32", ["N", 3]]],
    },
    "warm_up": {"runs": 10, "seconds": 0.2},
    "state": {"state": {"loadavg": "0.00 0.00 0.00"}},
    "memory": {"mib": 10.0, "added_mib": 4.0},
    "predict": {},
    "time": {"waiting": {"seconds": 0.0, "cores": 2}},
}
UNCOUNTED = ("threads", "ran_s", "waited_s", "busy_s", "stolen_s", "throttled_s")  # by the honest device
for _name in UNCOUNTED:
    HONEST["time"]["waiting"][_name] = None
TIMES = 64


def frame(header: object, *arrays: tuple[str, str, Any, bytes]) -> bytes:
    """A frame of any header and any arrays (name, dtype, shape, bytes), true or not."""
    if isinstance(header, dict):
        listed = [{"name": name, "dtype": dtype, "shape": shape} for name, dtype, shape, _ in arrays]
        header = {"arrays": listed, **header}
    text = json.dumps(header).encode()
    return MAGIC + struct.pack(">I", len(text)) + text + b"".join(body for *_, body in arrays)


def times(values: list[float]) -> tuple[str, str, Any, bytes]:
    return "ms", "<f8", [len(values)], struct.pack(f"<{len(values)}d", *values)


class Liar:
    """Agent that answers one kind of request with a lie, and all others honestly."""

    def __init__(self, order: dict[str, Any], out: BinaryIO) -> None:
        self.order, self.out = order, out
        self.predicted = 0

    def answer(self, asked: dict[str, Any]) -> None:
        do = asked["do"]
        header, arrays = dict(HONEST[do]), []
        if do == "predict":
            values = self.order["outputs"][self.predicted % len(self.order["outputs"])]
            arrays = [("0", "<f4", [1, len(values)], struct.pack(f"<{len(values)}f", *values))]
            self.predicted += 1
        if do == "time":
            each_ms = max(1e3 * asked["seconds"] / TIMES, 1e-3)
            arrays = [times([each_ms] * max(TIMES, asked["runs"])), ("waited", "<f8", [0], b"")]
        if do != self.order["do"]:
            self.say(frame(header, *arrays))
        else:
            LIES[self.order["lie"]](self, header, arrays, self.order["with"])

    def say(self, data: bytes) -> None:
        self.out.write(data)
        self.out.flush()


def keys(liar: Liar, header: dict[str, Any], arrays: list[Any], changes: Any) -> None:
    """Other values of an honest answer's keys."""
    liar.say(frame({**header, **changes}, *arrays))


def no_key(liar: Liar, header: dict[str, Any], arrays: list[Any], key: Any) -> None:
    del header[key]
    liar.say(frame(header, *arrays))


def array(liar: Liar, header: dict[str, Any], arrays: list[Any], told: Any) -> None:
    """Arrays [[name, dtype, shape, number of bytes sent], ...]."""
    liar.say(frame(header, *[(name, dtype, shape, bytes(size)) for name, dtype, shape, size in told]))


def milliseconds(liar: Liar, header: dict[str, Any], arrays: list[Any], values: Any) -> None:
    liar.say(frame(header, times([float(value) for value in values])))


def doubles(liar: Liar, header: dict[str, Any], arrays: list[Any], values: Any) -> None:
    """One row of outputs in float64."""
    body = struct.pack(f"<{len(values)}d", *map(float, values))
    liar.say(frame(header, ("0", "<f8", [1, len(values)], body)))


def listed(liar: Liar, header: dict[str, Any], arrays: list[Any], told: Any) -> None:
    """The header's own list of arrays, and none of their bytes."""
    liar.say(frame({**header, "arrays": told}))


def raw(liar: Liar, header: dict[str, Any], arrays: list[Any], text: Any) -> None:
    """Any bytes for a header, with the length that they have."""
    data = text.encode("latin-1")
    liar.say(MAGIC + struct.pack(">I", len(data)) + data)


def bare(liar: Liar, header: dict[str, Any], arrays: list[Any], text: Any) -> None:
    liar.say(text.encode("latin-1"))


def deep(liar: Liar, header: dict[str, Any], arrays: list[Any], depth: Any) -> None:
    raw(liar, header, arrays, "[" * depth)


def torn(liar: Liar, header: dict[str, Any], arrays: list[Any], code: Any) -> NoReturn:
    whole = frame(header, *arrays)
    liar.say(whole[: len(whole) // 2])
    leave(code)


def more(liar: Liar, header: dict[str, Any], arrays: list[Any], count: Any) -> None:
    """The answer, and others that nobody asked for."""
    liar.say(frame(header, *arrays) * count)


def endless(liar: Liar, header: dict[str, Any], arrays: list[Any], file: Any) -> NoReturn:
    """Zeros without end, on stdout (1) or stderr (2)."""
    while True:
        os.write(file, bytes(1 << 16))


def drip(liar: Liar, header: dict[str, Any], arrays: list[Any], seconds: Any) -> NoReturn:
    for byte in frame({**header, "long": " " * (1 << 20)}):
        liar.say(bytes([byte]))
        select.select([], [], [], seconds)
    leave(0)


def silent(liar: Liar, header: dict[str, Any], arrays: list[Any], nothing: Any) -> None:
    """No answer, until the host gives up."""


def dead(liar: Liar, header: dict[str, Any], arrays: list[Any], words: Any) -> NoReturn:
    os.write(2, words.encode())
    leave(3)


def leave(code: int) -> NoReturn:
    sys.stdout.flush()
    os._exit(code)


LIES: dict[str, Callable[[Liar, dict[str, Any], list[Any], Any], None]] = {
    each.__name__: each
    for each in (
        *(
            keys,
            no_key,
            array,
            milliseconds,
            doubles,
            listed,
            raw,
            bare,
            deep,
            torn,
            more,
            endless,
            drip,
            silent,
            dead,
        ),
    )
}


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as stream:
        order = json.load(stream)
    liar = Liar(order, sys.stdout.buffer)
    while True:
        start = sys.stdin.buffer.read(8)
        if len(start) < 8:
            return
        asked = json.loads(sys.stdin.buffer.read(struct.unpack(">I", start[4:])[0]))
        for told in asked["arrays"]:
            count = int(told["dtype"][2:])
            for size in told["shape"]:
                count *= size
            sys.stdin.buffer.read(count)
        liar.answer(asked)


if __name__ == "__main__":
    main()
