"""Pace of a device: a tiny model in a bundle, whose time then and now tells how fast the device is.

`output = relu(... relu(input @ weight) ... @ weight)`, in float32 and a few KiB. Its file is written here,
byte by byte: whoever packs a bundle may have no onnx.
"""

from __future__ import annotations

import numpy as np

from edgeprune.devices import Feeds

_WIDTH, _ROWS, _LAYERS = 32, 256, 32  # 8.4 million multiply-accumulates
_FLOAT, _OPSET, _IR = 1, 17, 8  # as ONNX numbers them


def pace_onnx() -> bytes:
    """The ONNX file of the tiny model; the same bytes each time."""
    weight = np.ones((1, 1))
    while len(weight) < _WIDTH:  # Hadamard's: orthogonal, so no value grows or fades away
        weight = np.kron(weight, [[1.0, 1.0], [1.0, -1.0]]) / np.sqrt(2.0)
    graph, value = b"", "input"
    for layer in range(_LAYERS):
        product, result = f"product_{layer}", "output" if layer == _LAYERS - 1 else f"value_{layer}"
        graph += _bytes(1, _text(1, value) + _text(1, "weight") + _text(2, product) + _text(4, "MatMul"))
        graph += _bytes(1, _text(1, product) + _text(2, result) + _text(4, "Relu"))
        value = result
    tensor = _number(1, _WIDTH) + _number(1, _WIDTH) + _number(2, _FLOAT) + _text(8, "weight")
    graph += _text(2, "pace") + _bytes(5, tensor + _bytes(9, weight.astype("<f4").tobytes()))
    graph += _bytes(11, _value("input")) + _bytes(12, _value("output"))
    return _number(1, _IR) + _bytes(7, graph) + _bytes(8, _text(1, "") + _number(2, _OPSET))


def pace_feeds() -> Feeds:
    """Inputs of one query of the tiny model."""
    return {"input": np.random.default_rng(0).standard_normal((_ROWS, _WIDTH), dtype=np.float32)}


def _value(name: str) -> bytes:
    shape = _bytes(1, _number(1, _ROWS)) + _bytes(1, _number(1, _WIDTH))
    return _text(1, name) + _bytes(2, _bytes(1, _number(1, _FLOAT) + _bytes(2, shape)))


def _bytes(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _text(field: int, text: str) -> bytes:
    return _bytes(field, text.encode())


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
