"""`torch.onnx.export` with a memory: what this process has translated before is not translated again.

Tests fit the same networks on other devices, under other budgets and once more after a kill: four in five of
their exports are of a program that was exported before.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.onnx import ONNXProgram

KEPT = 200  # programs of small networks

_known: OrderedDict[str, ONNXProgram] = OrderedDict()
_translate = torch.onnx.export


def export(program: ExportedProgram, **options: Any) -> ONNXProgram | None:
    """As `torch.onnx.export`; the answer is the caller's own, to be changed at will."""
    key = _digest(program, options)
    if key not in _known:
        exported = _translate(program, **options)
        if exported is None:
            return None
        _known[key] = _copy(exported)
    _known.move_to_end(key)
    while len(_known) > KEPT:
        _known.popitem(last=False)
    return _copy(_known[key])


def remember(patch: Callable[[Any, str, Any], None]) -> None:
    """`patch` sets an attribute, as `pytest.MonkeyPatch.setattr` does."""
    patch(torch.onnx, "export", export)


def _copy(exported: ONNXProgram) -> ONNXProgram:
    return ONNXProgram(exported.model.clone(), exported.exported_program)


def _digest(program: ExportedProgram, options: dict[str, Any]) -> str:
    """Of all that a translation reads: operations, shapes, strides and tags, weights and constants."""
    digest = hashlib.sha256(f"{program}{sorted(options.items())}".encode())
    for part in _parts(program):
        digest.update(part)
    return digest.hexdigest()


def _parts(program: ExportedProgram) -> Iterator[bytes]:
    for node in program.graph.nodes:
        value = node.meta.get("val")
        strides = value.stride() if isinstance(value, torch.Tensor) else None
        yield f"{node.name} {node.meta.get('custom')} {strides}".encode()
    for name, value in (*program.state_dict.items(), *program.constants.items()):
        yield f"{name} {type(value).__name__}".encode()
        if isinstance(value, torch.Tensor):
            yield f"{value.dtype} {tuple(value.shape)} {value.stride()} ".encode()
            yield value.detach().contiguous().reshape(-1).view(torch.uint8).numpy(force=True).tobytes()
