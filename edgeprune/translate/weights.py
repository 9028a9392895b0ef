"""Steps and weights of a network, from what folding left of a file.

Gemm, and MatMul with a stored matrix, become linear layers with their bias, so that a layer of the file is a
layer of the graph that torch.export captures. Parameters have the names of the file's weights, or of the
operators that read them where the file numbers its weights only.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeprune.graph import onnxfile
from edgeprune.graph.onnx_operator import KeptOperator, LinearSizes, outside_reads
from edgeprune.translate.calls import Call
from edgeprune.translate.checked_file import graph_inputs, opset_of
from edgeprune.translate.kept import kept_operators, output_key
from edgeprune.translate.network import Network, NetworkStep, NotTranslated, StoredTensor
from edgeprune.translate.operators import TABLE
from edgeprune.translate.operators.as_given import AS_GIVEN
from edgeprune.translate.operators.steps import GATES
from edgeprune.translate.shape_folding import Arrays, Folded, folded

MASKED = -1e4  # what is below it switches positions off, and is no weight
FEWEST_ALIKE = 256  # elements from which two equal matrices are one weight that was written twice
_STANDARD = ("", "ai.onnx")
_STATISTICS = {"BatchNormalization": (3, 4)}  # inputs that are measured, not learned
_NORM = ("", "weight", "bias", "running_mean", "running_var")
_ENDINGS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "PRelu"), ("", "weight", "bias")),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization", "LayerNormalization"), _NORM),
    **dict.fromkeys(("GroupNormalization", "RMSNormalization"), _NORM),
    "Gather": ("weight",),
}
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.\w+)+", re.ASCII)


def translated(
    model: onnx.ModelProto, feeds: Sequence[Arrays], path: Path, keep: Collection[str] = ()
) -> Network:
    """Torch module that computes what a file does.

    feeds: inputs by name at one batch or several, as for `shape_folding.folded`. Its other sizes are fixed.
    keep: an output (`output_key`) of each operator that is kept as the file has it.
    Raises `NotTranslated` for another operator that has no translation, as far as that shows before the
    module runs, `InputError` when ONNX Runtime does not run the file.
    """
    model = _without_composites(model)
    left = folded(model, feeds, path, keep)
    wanted = [node for node in left.nodes if set(keep).intersection(node.output)]
    return network_of(model, left, kept_operators(model, wanted, left, feeds, path))


def network_of(
    model: onnx.ModelProto, left: Folded, kept: Mapping[str, KeptOperator] = MappingProxyType({})
) -> Network:
    """Torch module of what folding left of a model. Raises `NotTranslated`.

    kept: by `output_key`, the operators that are called as they are.
    """
    return _Maker(model, left, kept).network


def _without_composites(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, with operators that have no translation written out where ONNX defines them by others."""
    known = {(node.domain, node.op_type) for node in model.graph.node if node.op_type not in TABLE}
    versions = {entry.domain: entry.version for entry in model.opset_import}
    defined = []
    for domain, name in known:
        if onnx.defs.has(name, domain=domain):
            schema = onnx.defs.get_schema(name, versions.get(domain, 1), domain)
            if schema.has_function or schema.has_context_dependent_function:
                defined.append((domain, name))
    if not defined:
        return model
    return onnx.inliner.inline_selected_functions(model, defined, inline_schema_functions=True)


class _Maker:
    """Network in the making."""

    def __init__(self, model: onnx.ModelProto, left: Folded, kept: Mapping[str, KeptOperator]) -> None:
        self.left, self.kept, self.opset = left, kept, opset_of(model)
        ends = [value.name for value in model.graph.output]
        self.reads = Counter([*(name for node in left.nodes for name in onnxfile.reads(node)), *ends])
        self.placed: dict[tuple[str, str], str] = {}  # (value, layout) -> qualified name
        self.alike: dict[str, str] = {}  # digest of a matrix -> qualified name
        self.tensors: dict[str, torch.Tensor] = {}
        self.fused: set[str] = set()  # outputs of additions that are a layer's bias
        steps = [step for at, node in enumerate(left.nodes) for step in self._step(at, node)]
        steps += [self._constant(name) for name in ends if name in left.constants]
        self.network = Network([value.name for value in graph_inputs(model)], ends, steps)
        for name, tensor in self.tensors.items():
            self.network.place(name, tensor)
        self.network.eval()

    def _step(self, at: int, node: onnx.NodeProto) -> list[NetworkStep]:
        if self.fused.issuperset(node.output):
            return []
        if (operator := self.kept.get(output_key(node))) is not None:
            return [self._kept(node, operator)]
        if node.domain not in _STANDARD or node.op_type not in TABLE:
            raise NotTranslated(node, "edgeprune knows no such operator")
        if node.op_type in ("Gemm", "MatMul") and (layer := self._linear(at, node)) is not None:
            return [layer]
        if node.op_type in GATES:
            return [self._recurrent(node)]
        plain = TABLE[node.op_type].plain
        inputs = [self._input(node, place, name, place in plain) for place, name in enumerate(node.input)]
        return [self._made(node, node.op_type, inputs, list(node.output))]

    def _kept(self, node: onnx.NodeProto, operator: KeptOperator) -> NetworkStep:
        """Call of an operator as the file has it. Constants that learn are its parameters."""
        names = outside_reads(node)
        inputs = [self._input(node, at, name, False, known=False) for at, name in enumerate(names)]
        call = Call(AS_GIVEN, {AS_GIVEN: operator.text()}, self.opset)
        outputs = tuple(filter(None, node.output))
        return NetworkStep(AS_GIVEN, call, (LinearSizes((1,), (0,)), *inputs), outputs, node)

    def _made(
        self, node: onnx.NodeProto, op: str, inputs: Sequence[Any], outputs: Sequence[str]
    ) -> NetworkStep:
        asked = max((at for at, name in enumerate(outputs, 1) if name and self.reads[name]), default=1)
        call = Call(node.op_type, _attributes(node), self.opset, asked)
        return NetworkStep(op, call, tuple(inputs), tuple(outputs), node)

    def _input(self, node: onnx.NodeProto, place: int, name: str, plain: bool, *, known: bool = True) -> Any:
        if not name:
            return None
        if name in self.left.sizes:
            return self.left.sizes[name]
        if name not in self.left.constants:
            if plain:
                raise NotTranslated(node, f"its input {name!r} is computed from values")
            return name
        array = self.left.constants[name]
        if plain:
            return [each.item() for each in array.reshape(-1)]
        if known and place in TABLE[node.op_type].known:
            return array
        learned = place not in _STATISTICS.get(node.op_type, ())
        ending = dict(enumerate(_ENDINGS.get(node.op_type, ()))).get(place) or f"value{place}"
        return self._tensor(node, name, ending, array, learned=learned)

    def _constant(self, name: str) -> NetworkStep:
        """An output that does not depend on the inputs."""
        node = helper.make_node("Identity", [name], [name])
        return self._made(node, "Identity", [self._input(node, 0, name, False)], [name])

    # Layers ---------------------------------------------------------------------------------------

    def _linear(self, at: int, node: onnx.NodeProto) -> NetworkStep | None:
        """Linear layer of a product with a stored matrix; None for another product."""
        constants, attributes = self.left.constants, _attributes(node)
        x, matrix = node.input[:2]
        if x in constants or matrix not in constants or constants[matrix].ndim != 2:
            return None
        if constants[matrix].dtype != np.float32:
            return None
        straight = node.op_type == "Gemm" and attributes.get("transB", 0)
        weight = constants[matrix] if straight else constants[matrix].T
        outputs, bias, source = list(node.output), None, ""
        if node.op_type == "Gemm" and len(node.input) > 2 and node.input[2]:
            source = node.input[2]
            bias = constants.get(source)
            if bias is None or bias.size not in (1, len(weight)):
                return None
            bias = np.broadcast_to(bias.reshape(-1), len(weight)) * np.float32(attributes.get("beta", 1.0))
        elif node.op_type == "MatMul" and (added := self._addition(at, node, len(weight))) is not None:
            source, outputs = added
            bias = constants[source].reshape(-1)
        weight = weight * np.float32(attributes.get("alpha", 1.0))
        inputs: list[Any] = [x, self._tensor(node, matrix, "weight", weight, layout="linear")]
        if bias is not None:
            inputs.append(self._tensor(node, source, "bias", bias, layout="linear"))
        return self._made(node, "linear", inputs, outputs)

    def _addition(self, at: int, node: onnx.NodeProto, width: int) -> tuple[str, list[str]] | None:
        """StoredTensor vector that the only reader of a product adds to it, and the sum's name."""
        product = node.output[0]
        if self.reads[product] != 1:
            return None
        reader = next((each for each in self.left.nodes[at:] if product in each.input), None)
        if reader is None or reader.op_type != "Add":
            return None
        vector = next((name for name in reader.input if name != product), "")
        stored = self.left.constants.get(vector)
        if stored is None or stored.ndim != 1 or len(stored) != width:
            return None
        self.fused.update(reader.output)
        return vector, list(reader.output)

    def _recurrent(self, node: onnx.NodeProto) -> NetworkStep:
        """Recurrent layer with its gates in torch's order: 4 tensors for each direction, then states."""
        names = [*node.input, *[""] * 8][:8]
        x, into, back, biases, lengths, *states, peepholes = names
        constants = self.left.constants
        if into not in constants or back not in constants or (biases and biases not in constants):
            raise NotTranslated(node, "its weights are no constants")
        if lengths or peepholes:
            raise NotTranslated(node, "it has lengths of its sequences, or peepholes")
        gates = GATES[node.op_type]
        inputs: list[Any] = [self._input(node, 0, x, False)]
        for way in range(len(constants[into])):
            size = constants[back].shape[-1]
            both = constants[biases][way] if biases else np.zeros(2 * len(gates) * size, np.float32)
            parts = (constants[into][way], constants[back][way], *np.split(both, 2))
            for end, part in zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), parts, strict=True):
                ordered = np.concatenate([np.split(part, len(gates))[gate] for gate in gates])
                ending = f"{end}_l0{'_reverse' * way}"
                inputs.append(self._tensor(node, f"{node.output}", ending, ordered, layout=ending))
        zero = [name in constants and not constants[name].any() for name in states]
        states = ["" if empty else name for name, empty in zip(states, zero, strict=True)]
        inputs += [self._input(node, 5 + place, name, False) for place, name in enumerate(states)]
        return self._made(node, node.op_type, inputs, list(node.output))

    # Tensors --------------------------------------------------------------------------------------

    def _tensor(
        self,
        node: onnx.NodeProto,
        name: str,
        ending: str,
        array: NDArray[Any],
        *,
        learned: bool = True,
        layout: str = "",
    ) -> StoredTensor:
        """Parameter or buffer of a constant, a matrix the same one for all that read it so laid out.

        Of vectors each reader has its own: exporters write equal ones once, as zero biases are.
        """
        known = self.placed.get((name, layout))
        if known is not None and array.ndim > 1:
            return StoredTensor(known)
        tensor = torch.from_numpy(np.array(array, order="C"))
        key = ""
        if learned and _is_weight(array):
            tensor = torch.nn.Parameter(tensor)
            key = _digest(array) if array.ndim > 1 and array.size >= FEWEST_ALIKE else ""
            if key in self.alike:
                self.placed[name, layout] = self.alike[key]
                return StoredTensor(self.alike[key])
        qualified = self._free(_qualified(node, name, ending))
        self.placed[name, layout] = qualified
        self.tensors[qualified] = tensor
        if key:
            self.alike[key] = qualified
        return StoredTensor(qualified)

    def _free(self, name: str) -> str:
        """A name that no tensor has, and that is no module of another one."""
        taken = set(self.tensors)
        taken |= {
            ".".join(parts[:n]) for parts in (one.split(".") for one in taken) for n in range(1, len(parts))
        }
        candidate, number = name, 0
        while candidate in taken or any(
            ".".join(candidate.split(".")[:n]) in self.tensors for n in range(1, candidate.count(".") + 1)
        ):
            number += 1
            candidate = f"{name.replace('.', '_')}_{number}"
        return candidate


def _is_weight(array: NDArray[Any]) -> bool:
    """Whether a constant is learned: no number, no mask, no position in a table."""
    if array.dtype != np.float32 or array.size < 2:
        return False
    return bool(np.isfinite(array).all() and array.min() > MASKED)


def _digest(array: NDArray[Any]) -> str:
    """Digest of a matrix; "" for one of equal numbers, which says nothing."""
    if np.ptp(array) == 0:
        return ""
    return f"{array.shape}{hashlib.sha256(array.tobytes()).hexdigest()}"


def _qualified(node: onnx.NodeProto, name: str, ending: str) -> str:
    """The weight's own name where it is a path, else one by the operator that reads it."""
    if _DOTTED.fullmatch(name):
        return name
    path = node.name.strip("/").split("/")
    scope = ".".join(path[:-1]) if len(path) > 1 else node.name or f"{node.op_type.lower()}_{node.output[0]}"
    parts = [re.sub(r"\W", "_", part) for part in scope.split(".")]
    return ".".join([*filter(None, parts), ending])


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for entry in node.attribute:
        value = helper.get_attribute_value(entry)
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        elif isinstance(value, TensorProto):
            value = numpy_helper.to_array(value)
        elif isinstance(value, onnx.GraphProto):
            raise NotTranslated(node, "which branch it takes, or how often, depends on values")
        elif isinstance(value, list):
            value = [each.decode("utf-8", "replace") if isinstance(each, bytes) else each for each in value]
        found[entry.name] = value
    return found
