"""Profile of an artefact by layer: milliseconds of each layer of an ONNX file, as its runtime reports them.

A runtime reports operators, which are nodes of the file or several fused ones (`operators`). A layer is
counted with what comes behind it up to the next one: its activation, an addition, the conversion of its
result.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import onnx

from edgeprune.devices import Operator
from edgeprune.graph import onnxfile
from edgeprune.latency.operators import START, Owners


def layer_milliseconds(model: onnx.ModelProto, measured: Sequence[Operator]) -> dict[str, float]:
    """Milliseconds by layer, in the order of the file; under `START` what comes before the first of them."""
    layer = layer_of_nodes(model)
    found: dict[str, float] = defaultdict(float)
    for node, ms in Owners(model.graph).shares(measured).items():
        found[layer.get(node, START)] += ms
    return {name: found[name] for name in dict.fromkeys((START, *layer.values())) if name in found}


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
