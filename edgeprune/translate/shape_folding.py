"""Folding of what a file computes from constants and from the sizes of its inputs.

Exporters write `x.view(x.shape[0], 4, -1)` as Shape, Gather, Concat and Reshape, and a causal mask as a dozen
operators on sizes. Run at several batches, each such value is the same at all of them, and then a constant;
or it is a few integers that grow with the batch, `a * batch + b`, and then plain sizes. What is left
computes on values, and is translated.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeprune.errors import InputError
from edgeprune.foreign import tame
from edgeprune.graph import onnxfile
from edgeprune.graph.onnx_operator import LinearSizes
from edgeprune.translate.calls import TABLE

MOST_FOLDED = (
    2**24
)  # elements of a constant that is made of less: what is larger is computed where it is read
Kind = Literal["constant", "sizes", "values"]
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Folded:
    """Operators of a file that compute on values, in order, with all constants that they read.

    sizes: values that are sizes of the batch, wherever they are read as plain numbers.
    """

    nodes: tuple[onnx.NodeProto, ...]
    constants: Arrays
    sizes: Mapping[str, LinearSizes]


def folded(
    model: onnx.ModelProto, feeds: Sequence[Arrays], path: Path, whole: Collection[str] = ()
) -> Folded:
    """Operators and constants of a model, folded by runs in ONNX Runtime.

    feeds: inputs by name at one batch or several different ones; with one, its sizes are constants.
    whole: an output of each operator that takes tensors alone, whatever `TABLE` says of it.
    Raises `InputError` when ONNX Runtime does not run the model.
    """
    while True:
        kinds = _kinds(model)
        asked = list(_asked(model, kinds))
        runs = run(model, feeds, path, asked)
        if not _inlined_branch(model, runs):
            break
    stored = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    constants, sizes = dict(stored), dict[str, LinearSizes]()
    for name in asked:
        found = [each[name] for each in runs]
        if not all(isinstance(array, np.ndarray) for array in found):
            continue
        if _same(found):
            if found[0].size <= max(MOST_FOLDED, *(array.size for array in stored.values()), 0):
                constants[name] = found[0]
        elif (linear := linear_sizes(found, [rows_of(each) for each in feeds])) is not None:
            sizes[name] = linear
    return _kept(model, constants, sizes, whole)


def session(model: onnx.ModelProto, path: Path, outputs: Sequence[str] = ()) -> Any:
    """ONNX Runtime's session of a model, with further values as outputs. Raises `InputError`."""
    more = onnxfile.copied(model)
    own = {value.name for value in more.graph.output}
    more.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs if name not in own)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(
            onnxfile.content(more), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's errors share no base but Exception
        raise InputError(
            f"ONNX Runtime does not load {path}: {tame(str(error))}",
            "Convert it to an opset that this ONNX Runtime has, or export it again.",
        ) from error


def run(
    model: onnx.ModelProto, feeds: Sequence[Arrays], path: Path, names: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Outputs and further values by name, for each of the feeds. Raises `InputError`."""
    opened = session(model, path, names)
    wanted = [value.name for value in opened.get_outputs()]
    found = []
    for feed in feeds:
        try:
            found.append(dict(zip(wanted, opened.run(wanted, dict(feed)), strict=True)))
        except Exception as error:  # onnxruntime's errors share no base but Exception
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feed.items())
            raise InputError(
                f"ONNX Runtime does not run {path} on {shapes}: {tame(str(error))}",
                "Give data as the file takes them; a file for one batch alone says so in its inputs.",
            ) from error
    return found


def rows_of(feed: Arrays) -> int:
    """Rows of a batch."""
    return len(next(iter(feed.values())))


def _kinds(model: onnx.ModelProto) -> dict[str, Kind]:
    """Of every value of the graph, what it depends on: constants alone, sizes of inputs too, or values."""
    kinds: dict[str, Kind] = {value.name: "values" for value in model.graph.input}
    kinds |= {tensor.name: "constant" for tensor in model.graph.initializer}
    for node in model.graph.node:
        read = {kinds.get(name, "constant") for name in onnxfile.reads(node) if name}
        kind: Kind = "values" if "values" in read else "sizes" if "sizes" in read else "constant"
        if node.op_type in ("Shape", "Size") and kind == "values":
            kind = "sizes"
        kinds |= {name: kind for name in node.output if name}
    return kinds


def _asked(model: onnx.ModelProto, kinds: Mapping[str, Kind]) -> Iterator[str]:
    """Computed values that may be folded: sizes, and constants that something else reads."""
    frontier = {value.name for value in model.graph.output}
    for node in model.graph.node:
        if any(kinds[name] != "constant" for name in node.output if name):
            frontier.update(onnxfile.reads(node))
    for node in model.graph.node:
        for name in node.output:
            if name and (kinds[name] == "sizes" or (kinds[name] == "constant" and name in frontier)):
                yield name


def _same(found: Sequence[NDArray[Any]]) -> bool:
    return all(np.array_equal(found[0], each, equal_nan=each.dtype.kind == "f") for each in found[1:])


def linear_sizes(found: Sequence[NDArray[Any]], rows: Sequence[int]) -> LinearSizes | None:
    """Integers that are `times * batch + plus` at every batch; None for anything else.

    found: an array for each of the numbers of rows.
    """
    first = found[0]
    if first.ndim > 1 or first.dtype.kind not in "iu" or any(each.shape != first.shape for each in found):
        return None
    columns = np.stack([each.reshape(-1).astype(np.int64) for each in found])
    if len(rows) == 1:
        return LinearSizes((0,) * first.size, tuple(map(int, columns[0])))
    times, rest = np.divmod(columns[1] - columns[0], rows[1] - rows[0])
    plus = columns[0] - times * rows[0]
    if rest.any() or any((times * n + plus != column).any() for n, column in zip(rows, columns, strict=True)):
        return None
    return LinearSizes(tuple(map(int, times)), tuple(map(int, plus)))


def _kept(
    model: onnx.ModelProto,
    constants: dict[str, Any],
    sizes: dict[str, LinearSizes],
    whole: Collection[str] = (),
) -> Folded:
    """What is left of a graph. Sizes that are read as a tensor are computed again."""
    ends = {value.name for value in model.graph.output}
    while True:
        known = constants.keys() | sizes.keys()
        nodes = [
            node
            for node in model.graph.node
            if not known.issuperset(filter(None, node.output)) or ends.intersection(node.output)
        ]
        broken = set(sizes.keys() & ends)
        for node in nodes:
            row = TABLE.get(node.op_type)
            plain = frozenset() if row is None or set(whole).intersection(node.output) else row.plain
            broken |= {name for at, name in enumerate(node.input) if name in sizes and at not in plain}
            broken |= sizes.keys() & set(onnxfile.reads_inside(node))
        if not broken:
            break
        for name in broken:
            del sizes[name]
    needed, left = set(ends), []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            left.append(node)
            needed.update(onnxfile.reads(node))
    return Folded(
        tuple(left[::-1]),
        {name: array for name, array in constants.items() if name in needed},
        {name: each for name, each in sizes.items() if name in needed},
    )


def _inlined_branch(model: onnx.ModelProto, runs: Sequence[Mapping[str, Any]]) -> bool:
    """Put the branch that is always taken in the place of each If whose condition is a constant."""
    stored = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    nodes, changed = list[onnx.NodeProto](), False
    for number, node in enumerate(model.graph.node):
        found = _found(node.input[0], stored, runs) if node.op_type == "If" else []
        if not found or not _same(found):
            nodes.append(node)
            continue
        taken = "then_branch" if bool(found[0].reshape(-1)[0]) else "else_branch"
        branch = next(entry.g for entry in node.attribute if entry.name == taken)
        nodes += _inlined(model, branch, node, f"if{number}.")
        changed = True
    if changed:
        del model.graph.node[:]
        model.graph.node.extend(nodes)
    return changed


def _found(name: str, stored: Arrays, runs: Sequence[Mapping[str, Any]]) -> list[NDArray[Any]]:
    """A value in every run; [] for one that was not asked for."""
    found = [stored.get(name, each.get(name)) for each in runs]
    return [each for each in found if each is not None]


def _inlined(
    model: onnx.ModelProto, branch: onnx.GraphProto, node: onnx.NodeProto, prefix: str
) -> Iterator[onnx.NodeProto]:
    """Operators of a branch with names of their own, and its results under the names of the outputs."""
    own = {tensor.name for tensor in branch.initializer}
    own |= {name for each in branch.node for name in each.output if name}
    for tensor in branch.initializer:
        model.graph.initializer.add().CopyFrom(tensor)
        model.graph.initializer[-1].name = prefix + tensor.name
    for each in branch.node:
        copied = onnx.NodeProto()
        copied.CopyFrom(each)
        for graph in [
            copied,
            *(inner for sub in onnxfile.inner_graphs(copied) for inner in onnxfile.graphs(sub)),
        ]:
            for one in [graph] if isinstance(graph, onnx.NodeProto) else graph.node:
                one.input[:] = [prefix + name if name in own else name for name in one.input]
        copied.output[:] = [prefix + name if name else name for name in copied.output]
        yield copied
    for value, name in zip(branch.output, node.output, strict=True):
        source = prefix + value.name if value.name in own else value.name
        yield onnx.helper.make_node("Identity", [source], [name], name=node.name)
