"""TensorRT engines built without a GPU: a file parses, builds, and is INT8 where INT8 was wanted."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import onnx
import pytest
import torch
from onnx import parser
from torch import nn

from edgeprune.errors import EdgepruneError, InputError, MissingExtraError
from edgeprune.export import export_onnx
from edgeprune.graph.capture import Captured, capture
from edgeprune.quantize.calibrate import calibrate
from edgeprune.quantize.emit import Quantised
from edgeprune.quantize.tensorrt import engines
from edgeprune.quantize.tensorrt.engines import Engine, build_engine, require_int8
from edgeprune.runtimes import trt_layers
from tests.support.int8_files import Written, quantise

pytestmark = pytest.mark.usefixtures("exports_once")

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx_bindings") is None, reason="TensorRT for RTX is not installed"
)


def quantised(
    captured: Captured, batches: list[tuple[torch.Tensor, ...]], folder: Path, dialect: str
) -> Written:
    path = export_onnx(captured, folder / "float.onnx")
    return quantise(path, calibrate(captured, batches, "minmax"), dialect, folder / "int8.onnx")


class Encoder(nn.Module):
    """Attention and a feed-forward layer, as a transformer has them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.head = nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(x).mean(1))


@needs_rtx
@pytest.mark.parametrize("capability", ["SM86", "SM89"])
def test_every_layer_of_a_convolutional_network_runs_on_integers(
    capability: str, nets: ModuleType, tmp_path: Path
) -> None:
    written = quantised(nets.residual(), nets.images(4, 4), tmp_path, "tensorrt")
    engine = build_engine(written.path, capability)
    assert set(engine.int8) == set(written.layers_int8)
    assert engine.not_int8 == ()
    assert engine.plan_mib > 0
    assert engine.activation_mib > 0
    require_int8(engine)


@needs_rtx
def test_the_matrix_products_of_a_transformer_run_on_integers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    captured = capture(Encoder().eval(), torch.randn(2, 6, 32))
    written = quantised(captured, [captured.inputs], tmp_path, "tensorrt")
    engine = build_engine(written.path, "SM86", batch=2)
    assert set(engine.int8) == set(written.layers_int8)
    assert len(engine.int8) >= 4


@needs_rtx
def test_a_layer_that_stays_float_is_not_taken_for_integers(nets: ModuleType, tmp_path: Path) -> None:
    path = export_onnx(nets.residual(), tmp_path / "float.onnx")
    ranges = calibrate(nets.residual(), nets.images(4, 4), "minmax")
    written = quantise(path, ranges, "tensorrt", tmp_path / "int8.onnx", float_layers=["stem.0"])
    engine = build_engine(written.path, "SM86")
    assert "stem.0" not in (*engine.int8, *engine.not_int8)
    (stem,) = [layer for layer in engine.layers if layer.kind == "correlation" and "stem.0" in layer.onnx]
    assert stem.inputs == ("Half",)


@needs_rtx
def test_a_file_that_tensorrt_refuses_is_refused_with_the_name_of_the_node(tmp_path: Path) -> None:
    model = parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]>\n'
        "agraph (float[1, 4, 6, 6] x) => (float[1, 4, 1, 1] y)\n"
        "{ [pooling] y = AveragePool<kernel_shape: ints = [900, 900], strides: ints = [900, 900], "
        "ceil_mode: int = 1>(x) }"
    )
    onnx.save(model, str(tmp_path / "pool.onnx"))
    with pytest.raises(InputError, match=r"TensorRT refuses pool\.onnx for SM86: node 'pooling'"):
        build_engine(tmp_path / "pool.onnx", "SM86")


@needs_rtx
def test_the_builder_says_itself_what_is_int8(nets: ModuleType, tmp_path: Path) -> None:
    written = quantised(nets.residual(), nets.images(4, 4), tmp_path, "tensorrt")
    answer = engines._build(written.path, "SM86", 1)
    assert set(answer["int8"]) == set(written.layers_int8)
    assert (answer["not_int8"], answer["unread"]) == ([], [])


def test_a_capability_that_cannot_be_built_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no compute capability 'SM87'"):
        build_engine(tmp_path / "model.onnx", "SM87")


def test_layers_that_an_engine_loses_go_back_to_float_until_it_keeps_the_rest(tmp_path: Path) -> None:
    """An engine that cannot do "body", and loses the second call of "shared" once body is float."""
    wanted = ("stem", "body", "shared", "shared#7")
    given: list[tuple[str, ...]] = []

    def without(kept: tuple[str, ...]) -> Quantised:
        given.append(kept)
        return Quantised(onnx.ModelProto(), tuple(name for name in wanted if name not in kept), kept)

    def lost_in(path: Path) -> tuple[str, ...]:
        return {(): ("body",), ("body",): ("shared#7",)}.get(given[-1], ())

    written, back = engines.write_for_engine(without, tmp_path / "m.onnx", lost_in)
    assert given == [(), ("body",), ("body", "shared")]
    assert back == written.layers_float == ("body", "shared")


def test_an_engine_that_loses_another_layer_every_time_is_given_up_with_a_sentence(tmp_path: Path) -> None:
    builds: list[str] = []

    def lost_in(path: Path) -> list[str]:
        builds.append(f"layer{len(builds)}")
        return builds[-1:]

    with pytest.raises(EdgepruneError, match=r"After 6 builds of m\.onnx .* in float: layer5; .*: 6 layers"):
        engines.write_for_engine(
            lambda kept: Quantised(onnx.ModelProto(), (), kept), tmp_path / "m.onnx", lost_in
        )
    assert len(builds) == engines.MOST_ENGINES


def test_an_engine_with_layers_in_float_names_them() -> None:
    engine = Engine("1.7", "SM86", 1.0, 1.0, (), int8=("stem",), not_int8=("body", "head"))
    with pytest.raises(EdgepruneError, match="runs 2 of 3 INT8 layers in float: body, head"):
        require_int8(engine)


LAYER = (
    "Name: body_myl0_4, LayerType: correlation, Inputs: [ { Name: a, Dimensions: [1,16,16,16], Strides: [1], "
    "StrideOrder: [3,0,2,1], Datatype: Int8, Format: (NHWC) Channel major format }], Constants: [ { Name: w, "
    "Dimensions: [16,16,3,3], Strides: [144], StrideOrder: [3], Datatype: Int8, Format: (NHWC) }], Outputs: "
    "[ { Name: o, Dimensions: [1,16,16,16], Strides: [1], StrideOrder: [3], Datatype: Float, Format: (NHWC) }"
    "], TacticName: stub, StreamId: 0, Metadata: [ONNX Layer: body][ONNX Layer: body.weight.dequantize]"
)


def test_the_build_log_is_read_layer_by_layer() -> None:
    (layer,) = trt_layers.read_log(["Layers:", LAYER, "I/O Tensors:"], "1.7.1.116")
    assert (layer["name"], layer["type"]) == ("body_myl0_4", "correlation")
    assert layer["onnx"] == ["body", "body.weight.dequantize"]
    assert layer["inputs"] == [{"type": "Int8", "shape": [1, 16, 16, 16]}]
    assert layer["constants"] == [{"type": "Int8", "shape": [16, 16, 3, 3]}]
    assert layer["outputs"] == [{"type": "Float", "shape": [1, 16, 16, 16]}]


@pytest.fixture
def linear(small_onnx: ModuleType, tmp_path: Path) -> Path:
    path: Path = small_onnx.linear(tmp_path / "m.onnx")
    return path


def answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str) -> None:
    """Put a build script in place that prints `text`."""
    script = tmp_path / "build.py"
    script.write_text(f"print({text!r})")
    monkeypatch.setattr(engines.trt_build, "__file__", str(script))


def test_an_engine_of_which_nothing_can_be_read_is_never_taken_for_int8(
    linear: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answers(
        monkeypatch, tmp_path, json.dumps({"ok": False, "error": "ValueError: the build log names no layer"})
    )
    with pytest.raises(EdgepruneError, match=r"does not build m\.onnx for SM86: .* names no layer"):
        build_engine(linear, "SM86")


def test_a_build_that_dies_without_a_word_says_so(
    linear: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answers(monkeypatch, tmp_path, "Segmentation fault")
    with pytest.raises(EdgepruneError, match="exit 0"):
        build_engine(linear, "SM86")


def test_without_tensorrt_the_line_that_installs_it_is_shown(
    linear: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answers(monkeypatch, tmp_path, json.dumps({"ok": False, "error": "ImportError: neither"}))
    with pytest.raises(MissingExtraError) as error:
        build_engine(linear, "SM86")
    assert "edgeprune[rtx]" in error.value.hint
