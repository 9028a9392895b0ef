"""ONNX rewrites behind the export: repairs of the exporter's errors, and forms with better kernels.

They work on the exporter's own model (onnx-ir), where a value knows its producer and its shape, before it
becomes an `onnx.ModelProto`; docs/decisions/011-onnx-passes.md says why the steps behind it are no passes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from onnx_ir.passes import PassResult
from onnx_ir.passes.common import RemoveUnusedNodesPass


def repair(model: ir.Model) -> PassResult:
    """Apply every rewrite of `REPAIRS` in place, then drop what no output depends on.

    Requires the shapes that the exporter tells. Ensures the same outputs for every batch (behind a repair:
    the captured graph's outputs), and that a node that replaces another has its metadata.
    """
    wanted = [node for node in model.graph if node.op_type in REPAIRS]
    changed = sum(REPAIRS[node.op_type](model.graph, node) for node in wanted)
    unused = RemoveUnusedNodesPass()(model)
    return PassResult(model, modified=bool(changed) or unused.modified)


def repair_gru(graph: ir.Graph, node: ir.Node) -> bool:
    """Let the reset gate act after the recurrent product, its bias included, as in `torch.nn.GRU`.

    onnxscript 0.7 leaves `linear_before_reset` at ONNX's default, which is the other formula.
    """
    if node.attributes.get_int("linear_before_reset", 0) == 1:
        return False
    node.attributes.add(ir.AttrInt64("linear_before_reset", 1))
    return True


def repair_unshuffle(graph: ir.Graph, node: ir.Node) -> bool:
    """SpaceToDepth -> Reshape, Transpose, Reshape, in the order of channels of `torch.nn.PixelUnshuffle`.

    torch counts the pixels of a block inside each channel, ONNX the channels inside each pixel; onnxscript
    0.7 writes one for the other.
    """
    size, sizes = node.attributes.get_int("blocksize", 1), _sizes(node.inputs[0])
    if len(sizes) != 4 or min(sizes[1:]) < 1:
        return False
    channels, height, width = sizes[1:]
    name = node.outputs[0].name
    apart = np.array([-1, channels, height // size, size, width // size, size], np.int64)
    whole = np.array([-1, channels * size**2, height // size, width // size], np.int64)
    parts = ir.node("Reshape", [node.inputs[0], _stored(graph, f"{name}.blocks", apart)])
    turned = ir.node("Transpose", [parts.outputs[0]], {"perm": [0, 1, 3, 5, 2, 4]})
    joined = ir.node(
        "Reshape",
        [turned.outputs[0], _stored(graph, f"{name}.shape", whole)],
        name=node.name,
        metadata_props=dict(node.metadata_props),
    )
    parts.outputs[0].name, turned.outputs[0].name = f"{name}.apart", f"{name}.turned"
    made = [parts, turned, joined]
    ir.convenience.replace_nodes_and_values(graph, node, [node], made, node.outputs, joined.outputs)
    return True


def repair_smooth_resize(graph: ir.Graph, node: ir.Node) -> bool:
    """Resize with antialias -> a product with a matrix per dimension, as the operation is linear.

    ONNX Runtime 1.32 weighs the pixels otherwise than torch, and other runtimes refuse the attribute.
    """
    before, after = _sizes(node.inputs[0]), _sizes(node.outputs[0])
    kind = {"linear": torch.ops.aten._upsample_bilinear2d_aa, "cubic": torch.ops.aten._upsample_bicubic2d_aa}
    mode = node.attributes.get_string("mode", "")
    known = len(before) == len(after) == 4 and min(*before[2:], *after[2:]) > 0
    if not node.attributes.get_int("antialias", 0) or mode not in kind or not known:
        return False
    corners = node.attributes.get_string("coordinate_transformation_mode", "") == "align_corners"
    rows, columns = (
        kind[mode](torch.eye(old)[None, None], [old, new], corners)[0, 0].numpy()
        for old, new in zip(before[2:], after[2:], strict=True)
    )
    name = node.outputs[0].name
    across = ir.node("MatMul", [node.inputs[0], _stored(graph, f"{name}.columns", columns)])
    across.outputs[0].name = f"{name}.across"
    down = ir.node(
        "MatMul",
        [_stored(graph, f"{name}.rows", np.ascontiguousarray(rows.T)), across.outputs[0]],
        name=node.name,
        metadata_props=dict(node.metadata_props),
    )
    ir.convenience.replace_nodes_and_values(graph, node, [node], [across, down], node.outputs, down.outputs)
    return True


def pool_mean(graph: ir.Graph, node: ir.Node) -> bool:
    """ReduceMean over all spatial dimensions of images -> GlobalAveragePool, which has an integer kernel."""
    image, mean = node.inputs[0], node.outputs[0]
    axes = _integers(node.inputs[1]) if len(node.inputs) > 1 else None
    rank = len(_sizes(image))
    if axes is None or rank < 4 or sorted(axis % rank for axis in axes) != list(range(2, rank)):
        return False
    pool = ir.node("GlobalAveragePool", [image], name=node.name, metadata_props=dict(node.metadata_props))
    made = [pool]
    if not node.attributes.get_int("keepdims", 1):
        pool.outputs[0].name = f"{mean.name}.pooled"
        metadata = dict(node.metadata_props)  # both hold the mean's values
        made.append(
            ir.node(
                "Flatten", pool.outputs, {"axis": 1}, name=f"{node.name}.flatten", metadata_props=metadata
            )
        )
    ir.convenience.replace_nodes_and_values(graph, node, [node], made, [mean], made[-1].outputs)
    return True


def pool_whole_image(graph: ir.Graph, node: ir.Node) -> bool:
    """AveragePool with a window that covers the image -> GlobalAveragePool.

    Windows far larger than the image (EfficientNet) are written by users and refused by TensorRT.
    """
    sizes, window = _sizes(node.inputs[0])[2:], node.attributes.get_ints("kernel_shape") or ()
    covered = sizes and all(0 < size <= reach for size, reach in zip(sizes, window, strict=True))
    padded = any(node.attributes.get_ints("pads") or ())
    if not covered or padded or node.attributes.get_string("auto_pad", "NOTSET") not in ("", "NOTSET"):
        return False
    node.op_type = "GlobalAveragePool"
    node.attributes.clear()
    return True


def fix_reshape(graph: ir.Graph, node: ir.Node) -> bool:
    """Reshape to [size of the batch, constants] -> Reshape to [-1, constants]: no shape arithmetic."""
    shape = _producer(node.inputs[1])
    if shape is None or shape.op_type != "Concat":
        return False
    parts = [_integers(value) for value in shape.inputs]
    if parts.count(None) != 1 or not _is_one_size(shape.inputs[parts.index(None)]):
        return False
    sizes = [size for part in parts for size in ([0] if part is None else part)]
    found = _sizes(node.outputs[0])
    if len(found) == len(sizes):  # a -1 of the user's own whose size is known
        sizes = [
            known if size == -1 and known > 0 else size for size, known in zip(sizes, found, strict=True)
        ]
    if min(sizes) != 0 or sizes.count(0) != 1:
        return False
    sizes[sizes.index(0)] = -1
    stored = _stored(graph, f"{node.outputs[0].name}.shape", np.array(sizes, np.int64))
    node.replace_input_with(1, stored)
    return True


def join_clip(graph: ir.Graph, node: ir.Node) -> bool:
    """Min(Relu(x), limit), as the exporter writes relu6 -> Clip(x, 0, limit), which kernels swallow."""
    relu = _producer(node.inputs[0])
    limit = node.inputs[1].const_value if len(node.inputs) == 2 and node.inputs[1] is not None else None
    if relu is None or relu.op_type != "Relu" or limit is None or limit.dtype != ir.DataType.FLOAT:
        return False
    highest = limit.numpy()
    if highest.size != 1 or highest.item() <= 0:
        return False
    node.op_type = "Clip"
    node.resize_inputs(3)
    node.replace_input_with(0, relu.inputs[0])
    for at, (end, bound) in enumerate({"lowest": 0.0, "highest": highest.item()}.items(), start=1):
        name = f"{node.outputs[0].name}.{end}"
        node.replace_input_with(at, _stored(graph, name, np.array(bound, np.float32)))
    return True


REPAIRS: Mapping[str, Callable[[ir.Graph, ir.Node], bool]] = {
    "GRU": repair_gru,
    "SpaceToDepth": repair_unshuffle,
    "Resize": repair_smooth_resize,
    "ReduceMean": pool_mean,
    "AveragePool": pool_whole_image,
    "Reshape": fix_reshape,
    "Min": join_clip,
}


def _is_one_size(value: ir.Value | None) -> bool:
    """Whether the value is one number taken from a shape: -1 stands for exactly one."""
    source = _producer(value)
    if source is None or source.op_type != "Shape":
        return False
    start = source.attributes.get_int("start", 0) or 0
    return start >= 0 and source.attributes.get_int("end", -1) == start + 1


def _producer(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()


def _integers(value: ir.Value | None) -> list[int] | None:
    """A stored vector of integers: axes or a shape."""
    tensor = None if value is None else value.const_value
    return tensor.numpy().tolist() if tensor is not None and tensor.dtype == ir.DataType.INT64 else None


def _sizes(value: ir.Value | None) -> list[int]:
    """Sizes; 0 where one varies."""
    shape = None if value is None else value.shape
    return [size if isinstance(size, int) else 0 for size in shape or ()]


def _stored(graph: ir.Graph, name: str, array: NDArray[np.float32] | NDArray[np.int64]) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    value = ir.Value(
        name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor
    )
    graph.initializers.add(value)
    return value


__all__ = ["REPAIRS", "repair"]
