"""Profile of an artefact by layer: milliseconds and work of each layer of an ONNX file.

A runtime reports operators, which are nodes of the file or several fused ones (`operators`). A layer is
counted with what comes behind it up to the next one: its activation, an addition, the conversion of its
result.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from edgeprune.devices import Operator
from edgeprune.graph import onnxfile
from edgeprune.latency.kernel import Kernel
from edgeprune.latency.operators import START, Owners
from edgeprune.latency.workload import read_workload

# Operators, as ONNX Runtime and OpenVINO call them, that only change a number type or a layout.
_CONVERTING = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ReorderInput", "ReorderOutput"}
    | {"Reorder"}
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LayerOperators:
    """Operators of a runtime that are counted with one layer, and milliseconds of those that only convert."""

    ms: float
    operators: int
    converting_ms: float


def layer_operators(model: onnx.ModelProto, measured: Sequence[Operator]) -> dict[str, LayerOperators]:
    """Operators by layer, in the order of the file; under `START` what comes before the first of them."""
    layer = layer_of_nodes(model)
    found: dict[str, list[Operator]] = defaultdict(list)
    for node, operator in zip(Owners(model.graph).owners(measured), measured, strict=True):
        found[layer.get(node, START)].append(operator)
    return {
        name: LayerOperators(
            sum(each.ms for each in found[name]),
            len(found[name]),
            sum(each.ms for each in found[name] if each.kind.partition(" ")[0] in _CONVERTING),
        )
        for name in dict.fromkeys((START, *layer.values()))
        if name in found
    }


def layer_kernels(path: Path, batch: int, length: int | None = None) -> dict[str, list[Kernel]]:
    """Launches of one query of `batch` rows by layer; none at all where they depend on the data.

    length: as for `read_workload`.
    The launches are those that runtimes fuse in general (`read_workload`), for their arithmetic and traffic.
    """
    model = onnxfile.load(path)
    layer = layer_of_nodes(model)
    try:
        kernels = read_workload(path, batch, length).kernels
    except Exception as error:  # a graph of a kind that no prediction met: no answer hangs on this
        _log.info("what the layers of %s compute is not known: %r", path.name, error)
        return {}
    unknown = {kernel.name for kernel in kernels if kernel.macs} - {node.name for node in model.graph.node}
    if unknown:  # a runtime named nodes anew when it computed sizes
        _log.info("what the layers of %s compute is not known: no node is called %r", path.name, unknown)
        return {}
    found: dict[str, list[Kernel]] = defaultdict(list)
    for kernel in kernels:
        found[layer.get(kernel.name, START)].append(kernel)
    return dict(found)


def layer_of_nodes(model: onnx.ModelProto) -> Mapping[str, str]:
    """Layer of every node behind a layer, by the node's name, in the order of the file."""
    weighted = onnxfile.layers(model)
    maker: dict[str, str] = {}  # value -> layer that it comes from
    found: dict[str, str] = {}
    for at, node in enumerate(model.graph.node):
        own = weighted.get(at) or onnxfile.metadata(node, onnxfile.LAYER)
        if own is None and node.op_type in onnxfile.RECURRENT:
            own = node.name
        behind = own or next((maker[name] for name in node.input if name in maker), None)
        if behind is not None:
            found[node.name] = behind
            maker.update(dict.fromkeys(node.output, behind))
    return found


def layer_nodes(model: onnx.ModelProto) -> dict[str, str]:
    """ONNX operator of every layer; of several nodes, that of the last one."""
    weighted = onnxfile.layers(model)
    found = {}
    for at, node in enumerate(model.graph.node):
        if name := weighted.get(at) or onnxfile.metadata(node, onnxfile.LAYER):
            found[name] = node.op_type
        elif node.op_type in onnxfile.RECURRENT:
            found[node.name] = node.op_type
    return found
