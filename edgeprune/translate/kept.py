"""Operators that have no translation, kept as the file has them where their outputs have known sizes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper

from edgeprune.graph.onnx_operator import KeptOperator, LinearSizes, outside_reads, rename_inputs
from edgeprune.graph.onnxfile import BATCH_NAME
from edgeprune.translate.network import NotTranslated
from edgeprune.translate.shape_folding import Arrays, Folded, linear_sizes, rows_of, run


def output_key(node: onnx.NodeProto) -> str:
    """Name of the first output of a node that has one: what tells nodes apart, as names are free."""
    return next(str(name) for name in node.output if name)


def kept_operators(
    model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto], left: Folded, feeds: Sequence[Arrays], path: Path
) -> dict[str, KeptOperator]:
    """Operators to keep, by `output_key`, with the sizes that ONNX Runtime gives on the feeds.

    Raises `NotTranslated` for one whose outputs are no tensors, or have sizes that are not linear in the
    batch.
    """
    found = list(nodes)
    asked = {name for node in found for name in (*filter(None, node.output), *outside_reads(node))}
    asked -= left.constants.keys() | feeds[0].keys()
    runs = run(model, feeds, path, sorted(asked)) if found else []
    values = [{**left.constants, **feed, **each} for feed, each in zip(feeds, runs, strict=bool(found))]
    rows = [rows_of(feed) for feed in feeds]
    return {output_key(node): _kept(model, node, values, rows) for node in found}


def _kept(
    model: onnx.ModelProto, node: onnx.NodeProto, values: Sequence[Mapping[str, Any]], rows: Sequence[int]
) -> KeptOperator:
    outputs = [name for name in node.output if name]
    reads = outside_reads(node)
    if not all(isinstance(each[name], np.ndarray) for each in values for name in (*outputs, *reads)):
        raise NotTranslated(node, "what it reads or makes is no tensor")
    sizes = [_sizes(node, [each[name] for each in values], rows) for name in outputs]
    alone = onnx.NodeProto()
    alone.CopyFrom(node)
    names = {name: f"in{at}" for at, name in enumerate(reads)}
    rename_inputs(alone, names, prefix="own.")
    ends = {name: f"out{at}" for at, name in enumerate(outputs)}
    alone.output[:] = [ends.get(name, "") for name in node.output]
    graph = helper.make_graph(
        [alone],
        "kept",
        [_typed(names[name], [each[name] for each in values], rows) for name in reads],
        [_typed(ends[name], [each[name] for each in values], rows) for name in outputs],
    )
    carried = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    dtypes = [torch.from_numpy(np.empty(0, values[0][name].dtype)).dtype for name in outputs]
    return KeptOperator(carried, tuple(sizes), tuple(dtypes))


def _sizes(node: onnx.NodeProto, found: Sequence[NDArray[Any]], rows: Sequence[int]) -> LinearSizes:
    sizes = _linear(found, rows)
    if sizes is None:
        raise NotTranslated(node, "the sizes of its output depend on values")
    return sizes


def _linear(found: Sequence[NDArray[Any]], rows: Sequence[int]) -> LinearSizes | None:
    return linear_sizes([np.array(array.shape, np.int64) for array in found], rows)


def _typed(name: str, found: Sequence[NDArray[Any]], rows: Sequence[int]) -> onnx.ValueInfoProto:
    """Type and, where it is linear in the batch, shape of a value: bodies of loops infer theirs from it."""
    sizes = _linear(found, rows)
    shape = sizes and [
        p if not t else f"{t}*{BATCH_NAME}+{p}" for t, p in zip(sizes.times, sizes.plus, strict=True)
    ]
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(found[0].dtype), shape)


__all__ = ["kept_operators", "output_key"]
