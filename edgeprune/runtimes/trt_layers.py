"""Types that a TensorRT engine computes in, layer by layer, read from TensorRT's log or inspector.

Standard library; Python 3.8; nothing of edgeprune. A layer of an engine is a dict: name, type (the kind of
kernel), onnx (the nodes that it was made of), inputs, constants, outputs (each a list of {type, shape}); a
type is "Int8", "Half", "Float", or "" where it is not told.

What runs in which type comes from the engine inspector where a GPU can load the engine; without one from the
detailed build log, whose text is undocumented: it is read for the versions in LOG_VERSIONS only.
"""

from __future__ import annotations

import json
import re
from typing import Any

LOG_VERSIONS = ("1.7",)  # of TensorRT for RTX
WEIGHT = ".weight.dequantize"  # how edgeprune ends the name of the node in front of a layer's INT8 weight
_MULTIPLYING = ("conv", "correlation", "gemm", "matrix", "matmul")  # parts of engine layers' kinds
# TensorRT 10 tells type and layout of a tensor in one text, TensorRT 11 apart; fused layers say Datatype.
_TYPE_KEYS = ("DataType", "Datatype", "Format/Datatype", "Format/DataType")
_TYPES = (
    (re.compile(r"(?<!u)int8", re.IGNORECASE), "Int8"),
    (re.compile(r"fp16|half", re.IGNORECASE), "Half"),
    (re.compile(r"fp32|(?<!b)float(?!\d)|float32", re.IGNORECASE), "Float"),
)
_LAYER = re.compile(
    r"^Name: (?P<name>.*?), LayerType: (?P<type>[^,]*), Inputs: \[(?P<inputs>.*?)\], "
    r"Constants: \[(?P<constants>.*?)\], Outputs: \[(?P<outputs>.*?)\], TacticName: ",
)
_TENSOR = re.compile(r"Dimensions: \[(?P<shape>[\d,]*)\].*?Datatype: (?P<type>\w+)")
_ONNX = re.compile(r"\[ONNX Layer: ([^\]]+)\]")


def check(layers: list[dict[str, Any]], wanted: list[str]) -> dict[str, list[str]]:
    """Layers that are INT8 in the file, sorted by what the engine made of them: INT8, float, or unread."""
    found: dict[str, list[str]] = {"int8": [], "not_int8": [], "unread": []}
    for name in wanted:
        names = (name + WEIGHT, name)
        own = [layer for layer in layers if set(names) & set(layer["onnx"]) and _multiplies(layer)]
        states = {_integers(layer) for layer in own}
        if True in states:
            found["int8"].append(name)
        elif states == {False}:
            found["not_int8"].append(name)
        else:
            found["unread"].append(name)
    return found


def read_log(lines: list[str], version: str) -> list[dict[str, Any]]:
    """The layers that a detailed build log lists. Raises ValueError when it is not known how to read it."""
    if not version.startswith(LOG_VERSIONS):
        raise ValueError(f"the build log of version {version} is not known; it may say something else")
    found = []
    for line in lines:
        match = _LAYER.match(line)
        if match:
            tensors = {part: _logged(match.group(part)) for part in ("inputs", "constants", "outputs")}
            onnx = _ONNX.findall(line)
            found.append(dict(tensors, name=match.group("name"), type=match.group("type"), onnx=onnx))
    if not found:
        raise ValueError("the build log names no layer")
    return found


def read_inspector(text: str) -> list[dict[str, Any]]:
    """The layers of the engine inspector's JSON. Raises ValueError when they cannot be read."""
    try:
        told = json.loads(text)
        layers = told["Layers"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"the engine inspector's answer cannot be read: {text[:120]!r} ({type(error).__name__})"
        ) from error
    if not layers:
        raise ValueError("the engine inspector names no layer")
    return [_inspected(layer) for layer in layers]


def _multiplies(layer: dict[str, Any]) -> bool:
    return any(word in layer["type"].lower() for word in _MULTIPLYING)


def _integers(layer: dict[str, Any]) -> bool | None:
    """Whether a layer multiplies integers; None when its types are not told."""
    types = [tensor["type"] for tensor in (*layer["inputs"][:1], *layer["constants"][:1])]
    if len(types) < 2 or "" in types:
        return None
    return types == ["Int8", "Int8"]


def _logged(text: str) -> list[dict[str, Any]]:
    return [
        {"type": match.group("type"), "shape": [int(n) for n in match.group("shape").split(",") if n]}
        for match in _TENSOR.finditer(text)
    ]


def _inspected(layer: Any) -> dict[str, Any]:
    """A layer of the inspector. Raises ValueError when it holds no more than a name."""
    if not isinstance(layer, dict):
        raise ValueError(f"the engine inspector tells no more of a layer than its name: {layer!r}")
    weights = layer.get("Weights")
    stored = [{"type": _type(str(weights.get("Type", ""))), "shape": []}] if isinstance(weights, dict) else []
    names = _ONNX.findall(layer.get("Metadata", "")) or str(layer.get("Name", "")).split(" + ")
    return {
        "name": layer.get("Name", ""),
        "type": layer.get("LayerType", ""),
        "onnx": names,
        "inputs": _tensors(layer, "Inputs"),
        "constants": stored or _tensors(layer, "Constants"),
        "outputs": _tensors(layer, "Outputs"),
    }


def _tensors(layer: dict[str, Any], part: str) -> list[dict[str, Any]]:
    found = []
    for tensor in layer.get(part, []):
        told = next((str(tensor[key]) for key in _TYPE_KEYS if key in tensor), "")
        found.append({"type": _type(told), "shape": tensor.get("Dimensions", [])})
    return found


def _type(text: str) -> str:
    """Type that a format names: `Thirty-two wide channel vectorized ... Int8 format` -> `Int8`; else ""."""
    return next((name for pattern, name in _TYPES if pattern.search(text)), "")
