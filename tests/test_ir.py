"""OpenVINO IR: what is stored how, and that it computes what the ONNX file does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import edgeprune
from edgeprune.bundle import open_bundle
from edgeprune.devices.artefact import artefact_files, artefact_size_mib
from edgeprune.devices.local import LocalDevice
from edgeprune.errors import EdgepruneError
from edgeprune.export import export_onnx
from edgeprune.ir import HALF_TOLERANCE, difference, write_ir
from edgeprune.measure import Effort
from edgeprune.quantize.calibrate import calibrate
from edgeprune.validating import validate
from tests.support.int8_files import quantise

openvino = pytest.importorskip("openvino")


def served(path: Path, feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled(feeds)
    return [np.array(found[at]) for at in range(len(compiled.outputs))]


def test_an_input_that_nothing_reads_is_kept_in_its_place(tmp_path: Path) -> None:
    kinds = {"mask": TensorProto.INT64, "x": TensorProto.FLOAT, "flag": TensorProto.BOOL}
    inputs = [helper.make_tensor_value_info(name, kind, ["N", 4]) for name, kind in kinds.items()]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    x = np.array([[-1.0, 2.0, -3.0, 4.0]], np.float32)
    feeds = {"mask": np.ones((1, 4), np.int64), "x": x, "flag": np.ones((1, 4), bool)}
    path = write_ir(model, tmp_path / "model.xml", feeds)
    assert [port.get_any_name() for port in openvino.Core().read_model(str(path)).inputs] == list(kinds)
    (found,) = served(path, feeds)
    assert np.array_equal(found, np.maximum(x, 0))


def constants(path: Path) -> Counter[str]:
    """Bytes of the .bin by element type."""
    found: Counter[str] = Counter()
    for node in openvino.Core().read_model(str(path)).get_ops():
        if node.get_type_name() == "Constant":
            found[node.get_element_type().get_type_name()] += node.data.nbytes
    return found


def two_layers(path: Path, first: NDArray[np.float32], second: NDArray[np.float32]) -> Path:
    """y = relu(x @ first) @ second."""
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["positive"]),
        helper.make_node("MatMul", ["positive", "second"], ["y"]),
    ]
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", width])]
        for name, width in (("x", first.shape[0]), ("y", second.shape[1]))
    ]
    weights = [numpy_helper.from_array(first, "first"), numpy_helper.from_array(second, "second")]
    graph = helper.make_graph(nodes, "two", *ends, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.fixture
def matrices() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    numbers = np.random.default_rng(0)
    return (
        numbers.standard_normal((16, 64), dtype=np.float32),
        numbers.standard_normal((64, 4), dtype=np.float32),
    )


FEEDS: dict[str, NDArray[Any]] = {"x": np.random.default_rng(1).standard_normal((3, 16), dtype=np.float32)}


def test_int8_weights_stay_int8_and_compute_bit_for_bit_what_the_onnx_file_does(
    nets: ModuleType, tmp_path: Path
) -> None:
    captured = nets.residual()
    exported = export_onnx(captured, tmp_path / "float.onnx")
    made = quantise(
        exported, calibrate(captured, nets.images(2, 8), "minmax"), "openvino", tmp_path / "int8.onnx"
    )
    feeds = {"image": nets.images(1, 4)[0][0].numpy()}
    path = write_ir(made.model, tmp_path / "model.xml", feeds, float_model=onnx.load(exported))
    np.testing.assert_array_equal(served(path, feeds)[0], served(made.path, feeds)[0])
    graph = onnx.load(made.path).graph
    integers = sum(
        int(np.prod(t.dims)) for t in graph.initializer if t.data_type == TensorProto.INT8 and len(t.dims) > 1
    )
    assert constants(path)["i8"] == integers
    assert constants(path)["f16"] == 0, "only vectors are float"


def test_float_matrices_take_half_and_the_outputs_stay(
    matrices: tuple[NDArray[np.float32], NDArray[np.float32]], tmp_path: Path
) -> None:
    source = two_layers(tmp_path / "m.onnx", *matrices)
    path = write_ir(onnx.load(source), tmp_path / "model.xml", FEEDS)
    assert constants(path) == {"f16": 2 * (16 * 64 + 64 * 4)}
    assert 0 < difference(served(path, FEEDS), served(source, FEEDS)) <= HALF_TOLERANCE


@pytest.mark.parametrize("value", [1e5, -np.inf, 3e-9], ids=["overflows", "is infinite", "vanishes"])
def test_a_tensor_that_fp16_cannot_hold_stays_float32(
    value: float, matrices: tuple[NDArray[np.float32], NDArray[np.float32]], tmp_path: Path
) -> None:
    first, second = matrices
    second = second * np.float32(value) if abs(value) < 1 else second
    second[0, 0] = value
    source = two_layers(tmp_path / "m.onnx", first, second)
    path = write_ir(onnx.load(source), tmp_path / "model.xml", FEEDS)
    assert constants(path) == {"f16": 2 * first.size, "f32": 4 * second.size}
    assert difference(served(path, FEEDS), served(source, FEEDS)) <= HALF_TOLERANCE


def test_where_the_proof_fails_nothing_is_rounded(
    matrices: tuple[NDArray[np.float32], NDArray[np.float32]], tmp_path: Path
) -> None:
    """The difference of two nearly equal products: what FP16 rounds away is all there is."""
    first, second = matrices
    first[:, 1::2] = first[:, ::2]
    second[1::2] = -second[::2] * np.float32(1.0001)
    source = two_layers(tmp_path / "m.onnx", first, second)
    path = write_ir(onnx.load(source), tmp_path / "model.xml", FEEDS)
    assert constants(path) == {"f32": 4 * (first.size + second.size)}
    np.testing.assert_array_equal(served(path, FEEDS)[0], served(source, FEEDS)[0])


def test_the_same_model_gives_the_same_bytes_and_leaves_nothing_else(
    nets: ModuleType, tmp_path: Path
) -> None:
    captured = nets.residual()
    source = export_onnx(captured, tmp_path / "m.onnx")
    feeds = {"image": nets.images(1, 4)[0][0].numpy()}
    for name in ("a", "b"):
        write_ir(onnx.load(source), tmp_path / name / "model.xml", feeds)
        assert {path.name for path in (tmp_path / name).iterdir()} == {"model.xml", "model.bin"}
    for one, other in zip(
        *(artefact_files(tmp_path / name / "model.xml") for name in ("a", "b")), strict=True
    ):
        assert one.read_bytes() == other.read_bytes()
    assert str(tmp_path) not in (tmp_path / "a" / "model.xml").read_text("utf-8")


def residual_blocks(path: Path, blocks: int = 2, width: int = 64) -> Path:
    """x + down(relu(up(x))), again and again."""
    rng = np.random.default_rng(0)
    nodes, weights, stream = [], [], "x"
    for block in range(blocks):
        value = {part: f"{part}{block}" for part in ("up", "positive", "down", "sum")}
        for layer in ("up", "down"):
            for part, shape in (("weight", (width, width)), ("bias", (width,))):
                array = rng.normal(0, 0.1, shape).astype(np.float32)
                weights.append(numpy_helper.from_array(array, f"{layer}{block}.{part}"))
        for layer, source in (("up", stream), ("down", value["positive"])):
            inputs = [source, f"{layer}{block}.weight", f"{layer}{block}.bias"]
            nodes.append(helper.make_node("Gemm", inputs, [value[layer]], transB=1))
            if layer == "up":
                nodes.append(helper.make_node("Relu", [value["up"]], [value["positive"]]))
        nodes.append(helper.make_node("Add", [stream, value["down"]], [value["sum"]]))
        stream = value["sum"]
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", width])] for name in ("x", stream)]
    graph = helper.make_graph(nodes, "residual", *ends, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs a process on one CPU")
def test_a_machine_with_one_cpu_writes_residual_blocks(tmp_path: Path) -> None:
    source = residual_blocks(tmp_path / "model.onnx")
    program = f"""
import os
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
from pathlib import Path
import numpy as np
import onnx
from edgeprune.ir import write_ir
model = onnx.load({str(source)!r})
write_ir(model, Path({str(tmp_path / "model.xml")!r}), {{"x": np.ones((1, 64), np.float32)}})
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    feeds = {"x": np.ones((2, 64), np.float32)}
    assert difference(served(tmp_path / "model.xml", feeds), served(source, feeds)) <= HALF_TOLERANCE


def test_an_operator_that_openvino_lacks_is_refused_by_name(tmp_path: Path) -> None:
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 16])] for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Abacus", ["x"], ["y"], domain="beads")], "odd", *ends)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("beads", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    with pytest.raises(EdgepruneError, match=r"OpenVINO does not take the ONNX model: .*Abacus"):
        write_ir(model, tmp_path / "model.xml", FEEDS)
    assert not (tmp_path / "model.xml").exists()


@dataclass(frozen=True)
class Values:
    name: str
    found: list[float]
    exact: list[float]
    expected: float


VALUES = (
    Values("a share of the largest", [1.0, 4.5], [1.0, 5.0], 0.1),
    Values("infinities that agree", [np.inf, 2.0], [np.inf, 2.0], 0.0),
    Values("an infinity that became a number", [65504.0, 2.0], [np.inf, 2.0], np.inf),
    Values("a number that became infinite", [np.inf, 2.0], [65504.0, 2.0], np.inf),
    Values("NaN that agree", [np.nan, 2.0], [np.nan, 2.0], 0.0),
    Values("a number that became NaN", [np.nan, 2.0], [1.0, 2.0], np.inf),
)


@pytest.mark.parametrize("case", VALUES, ids=lambda case: case.name)
def test_a_difference_is(case: Values) -> None:
    found = difference([np.array(case.found)], [np.array(case.exact)])
    assert found == pytest.approx(case.expected)


def test_a_fit_for_openvino_ships_ir_that_validates(
    tiny: ModuleType, scripted: ModuleType, tmp_path: Path
) -> None:
    """INT8 is what fits; the bundle holds both files, and this machine serves what was promised."""
    device = scripted.ScriptedDevice(lambda artefact: 1.0 if artefact.parent.name == "dense-int8" else 2.0)
    task = tiny.task(model=tiny.TinyNet(64).eval(), evaluate=lambda predict: 0.5)
    result = edgeprune.fit(task, latency_ms=1.5, runtime="openvino", device=device, out=tmp_path / "run")
    assert (result.chosen.name, result.chosen.artefact) == ("dense-int8", "dense-int8/model.xml")
    assert (result.chosen.layers_int8, result.chosen.layers_float) == (4, 0)
    artefact = tmp_path / "run" / result.chosen.artefact
    files = sorted(path.name for path in artefact.parent.iterdir())
    assert files == ["golden.npz", "model.bin", "model.xml", "reference.npz"]
    assert result.chosen.measurement.size_mib == artefact_size_mib(artefact)
    assert result.bundle is not None
    with open_bundle(Path(result.bundle)) as verified:
        assert verified.manifest.artefact == "model.xml"
        assert {"model.xml", "model.bin", "ov.py"} <= {file.path for file in verified.manifest.files}
    quick = Effort(runs=64, seconds=0.1, interleaved=True)
    checks = {
        check.number: check for check in validate(Path(result.bundle), LocalDevice(), effort=quick).checks
    }
    assert [checks[number].outcome for number in (1, 2, 3, 4, 5, 7, 8)] == ["passed"] * 7


def test_a_file_of_the_artefact_that_was_lost_is_made_again(
    tiny: ModuleType, scripted: ModuleType, tmp_path: Path
) -> None:
    told: list[str] = []

    def fitted(resume: bool) -> Any:
        return edgeprune.fit(
            tiny.task(),
            latency_ms=5,
            runtime="openvino",
            device=scripted.ScriptedDevice(lambda artefact: 1.0),
            out=tmp_path / "run",
            resume=resume,
            listen=lambda event: told.append(event.doing),
        )

    first = fitted(False)
    (tmp_path / "run" / "dense" / "model.bin").unlink()
    told.clear()
    again = fitted(True)
    assert "building" in told
    assert again.chosen.measurement.artefact_sha256 == first.chosen.measurement.artefact_sha256
