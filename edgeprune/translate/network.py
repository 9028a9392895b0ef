"""Torch module of an ONNX file: its operators as torch operations, its weights as parameters."""

from __future__ import annotations

import inspect
import keyword
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from numpy.typing import NDArray

from edgeprune.foreign import tame
from edgeprune.graph import onnxfile
from edgeprune.graph.onnx_operator import LinearSizes
from edgeprune.translate.calls import Call, Untranslated
from edgeprune.translate.operators import TABLE


class NotTranslated(Exception):
    """An operator of a file has no translation. Its text names the operator and says why."""

    def __init__(self, node: onnx.NodeProto, reason: str) -> None:
        super().__init__(f"operator {onnxfile.called(node)} is not translated: {reason}")
        self.node = node


@dataclass(frozen=True)
class StoredTensor:
    """Qualified name of a parameter or buffer that a step reads."""

    name: str


@dataclass(frozen=True)
class NetworkStep:
    """One operator of a network.

    inputs: of each place a value's name, a stored tensor, a constant, sizes of the batch, or None for one
    that is left out. op: the row of `TABLE`.
    """

    op: str
    call: Call
    inputs: tuple[str | StoredTensor | list[Any] | NDArray[Any] | LinearSizes | None, ...]
    outputs: tuple[str, ...]
    node: onnx.NodeProto


class Network(torch.nn.Module):
    """Operators of a file as a module, called with the inputs by position or by `identifiers` of their names.

    It returns a tensor, or of several outputs a dict by the file's names.
    """

    def __init__(self, inputs: Sequence[str], outputs: Sequence[str], steps: Sequence[NetworkStep]) -> None:
        super().__init__()
        self.inputs, self.outputs, self.steps = tuple(inputs), tuple(outputs), tuple(steps)
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        signature = inspect.Signature([inspect.Parameter(name, kind) for name in identifiers(inputs)])
        answer = self._answer

        def forward(*args: Any, **kwargs: Any) -> Any:
            return answer(*signature.bind(*args, **kwargs).args)

        forward.__signature__ = signature  # type: ignore[attr-defined]
        self.forward = forward

    def _answer(self, *inputs: torch.Tensor) -> Any:
        values = self.values(*inputs)
        if len(self.outputs) == 1:
            return values[self.outputs[0]]
        return {name: values[name] for name in self.outputs}

    def values(self, *inputs: torch.Tensor) -> dict[str, Any]:
        """Every value of the file by name. Raises `NotTranslated`."""
        values: dict[str, Any] = dict(zip(self.inputs, inputs, strict=True))
        stored = dict(self.named_parameters()) | dict(self.named_buffers())
        for step in self.steps:
            given = [_read(each, values, stored, inputs[0].shape[0]) for each in step.inputs]
            try:
                found = TABLE[step.op].function(step.call, *given)
            except Untranslated as error:
                raise NotTranslated(step.node, str(error)) from error
            except Exception as error:  # torch's errors share no base but Exception
                raise NotTranslated(step.node, f"torch does not compute it, {tame(str(error))}") from error
            values.update(zip(step.outputs, found if isinstance(found, tuple) else (found,), strict=False))
        return values

    def place(self, name: str, tensor: torch.Tensor) -> None:
        """Register a tensor under its qualified name, a parameter as one."""
        owner: torch.nn.Module = self
        *path, leaf = name.split(".")
        for part in path:
            if part not in owner._modules:
                owner.add_module(part, torch.nn.Module())
            owner = owner.get_submodule(part)
        if isinstance(tensor, torch.nn.Parameter):
            owner.register_parameter(leaf, tensor)
        else:
            owner.register_buffer(leaf, tensor)


def _read(each: Any, values: Mapping[str, Any], stored: Mapping[str, torch.Tensor], batch: Any) -> Any:
    if isinstance(each, StoredTensor):
        return stored[each.name]
    if isinstance(each, LinearSizes):
        return each.at(batch)
    return values[each] if isinstance(each, str) else each


def identifiers(names: Iterable[str]) -> list[str]:
    """Names as parameters of a function can have them: "pixel.values" is pixel_values."""
    found: list[str] = []
    for name in names:
        plain = re.sub(r"\W", "_", name)
        plain = f"input_{plain}" if not plain or plain[0].isdigit() or keyword.iskeyword(plain) else plain
        while plain in found:
            plain += "_"
        found.append(plain)
    return found
