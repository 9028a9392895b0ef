"""Repairs of what the exporter writes wrongly, and equivalent forms for which runtimes have better kernels.

Each rewrite requires value_info of the exporter, ensures the same outputs for every batch (a repair: the
captured graph's outputs), keeps the metadata of `onnxfile`, and returns how many places it changed.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeprune.graph import onnxfile


def repair_gru(model: onnx.ModelProto) -> int:
    """Let the reset gate act after the recurrent product, its bias included, as in `torch.nn.GRU`.

    onnxscript 0.7 leaves `linear_before_reset` at ONNX's default, which is the other formula.
    """
    changed = 0
    for node in model.graph.node:
        if node.op_type != "GRU":
            continue
        given = next((entry for entry in node.attribute if entry.name == "linear_before_reset"), None)
        if given is not None and given.i == 1:
            continue
        if given is not None:
            node.attribute.remove(given)
        node.attribute.append(helper.make_attribute("linear_before_reset", 1))
        changed += 1
    return changed


def pool_means(model: onnx.ModelProto) -> int:
    """ReduceMean over all spatial dimensions of images -> GlobalAveragePool, which has an integer kernel."""
    ranks = _ranks(model)
    stored = _stored(model)
    nodes, changed = [], 0
    for node in model.graph.node:
        rank = ranks.get(node.input[0], 0) if node.input else 0
        axes = stored.get(node.input[1]) if node.op_type == "ReduceMean" and len(node.input) > 1 else None
        if axes is None or rank < 4 or sorted(axis % rank for axis in axes.tolist()) != list(range(2, rank)):
            nodes.append(node)
            continue
        changed += 1
        keep = next((entry.i for entry in node.attribute if entry.name == "keepdims"), 1)
        pooled = node.output[0] if keep else f"{node.output[0]}.pooled"
        added = [helper.make_node("GlobalAveragePool", [node.input[0]], [pooled], node.name)]
        if not keep:
            added.append(
                helper.make_node("Flatten", [pooled], [node.output[0]], f"{node.name}.flatten", axis=1)
            )
        for made in added:  # both hold the mean's values
            made.metadata_props.extend(node.metadata_props)
        nodes += added
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return changed


def pool_whole_images(model: onnx.ModelProto) -> int:
    """AveragePool with a window that covers the image -> GlobalAveragePool.

    Windows far larger than the image (EfficientNet) are written by users and refused by TensorRT.
    """
    static = _static_shapes(model)
    changed = 0
    for node in model.graph.node:
        if node.op_type != "AveragePool":
            continue
        found = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        sizes = static.get(node.input[0], [])[2:]
        covered = sizes and all(
            0 < size <= reach for size, reach in zip(sizes, found["kernel_shape"], strict=True)
        )
        if (
            not covered
            or any(found.get("pads", ()))
            or found.get("auto_pad", b"NOTSET") not in (b"", b"NOTSET")
        ):
            continue
        node.op_type = "GlobalAveragePool"
        del node.attribute[:]
        changed += 1
    return changed


def fix_reshapes(model: onnx.ModelProto) -> int:
    """Reshape to [size of the batch, constants] -> Reshape to [-1, constants]: no shape arithmetic."""
    stored = _stored(model)
    producers = {name: node for node in model.graph.node for name in node.output}
    static = _static_shapes(model)
    changed = 0
    for node in model.graph.node:
        shape = producers.get(node.input[1]) if node.op_type == "Reshape" else None
        if shape is None or shape.op_type != "Concat":
            continue
        parts = [stored.get(name) for name in shape.input]
        unknown = [at for at, part in enumerate(parts) if part is None]
        if len(unknown) != 1 or not _one_size(producers, shape, unknown[0]):
            continue
        sizes = [size for part in parts for size in (part.tolist() if part is not None else [0])]
        found = static.get(node.output[0], [])
        if len(found) == len(sizes):  # a -1 of the user's own whose size is known
            sizes = [
                known if size == -1 and known > 0 else size for size, known in zip(sizes, found, strict=True)
            ]
        if sorted(sizes)[0] != 0 or sizes.count(0) != 1:
            continue
        sizes[sizes.index(0)] = -1
        name = f"{node.output[0]}.shape"
        model.graph.initializer.append(numpy_helper.from_array(np.array(sizes, np.int64), name))
        node.input[1] = name
        changed += 1
    return changed


def join_clips(model: onnx.ModelProto) -> int:
    """Min(Relu(x), limit), as the exporter writes relu6 -> Clip(x, 0, limit), which kernels swallow."""
    producers = {name: node for node in model.graph.node for name in node.output}
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    changed = 0
    for node in model.graph.node:
        if node.op_type != "Min" or len(node.input) != 2:
            continue
        relu, limit = producers.get(node.input[0]), stored.get(node.input[1])
        if (
            relu is None
            or relu.op_type != "Relu"
            or limit is None
            or limit.data_type != onnx.TensorProto.FLOAT
        ):
            continue
        highest = numpy_helper.to_array(limit)
        if highest.size != 1 or highest.item() <= 0:
            continue
        bounds = (f"{node.output[0]}.lowest", f"{node.output[0]}.highest")
        for name, value in zip(bounds, (0.0, highest.item()), strict=True):
            model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
        node.op_type = "Clip"
        node.input[:] = [relu.input[0], *bounds]
        changed += 1
    return changed


def drop_unused(model: onnx.ModelProto) -> int:
    """Remove nodes and initialisers that no output depends on."""
    needed = {value.name for value in model.graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed |= _reads(node)
    removed = len(model.graph.node) - len(kept)
    tensors = [tensor for tensor in model.graph.initializer if tensor.name in needed]
    removed += len(model.graph.initializer) - len(tensors)
    del model.graph.node[:]
    model.graph.node.extend(reversed(kept))
    del model.graph.initializer[:]
    model.graph.initializer.extend(tensors)
    return removed


def _reads(node: onnx.NodeProto) -> set[str]:
    """The values that the node takes, also inside its branches or its loop body."""
    inner = (each for graph in onnxfile.inner_graphs(node) for each in graph.node)
    return set(node.input).union(*map(_reads, inner))


def _one_size(producers: dict[str, onnx.NodeProto], shape: onnx.NodeProto, at: int) -> bool:
    """Whether the part is one number taken from a shape: -1 stands for exactly one."""
    source = producers.get(shape.input[at])
    if source is None or source.op_type != "Shape":
        return False
    attributes = {entry.name: entry.i for entry in source.attribute}
    start = attributes.get("start", 0)
    return bool(start >= 0 and attributes.get("end", -1) == start + 1)


def _ranks(model: onnx.ModelProto) -> dict[str, int]:
    values = (*model.graph.input, *model.graph.value_info, *model.graph.output)
    return {value.name: len(value.type.tensor_type.shape.dim) for value in values}


def _static_shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    """Sizes by value; 0 where one varies."""
    values = (*model.graph.input, *model.graph.value_info, *model.graph.output)
    return {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values}


def _stored(model: onnx.ModelProto) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.int64]]]:
    """The integer tensors among the initialisers: axes and shapes."""
    return {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.INT64
    }


__all__ = ["drop_unused", "fix_reshapes", "join_clips", "pool_means", "repair_gru"]
