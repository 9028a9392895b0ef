"""What TensorRT refuses is refused before it sees the file, by name; its own parser says if that is right."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser

from edgeprune.errors import InputError
from edgeprune.export import export_onnx
from edgeprune.quantize.calibrate import calibrate
from edgeprune.quantize.tensorrt import engines
from edgeprune.quantize.tensorrt.refusals import check_types
from tests.support.int8_files import quantise

pytestmark = pytest.mark.usefixtures("exports_once")

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx_bindings") is None, reason="TensorRT for RTX is not installed"
)


@dataclass(frozen=True)
class Refused:
    name: str
    graph: str
    says: str
    agreed: bool = True  # TensorRT for RTX 1.7 refuses it too


REFUSED = (
    Refused("no importer", "g (float[2, 2] x) => (float y) { [d] y = Det(x) }", "node d is a Det"),
    Refused(
        "no importer, either", "g (float[2] x) => (float[K] y) { [u] y = Unique(x) }", "node u is a Uniq"
    ),
    Refused(
        "wants a plug-in", "g (float[4] x) => (int64[1, K] y) { [n] y = NonZero(x) }", "node n is a NonZ"
    ),
    Refused(
        "indices of a pool",
        "g (float[1, 1, 4, 4] x) => (float[1, 1, 2, 2] y, int64[1, 1, 2, 2] i) "
        "{ [pool] y, i = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(x) }",
        "node pool asks for the indices of a MaxPool",
    ),
    Refused(
        "bytes that are added",
        "g (uint8[N, 4] x) => (uint8[N, 4] y) { [add] y = Add(x, x) }",
        "node add computes with uint8",
    ),
    Refused(
        "bytes inside",
        "g (float[N, 4] x) => (float[N, 4] y) { [up] d = Cast<to = 2>(x) [down] y = Cast<to = 1>(d) }",
        "node up computes with uint8",
    ),
    Refused(
        "short integers inside",
        "g (float[N, 4] x) => (float[N, 4] y) { [up] d = Cast<to = 5>(x) [down] y = Cast<to = 1>(d) }",
        "node up casts to INT16",
    ),
    Refused(
        "short integers that are given",
        "g (int16[N, 4] x) => (float[N, 4] y) { [cast] y = Cast<to = 1>(x) }",
        "x is INT16, which a TensorRT engine does not take",
    ),
    Refused(
        "short integers that are stored",
        "g (float[2] x) => (float[2] y) <int16[2] c = {1, 2}> "
        "{ [cast] d = Cast<to = 1>(c) [add] y = Add(x, d) }",
        "node cast reads constants of type INT16",
    ),
    Refused("text", "g (string[N] x) => (string[N] y) { [same] y = Identity(x) }", "x is STRING"),
    Refused(
        "an image of any size",
        "g (float[N, 1, H, W] x) => (float[N, 1, H, W] y) { [relu] y = Relu(x) }",
        r"input x leaves more open than its batch: \['N', 1, 'H', 'W'\]",
    ),
    Refused(
        "float64 that is stored",
        "g (float[2] x) => (float[2] y) <double[1] c = {1.0}> "
        "{ [cast] d = Cast<to = 1>(c) [add] y = Add(x, d) }",
        "node cast computes in float64",
        agreed=False,  # TensorRT narrows it, and then it is another model
    ),
    Refused(
        "float64 that is given",
        "g (double[N, 4] x) => (double[N, 4] y) { [add] y = Add(x, x) }",
        "x is DOUBLE, which a TensorRT engine does not take",
        agreed=False,
    ),
)
TAKEN = {
    "tokens": "g (int64[N, 4] ids) => (float[N, 4, 2] y) <float[3, 2] t = {0, 1, 2, 3, 4, 5}> "
    "{ [take] y = Gather(t, ids) }",
    "bytes that are made float first": "g (uint8[N, 4] x) => (float[N, 4] y) { [cast] y = Cast<to = 1>(x) }",
    "bytes that leave": "g (float[N, 4] x) => (uint8[N, 4] y) { [cast] y = Cast<to = 2>(x) }",
    "a mask": "g (bool[N, 4] m, float[N, 4] x) => (float[N, 4] y) { [pick] y = Where(m, x, x) }",
}


def parsed(graph: str) -> onnx.ModelProto:
    return parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]>\n{graph}')


def written(graph: str, folder: Path) -> Path:
    onnx.save(parsed(graph), str(folder / "m.onnx"))
    return folder / "m.onnx"


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_what_tensorrt_has_not_is_refused_before_a_build_with_its_name(case: Refused) -> None:
    with pytest.raises(InputError, match=rf"m\.onnx: {case.says}") as refused:
        check_types(parsed(case.graph), "m.onnx")
    assert refused.value.hint


@needs_rtx
@pytest.mark.parametrize("case", [each for each in REFUSED if each.agreed], ids=lambda case: case.name)
def test_tensorrt_itself_refuses_it_too(
    case: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "check_types", lambda model, file: {})
    with pytest.raises(engines.EdgepruneError, match=r"TensorRT (refuses|does not build) m\.onnx"):
        engines.build_engine(written(case.graph, tmp_path), "SM86")


@pytest.mark.parametrize("case", TAKEN)
def test_what_tensorrt_takes_is_not_refused(case: str) -> None:
    assert check_types(parsed(TAKEN[case]), "m.onnx") == {}


@needs_rtx
@pytest.mark.parametrize("case", TAKEN)
def test_tensorrt_itself_takes_it_too(case: str, tmp_path: Path) -> None:
    assert engines.build_engine(written(TAKEN[case], tmp_path), "SM86").plan_mib > 0


@dataclass(frozen=True)
class Stored:
    kind: type[np.generic]
    zero_point: int
    says: str


STORED = {
    "a quantised bias": Stored(np.int32, 0, "is quantised as INT32"),
    "unsigned weights": Stored(np.uint8, 0, "is quantised as UINT8"),
    "a zero point": Stored(np.int8, 3, "has a zero point other than 0"),
}


@needs_rtx
@pytest.mark.parametrize("case", STORED)
def test_integers_that_tensorrt_refuses_are_refused_first(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = STORED[case]
    arrays = {
        "w": np.ones((4, 4), stored.kind),
        "s": np.array(0.1, np.float32),
        "z": np.array(stored.zero_point, stored.kind),
    }
    float_type = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [
            helper.make_node("DequantizeLinear", list(arrays), ["f"], "head.weight.dequantize"),
            helper.make_node("MatMul", ["x", "f"], ["y"], "head"),
        ],
        "g",
        [helper.make_tensor_value_info("x", float_type, ["N", 4])],
        [helper.make_tensor_value_info("y", float_type, ["N", 4])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)]), str(path))
    with pytest.raises(InputError, match=f"node head.weight.dequantize {stored.says}"):
        check_types(onnx.load(path), "m.onnx")
    monkeypatch.setattr(engines, "check_types", lambda model, file: {})
    with pytest.raises(InputError, match=r"TensorRT refuses m\.onnx .* node 'head\.weight\.dequantize'"):
        engines.build_engine(path, "SM86")


@pytest.mark.parametrize("dialect", ["onnxruntime-x86", "onnxruntime-arm"])
def test_another_dialect_is_refused_before_tensorrt_sees_it(
    dialect: str, nets: ModuleType, tmp_path: Path
) -> None:
    exported = export_onnx(nets.residual(), tmp_path / "float.onnx")
    ranges = calibrate(nets.residual(), nets.images(4, 4), "minmax")
    with pytest.raises(InputError, match=r"node .* (UINT8|INT32|zero point)"):
        check_types(quantise(exported, ranges, dialect, tmp_path / "int8.onnx").model, "int8.onnx")
