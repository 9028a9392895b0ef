"""Resizing of a model's ONNX file to other widths without a new export, for timing alone.

    two exports, width of group g    12      9
    a dimension                      24     18     = 2 * units of g
    a constant of a Reshape         192    144     = 16 * units of g

An operator's latency depends on the operator's shapes and not on its weights. An export takes seconds, so a
model is exported at a few widths only, chosen so that sizes which depend on different groups differ. From the
values of a dimension, a shape constant or an attribute in these exports follows the groups that it depends
on, and the file can then be written at any widths in milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeprune.errors import EdgepruneError
from edgeprune.graph import onnxfile
from edgeprune.graph.blocks import Ids
from edgeprune.graph.coupling import Coupling
from edgeprune.records.lengths import LENGTH_NAME, Lengths

Integers = NDArray[np.int64]
Widths = Mapping[str, int]  # group name -> units kept; a group that is not named stays whole
MOST_PROBES = 4
PROBE_DRAWS = 64  # random widths among which a probe is chosen
MOST_SHAPE_INTEGERS = 64  # an integer tensor with more elements is data, not a shape


@dataclass(frozen=True)
class Size:
    """A size as a function of the widths: `fixed` plus, for each group, positions per unit * units kept."""

    fixed: int
    each: tuple[tuple[str, int], ...] = ()  # (group, positions per unit)

    def at(self, widths: Widths) -> int:
        return self.fixed + sum(times * widths[group] for group, times in self.each)

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(group for group, _ in self.each)


def at(size: Size | None, widths: Mapping[str, Integers]) -> Integers:
    """Size at arrays of widths, which are broadcast; None has size 0."""
    if size is None:
        return np.zeros((), np.int64)
    found = np.asarray(size.fixed, np.int64)
    for group, times in size.each:
        found = found + times * widths[group]
    return found


def size_of(coupling: Coupling, classes: Ids) -> Size:
    """Number of kept classes among `classes`, as a function of the widths.

    Every unit of a group has equally many of these classes.
    """
    place = np.full(int(coupling.classes.max(initial=-1)) + 1, -1)
    for number, group in enumerate(coupling.groups):
        place[group.classes] = number
    owners, counts = np.unique(place[classes], return_counts=True)
    each = []
    for owner, count in zip(owners.tolist(), counts.tolist(), strict=True):
        if owner >= 0 and count % coupling.groups[owner].units == 0:
            owned = coupling.groups[owner]
            each.append((owned.name, count // owned.units, count))
    return Size(len(classes) - sum(count for *_, count in each), tuple((name, n) for name, n, _ in each))


def sizes(coupling: Coupling) -> tuple[Size, ...]:
    """Sizes of all dimensions of parameters and values that depend on some group, each once."""
    found = dict.fromkeys(size_of(coupling, coupling.classes[atoms]) for atoms in _dimensions(coupling))
    return tuple(size for size in found if size.each)


def _dimensions(coupling: Coupling) -> Iterator[Ids]:
    for use in coupling.parameters.values():
        yield from (atoms for atoms in use.atoms if atoms is not None)
    for value in coupling.values.values():
        for blocks in value if isinstance(value, list) else [value]:
            for block in blocks:
                for axis in range(block.ids.ndim):
                    rows = np.moveaxis(block.ids, axis, 0).reshape(block.ids.shape[axis], -1)
                    classes = coupling.classes[rows]
                    if (classes == classes[:, :1]).all():
                        yield rows[:, 0]


@dataclass(frozen=True)
class Resizable:
    """An ONNX model together with the sizes in it that depend on the widths.

    dims: dimensions by initialiser. constants: elements by initialiser of integers, in order.
    attributes: integers by (node index, attribute), where some depend on the widths.
    shapes: shape at batch 1 by value, for every value whose shape is known.
    """

    model: onnx.ModelProto
    dims: Mapping[str, tuple[Size, ...]]
    constants: Mapping[str, tuple[Size, ...]]
    attributes: Mapping[tuple[int, str], tuple[Size, ...]]
    shapes: Mapping[str, tuple[Size, ...]]

    def at(self, widths: Widths) -> onnx.ModelProto:
        """ONNX model at these widths; weights are repeated or cut short to the new shapes."""
        made = onnx.ModelProto()
        made.CopyFrom(self.model)
        for index, tensor in enumerate(made.graph.initializer):
            if tensor.name in self.constants:
                values = [size.at(widths) for size in self.constants[tensor.name]]
                array = np.array(values, numpy_helper.to_array(tensor).dtype).reshape(tuple(tensor.dims))
            elif tensor.name in self.dims:
                shape = tuple(size.at(widths) for size in self.dims[tensor.name])
                array = np.resize(numpy_helper.to_array(tensor), shape)
            else:
                continue
            made.graph.initializer[index].CopyFrom(numpy_helper.from_array(array, tensor.name))
        for (index, name), following in self.attributes.items():
            entry = next(entry for entry in made.graph.node[index].attribute if entry.name == name)
            numbers = [size.at(widths) for size in following]
            if entry.type == onnx.AttributeProto.INT:
                entry.i = numbers[0]
            else:
                entry.ints[:] = numbers
        return made


def resizable(
    coupling: Coupling,
    export: Callable[[Widths], onnx.ModelProto],
    seed: int = 0,
    lengths: Lengths | None = None,
) -> Resizable:
    """Learn from a few exports how the shapes of a model depend on the widths.

    export: the float ONNX model of the captured graph cut to the widths given. lengths: of the model's
    sequences, of which shapes have the longest.
    Raises `EdgepruneError` when the exports differ in more than sizes, or a size depends on no group.
    """
    alone = tuple(Size(0, ((group.name, 1),)) for group in coupling.groups)
    known = tuple(dict.fromkeys((*alone, *sizes(coupling))))
    probes = _probes(coupling, known, np.random.default_rng(seed))
    models = [export(widths) for widths in probes]
    reader = _SizeReader(known, probes)
    first, *others = models
    for other in others:
        _same_structure(first, other)
    slots = [_initialisers(model) for model in models]
    dims: dict[str, tuple[Size, ...]] = {}
    constants: dict[str, tuple[Size, ...]] = {}
    for slot, tensor in slots[0].items():
        tensors = [found[slot] for found in slots]
        shapes = [tuple(each.dims) for each in tensors]
        integers = tensor.data_type in (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
        if integers and len(set(shapes)) == 1 and prod(shapes[0]) <= MOST_SHAPE_INTEGERS:
            values = [numpy_helper.to_array(each).reshape(-1).tolist() for each in tensors]
            if first.graph.node[slot[0]].op_type == "Pad" and slot[1] == 1:
                values = _padded_behind(values)
            if any(value != values[0] for value in values):
                _put(constants, tensor.name, reader.read(values, f"constant {tensor.name}"))
        elif len(set(shapes)) > 1:
            _put(dims, tensor.name, reader.read(shapes, f"initialiser {tensor.name}"))
    attributes = {}
    for index, nodes in enumerate(zip(*(model.graph.node for model in models), strict=True)):
        for name, values in _integers(nodes).items():
            attributes[index, name] = reader.read(values, f"attribute {name} of {nodes[0].name}")
    inferred = [_shapes(model, 1 if lengths is None else lengths.longest) for model in models]
    del first.graph.value_info[:]  # shapes at the probe's widths; runtimes infer them again
    shapes_ = {
        name: reader.read([found[name] for found in inferred], f"value {name}")
        for name in inferred[0]
        if all(len(found.get(name, ())) == len(inferred[0][name]) for found in inferred)
    }
    return Resizable(first, dims, constants, attributes, shapes_)


class _SizeReader:
    """Finder of the `Size` that explains an integer's values in all probes."""

    def __init__(self, known: Sequence[Size], probes: Sequence[Widths]) -> None:
        self._probes = probes
        self._known: dict[tuple[int, ...], Size] = {}
        for size in sorted(known, key=lambda size: len(size.each), reverse=True):
            self._known[tuple(size.at(widths) for widths in probes)] = (
                size  # of equal ones the simplest is kept
            )

    def read(self, values: Sequence[Sequence[int]], where: str) -> tuple[Size, ...]:
        """Sizes of several integers; `values` has, per probe, the same integers in the same order."""
        return tuple(self._size(tuple(seen), where) for seen in zip(*values, strict=True))

    def _size(self, seen: tuple[int, ...], where: str) -> Size:
        if len(set(seen)) == 1:
            return Size(seen[0])
        if seen in self._known:
            return self._known[seen]
        for known, size in self._known.items():  # a whole multiple, such as heads of all windows
            times, rest = divmod(seen[0], known[0]) if known[0] else (0, 1)
            if (
                not rest
                and times
                and all(one == times * other for one, other in zip(seen, known, strict=True))
            ):
                return Size(size.fixed * times, tuple((group, each * times) for group, each in size.each))
        raise EdgepruneError(
            f"The {where} is {', '.join(map(str, seen))} at different widths, which follows no group.",
            "Widths are then chosen by the share of the work that they leave.",
        )


def _probes(coupling: Coupling, known: Sequence[Size], rng: np.random.Generator) -> list[dict[str, int]]:
    """Widths of 2 to MOST_PROBES exports, at which as few sizes as possible coincide."""
    probes: list[dict[str, int]] = []
    while len(probes) < 2 or (_coinciding(known, probes) and len(probes) < MOST_PROBES):
        drawn = [_drawn(coupling, rng) for _ in range(PROBE_DRAWS)]
        if len(probes) == 1:  # every group must be seen at two widths
            drawn = [_moved(coupling, widths, probes[0]) for widths in drawn]
        probes.append(min(drawn, key=lambda widths: _coinciding(known, [*probes, widths])))
    return probes


def _coinciding(known: Sequence[Size], probes: Sequence[Widths]) -> int:
    """Number of sizes that equal another in all probes or, from the second probe on, never change."""
    seen = [tuple(size.at(widths) for widths in probes) for size in known]
    still = sum(len(set(values)) == 1 for values in seen) if len(probes) > 1 else 0
    return len(known) - len(set(seen)) + still


def _drawn(coupling: Coupling, rng: np.random.Generator) -> dict[str, int]:
    return {
        group.name: int(rng.integers(max(group.least, group.units // 2), group.units, endpoint=True))
        for group in coupling.groups
    }


def _moved(coupling: Coupling, widths: Widths, other: Widths) -> dict[str, int]:
    return {
        group.name: (
            widths[group.name]
            if widths[group.name] != other[group.name]
            else max(group.least, widths[group.name] - 1)
            if widths[group.name] > group.least
            else min(group.units, widths[group.name] + 1)
        )
        for group in coupling.groups
    }


def _same_structure(one: onnx.ModelProto, other: onnx.ModelProto) -> None:
    names: dict[str, str] = {}
    stored = [{tensor.name for tensor in model.graph.initializer} for model in (one, other)]
    same = len(one.graph.node) == len(other.graph.node)
    for left, right in zip(one.graph.node, other.graph.node, strict=False):
        same &= left.op_type == right.op_type and len(left.input) == len(right.input)
        same &= len(left.output) == len(right.output)
        for a, b in zip(left.input, right.input, strict=False):
            same &= (a in stored[0]) == (b in stored[1])
            same &= a in stored[0] or names.setdefault(a, b) == b
        names.update(zip(left.output, right.output, strict=False))
        for a, b in zip(onnxfile.inner_graphs(left), onnxfile.inner_graphs(right), strict=False):
            same &= a.SerializeToString() == b.SerializeToString()
        if not same:
            break
    if not same:
        raise EdgepruneError(
            "The model has another graph at other widths.",
            "Widths are then chosen by the share of the work that they leave.",
        )


def _initialisers(model: onnx.ModelProto) -> dict[tuple[int, int], onnx.TensorProto]:
    """Stored tensors by (node index, input position), because names differ between exports."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    return {
        (index, at): stored[name]
        for index, node in enumerate(model.graph.node)
        for at, name in enumerate(node.input)
        if name in stored
    }


def _padded_behind(values: Sequence[Sequence[int]]) -> list[list[int]]:
    """Paddings per probe; padding that depends on the widths is moved to the end of its dimension.

    How the padding is shared between both sides depends on which units are kept and not on how many, and does
    not change the latency.
    """
    moved = [list(pads) for pads in values]
    half = len(moved[0]) // 2
    for dim in range(half):
        if len({(pads[dim], pads[half + dim]) for pads in values}) > 1:
            for pads in moved:
                pads[dim], pads[half + dim] = 0, pads[dim] + pads[half + dim]
    return moved


def _put(found: dict[str, tuple[Size, ...]], name: str, value: tuple[Size, ...]) -> None:
    if found.setdefault(name, value) != value:
        raise EdgepruneError(
            f"Initialiser {name} is shared by nodes that need it at different sizes.",
            "Widths are then chosen by the share of the work that they leave.",
        )


def _integers(nodes: Sequence[onnx.NodeProto]) -> dict[str, list[list[int]]]:
    """Integers of each probe, by attribute, for the attributes that differ between probes."""
    found: dict[str, list[list[int]]] = {}
    for name in [entry.name for entry in nodes[0].attribute]:
        entries = [next((e for e in node.attribute if e.name == name), None) for node in nodes]
        values = [[] if e is None else [e.i] if e.type == e.INT else list(e.ints) for e in entries]
        if any(value != values[0] for value in values):
            found[name] = values
    return found


def _shapes(model: onnx.ModelProto, length: int) -> dict[str, tuple[int, ...]]:
    """Shapes at batch 1 and a length, by value, of the values whose every dimension is known."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in fixed.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = length if dim.dim_param == LENGTH_NAME else 1
    del fixed.graph.value_info[:]
    graph = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
    found = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims: Any = value.type.tensor_type.shape.dim
        if all(dim.HasField("dim_value") for dim in dims):
            found[value.name] = tuple(dim.dim_value for dim in dims)
    return found
