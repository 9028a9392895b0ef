"""OpenVINO IR of an ONNX model: INT8 weights stay INT8, float weights become FP16 where that is proven.

What is stored in FP16 is still computed in float32, as the session's INFERENCE_PRECISION_HINT asks.
OpenVINO's own compression clips what FP16 cannot hold, and leaves a model that has any INT8 as it is.
"""

from __future__ import annotations

import io
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgeprune.errors import InputError, MissingExtraError
from edgeprune.files import TEMPORARY, replacing, writing
from edgeprune.graph import onnxfile

# Largest |FP16 storage - float32 storage| of an output, as a share of its largest value: half of what INT8 is
# granted between two machines. FP16 rounds a weight by at most 0.05 %; random ResNet-18 moves by 0.11 %.
HALF_TOLERANCE = 0.01
HALF_MAX = float(np.finfo(np.float16).max)  # 65504
HALF_ROUNDING = 2.0**-10  # relative, of a whole tensor: twice FP16's own; more means that values vanished
_LACKS = re.compile(r"No conversion rule found for operations: (.+?)(?: To facilitate|$)")


class _OnnxFile(NamedTuple):
    """Content of an ONNX file, with its inputs."""

    content: bytes
    inputs: Sequence[onnx.ValueInfoProto]


def write_ir(
    model: onnx.ModelProto,
    path: Path,
    feeds: Mapping[str, NDArray[Any]],
    *,
    float_model: onnx.ModelProto | None = None,
    more: Sequence[Mapping[str, NDArray[Any]]] = (),
) -> Path:
    """Write `path` (.xml) and its .bin from an ONNX model; both appear whole or not at all, .xml last.

    feeds: one batch of inputs by name, for the proof: with FP16 storage the outputs keep within
    HALF_TOLERANCE of those of the ONNX model in OpenVINO, else everything stays float32.
    float_model: of an INT8 model, the float one that it was made of: the proof is on that one, because behind
    INT8 the smallest change of a value may fall to another integer, which says nothing about storage.
    more: batches of inputs of other lengths, for the same proof.
    Raises `MissingExtraError` without OpenVINO, `InputError` when it does not take the model.
    """
    core = _core()
    source = _plain(model)
    halved = _read(core, source)
    exact = source if float_model is None else _plain(float_model)
    if _halve(halved) and all(_proven(core, exact, each) for each in (feeds, *more)):
        _save(halved, path)
    else:
        _save(_read(core, source), path)
    return path


def _proven(core: Any, source: _OnnxFile, feeds: Mapping[str, NDArray[Any]]) -> bool:
    """Whether FP16 storage keeps the outputs of a float model."""
    exact = _outputs(core, _read(core, source), feeds)
    halved = _read(core, source)
    _halve(halved)
    return difference(_outputs(core, halved, feeds), exact) <= HALF_TOLERANCE


def difference(found: list[NDArray[Any]], exact: list[NDArray[Any]]) -> float:
    """Largest |found - exact| of an output, as a share of its largest finite |exact|.

    Infinite where infinities and NaN differ.
    """
    return max((_difference(one, other) for one, other in zip(found, exact, strict=True)), default=0.0)


def _difference(found: NDArray[Any], exact: NDArray[Any]) -> float:
    if not exact.size:
        return 0.0
    one, other = found.astype(np.float64), exact.astype(np.float64)
    finite = np.isfinite(other)
    if not np.array_equal(one[~finite], other[~finite], equal_nan=True) or not np.isfinite(one[finite]).all():
        return float("inf")
    gap = float(np.abs(one[finite] - other[finite]).max(initial=0.0))
    return gap / max(float(np.abs(other[finite]).max(initial=0.0)), float(np.finfo(np.float32).tiny))


def _core() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise MissingExtraError(
            f"OpenVINO IR needs openvino: {error}", "Run: pip install 'edgeprune[openvino]'"
        ) from error
    return openvino.Core()


def _plain(model: onnx.ModelProto) -> _OnnxFile:
    """The ONNX file without what costs the IR nodes of XML and tells it nothing.

    Zero points of weights, which are zeros, and INT32 biases, which OpenVINO adds as floats anyway.
    """
    model = onnxfile.copied(model)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    kept = []
    for node in model.graph.node:
        stored = [numpy_helper.to_array(weights[name]) for name in node.input if name in weights]
        if node.op_type == "DequantizeLinear" and len(stored) == len(node.input) > 2 and not stored[2].any():
            del node.input[2:]
            if stored[0].dtype == np.int32 and stored[0].ndim == 1:
                bias = stored[0].astype(np.float32) * stored[1]
                model.graph.initializer.append(numpy_helper.from_array(bias, node.output[0]))
                continue
        kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    onnxfile.drop_unused(model)
    return _OnnxFile(onnxfile.content(model), model.graph.input)


def _read(core: Any, source: _OnnxFile) -> Any:
    """OpenVINO's model, with inputs that nothing in it reads, too: it drops them, and queries bring them."""
    try:
        model = core.read_model(io.BytesIO(source.content))
        return _with_inputs(model, source.inputs)
    except Exception as error:  # openvino raises RuntimeError and its own kinds
        told = " ".join(str(error).split())
        lacks = _LACKS.search(told)
        raise InputError(
            "OpenVINO does not take the ONNX model: "
            + (f"it has no operator for {lacks.group(1)}." if lacks is not None else told[:500]),
            "Write the operator it names with other operators, or serve with another runtime.",
        ) from error


def _with_inputs(model: Any, inputs: Sequence[onnx.ValueInfoProto]) -> Any:
    """The model with all of the inputs, in their order; a cut may leave one that nothing reads."""
    import openvino
    from openvino import opset13 as opset

    found = {name: node for node in model.get_parameters() for name in node.output(0).get_names()}
    if found.keys() >= {value.name for value in inputs}:
        return model
    for value in inputs:
        if value.name not in found:
            tensor = value.type.tensor_type
            sizes = [size.dim_value if size.HasField("dim_value") else -1 for size in tensor.shape.dim]
            kind = openvino.Type(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
            found[value.name] = opset.parameter(openvino.PartialShape(sizes), kind, value.name)
            found[value.name].output(0).get_tensor().set_names({value.name})
    ordered = [found[value.name] for value in inputs]
    return openvino.Model(model.get_results(), ordered, model.get_friendly_name())


def _outputs(core: Any, model: Any, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """Of one batch. The model's dimensions stay dynamic where they are: with a batch of 1 and a single CPU to
    run on, compiling two residual blocks of matrix products crashes the process (openvino 2026.4).
    """
    try:
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        found = compiled(dict(feeds))
    except Exception as error:  # openvino raises RuntimeError and its own kinds
        raise InputError(
            f"OpenVINO does not run the model: {' '.join(str(error).split())[:500]}",
            "Write the operator it names with other operators, or serve with another runtime.",
        ) from error
    return [np.array(found[at]) for at in range(len(compiled.outputs))]


def _halve(model: Any) -> int:
    """Store float32 matrices and filters as FP16 behind a conversion, in place; how many.

    Vectors (scales of INT8, biases, norms) stay: they are less than 1 % of a model, and decide its integers.
    """
    from openvino import opset13 as opset

    halved = 0
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Constant" or node.get_element_type().get_type_name() != "f32":
            continue
        if sum(size > 1 for size in node.get_output_shape(0)) < 2:
            continue
        values = node.data
        half = _halved(values)
        if half is None:
            continue
        targets = node.output(0).get_target_inputs()
        stored = opset.constant(half)
        stored.set_friendly_name(f"{node.get_friendly_name()}.f16")
        widened = opset.convert(stored, "f32")
        widened.set_friendly_name(node.get_friendly_name())
        for target in targets:
            target.replace_source_output(widened.output(0))
        halved += 1
    return halved


def _halved(values: NDArray[np.float32]) -> NDArray[np.float16] | None:
    """In FP16, None when a value overflows (infinities included) or too much of it vanishes."""
    if not np.abs(values).max(initial=0.0) <= HALF_MAX:  # NaN, too, fails this
        return None
    half = values.astype(np.float16)
    lost = float(np.linalg.norm((values - half.astype(np.float32)).ravel().astype(np.float64)))
    whole = float(np.linalg.norm(values.ravel().astype(np.float64)))
    return half if lost <= HALF_ROUNDING * whole else None


def _save(model: Any, path: Path) -> None:
    import openvino

    for at, node in enumerate(model.get_ordered_ops()):
        # OpenVINO numbers what has no name of its own as this process goes: the same model, other bytes.
        kind = node.get_type_name()
        if re.fullmatch(rf"{kind}_\d+", node.get_friendly_name()):
            node.set_friendly_name(f"{kind}.{at}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    beside = tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY)
    with beside as folder, writing(path):
        written = Path(folder) / path.name
        openvino.save_model(model, str(written), compress_to_fp16=False)
        for suffix in (".bin", ".xml"):  # the .xml last: it is what one looks for
            with replacing(path.with_suffix(suffix)) as temporary:
                written.with_suffix(suffix).replace(temporary)


__all__ = ["HALF_TOLERANCE", "difference", "write_ir"]
