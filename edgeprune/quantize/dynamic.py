"""Dynamic INT8: weights are integers in the file, and activations get their range from each query.

Without calibration no range can be wrong. This suits models whose work is mostly matrix products and whose
activations have outliers that no fixed range contains; the price is a pass over the activation at every
product. ONNX Runtime fuses the chain of operators that is written here (and by its own `quantize_dynamic`)
into DynamicQuantizeMatMul, or into MatMulIntegerToFloat where several products share an input.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeprune.errors import NothingToQuantise
from edgeprune.graph import onnxfile
from edgeprune.quantize.emit import Quantised, check_known
from edgeprune.quantize.products import Product, products
from edgeprune.quantize.scales import Scale, quantise_weight

DYNAMIC = "dynamic"  # the `calibrator` of a candidate in dynamic INT8
_ANY = Scale(np.float32(1), 0)  # for an activation of unknown scale, when no bias depends on the scale


def quantise_dynamic(
    exported: onnx.ModelProto, *, reduce_range: bool = False, float_layers: Sequence[str] = ()
) -> Quantised:
    """Make a model whose matrix products quantise their activation anew for each query.

    exported: from `to_onnx`; it stays as it is. reduce_range, float_layers: as for `emit.quantise`.
    Convolutions stay float. Raises `InputError` for an unknown layer, `NothingToQuantise` when no layer is a
    matrix product.
    """
    model = onnxfile.copied(exported)
    layers = onnxfile.layers(model)
    check_known(float_layers, set(layers.values()))
    wanted = {at: product for at, product in products(model).items() if layers[at] not in float_layers}
    if not wanted:
        raise NothingToQuantise(
            "No layer of the model is a matrix product that can become INT8.",
            "Convolutions need calibrated ranges: choose a calibrator.",
        )
    writer = _DynamicWriter(reduce_range)
    nodes = []
    for at, node in enumerate(model.graph.node):
        nodes += writer.integers(node, wanted[at], layers[at]) if at in wanted else [node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(writer.stored)
    onnxfile.drop_unused(model)
    onnx.checker.check_model(model)
    return Quantised(
        model,
        tuple(name for at, name in layers.items() if at in wanted),
        tuple(name for at, name in layers.items() if at not in wanted),
    )


class _DynamicWriter:
    """Writer of dynamic INT8 products; products that read one activation share its integers."""

    def __init__(self, reduce_range: bool) -> None:
        self._reduce_range = reduce_range
        self._quantised: set[str] = set()
        self._named: set[str] = set()
        self.stored: list[onnx.TensorProto] = []

    def integers(self, node: onnx.NodeProto, product: Product, layer: str) -> list[onnx.NodeProto]:
        """Nodes in place of `node`: (integers of x @ integers of W) * scale of x * scales of W (+ b)."""
        x, result = str(node.input[0]), str(node.output[0])
        name = layer if layer not in self._named else f"{layer}#{result}"
        self._named.add(layer)
        weight = quantise_weight(product.weight, 1, True, self._reduce_range, None, _ANY)
        integers, scales = f"{x}.uint8", f"{x}.uint8.scale"
        added = []
        if x not in self._quantised:
            self._quantised.add(x)
            outputs = [integers, scales, f"{x}.uint8.zero_point"]
            added.append(helper.make_node("DynamicQuantizeLinear", [x], outputs, f"{x}.quantize"))
        operands = [
            self._store(f"{name}.weight.int8", weight.integers),
            self._store(f"{name}.weight.int8.scale", weight.scale),
        ]
        scaled = f"{result}.unbiased" if product.bias else result
        added += [
            helper.make_node(
                "MatMulInteger", [integers, operands[0], f"{x}.uint8.zero_point"], [f"{result}.int32"], name
            ),
            helper.make_node("Cast", [f"{result}.int32"], [f"{result}.cast"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [scales, operands[1]], [f"{result}.scale"]),
            helper.make_node("Mul", [f"{result}.cast", f"{result}.scale"], [scaled]),
        ]
        if product.bias:
            added.append(helper.make_node("Add", [scaled, product.bias], [result]))
        onnxfile.keep_values(node, added[-1])
        return added

    def _store(self, name: str, array: NDArray[np.generic]) -> str:
        self.stored.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name


__all__ = ["DYNAMIC", "quantise_dynamic"]
