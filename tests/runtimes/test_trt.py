"""TensorRT's session against a scripted library and driver; where there is a GPU, test_contract runs it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edgeprune.devices import agent
from edgeprune.runtimes import trt_layers

pytestmark = pytest.mark.usefixtures("exports_once")

FAKE = Path(__file__).parents[1] / "support" / "fake_tensorrt"
SESSION = agent.load_module("trt.py")


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fake_cuda: ModuleType) -> Callable[..., Any]:
    """Loads an artefact as the agent does, with a fake TensorRT here and in the build's process."""
    pytest.importorskip("onnxruntime")
    monkeypatch.syspath_prepend(str(FAKE))
    monkeypatch.setenv("PYTHONPATH", str(FAKE))
    monkeypatch.setenv("EDGEPRUNE_ENGINES", str(tmp_path / "engines"))

    def load(path: Path, *arguments: Any, driver: Any = None, **options: Any) -> Any:
        monkeypatch.setattr(SESSION.cuda, "open_driver", lambda: driver or fake_cuda.FakeDriver())
        return SESSION.serving("tensorrt").Runner(str(path), 1, *arguments, **options)

    return load


@pytest.fixture
def model(small_onnx: ModuleType, tmp_path: Path) -> Path:
    path: Path = small_onnx.linear(tmp_path / "m.onnx")
    return path


def test_an_engine_of_one_row_serves_one_row_and_many(
    session: Callable[..., Any], small_onnx: ModuleType, model: Path
) -> None:
    runner = session(model)
    assert runner.inputs == [("x", "float32", (None, 8))]
    assert [name for name, _, _ in runner.outputs] == ["y", "z"]
    for rows in (1, 5):
        x = np.random.default_rng(rows).standard_normal((rows, 8)).astype(np.float32)
        for got, want in zip(runner.run({"x": x}), small_onnx.linear_in_numpy(x), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_a_last_piece_that_does_not_fill_the_batch_is_served_too(
    session: Callable[..., Any], small_onnx: ModuleType, model: Path
) -> None:
    x = np.random.default_rng(0).standard_normal((7, 8)).astype(np.float32)
    got = session(model, batch=3).run({"x": x})[0]
    np.testing.assert_allclose(got, small_onnx.linear_in_numpy(x)[0], rtol=1e-5, atol=1e-6)


def test_outputs_stay_valid_after_the_next_run(session: Callable[..., Any], model: Path) -> None:
    runner = session(model)
    first = runner.run({"x": np.ones((1, 8), np.float32)})[1]
    kept = first.copy()
    runner.run({"x": np.zeros((1, 8), np.float32)})
    np.testing.assert_array_equal(first, kept)


def test_an_engine_is_built_once_and_its_timings_are_kept(
    session: Callable[..., Any], model: Path, tmp_path: Path
) -> None:
    told = [session(model, memory_mib=512.0).settings() for _ in range(2)]
    assert [each["engine"].split()[0] for each in told] == ["built", "from"]
    assert told[0]["workspace_mib"] == "512"
    assert told[0]["gpu"] == "Scripted GPU SM87"
    assert "inside the timing" in told[0]["copies"]
    names = sorted(path.name for path in (tmp_path / "engines").iterdir())
    assert [name.rpartition(".")[2] for name in names] == ["plan", "json", "cache"]
    assert all("tensorrt-10.3.0-Scripted_GPU_SM87" in name for name in names)


@pytest.mark.parametrize("change", ["batch", "memory", "content"])
def test_another_batch_memory_or_file_is_another_engine(
    session: Callable[..., Any], small_onnx: ModuleType, model: Path, change: str
) -> None:
    session(model, memory_mib=64.0)
    if change == "content":
        small_onnx.linear(model, relu=False)
    again = session(
        model, batch=2 if change == "batch" else 1, memory_mib=32.0 if change == "memory" else 64.0
    )
    assert again.settings()["engine"].startswith("built")


def test_a_plan_is_loaded_as_it_is(session: Callable[..., Any], model: Path, tmp_path: Path) -> None:
    session(model)
    (plan,) = (tmp_path / "engines").glob("*.plan")
    assert "built elsewhere" in session(plan).settings()["engine"]


def test_a_plan_of_another_version_is_refused(session: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "old.plan").write_bytes(b'fake engine {"version": "8.6.1", "batch": 1}\n')
    with pytest.raises(
        ValueError, match=r"old\.plan is no engine of TensorRT 10\.3\.0 for Scripted GPU SM87"
    ):
        session(tmp_path / "old.plan")


def test_memory_of_the_gpu_is_what_the_driver_says_was_taken(
    session: Callable[..., Any], model: Path, fake_cuda: ModuleType
) -> None:
    driver = fake_cuda.FakeDriver()
    runner = session(model, driver=driver, batch=4)
    taken = sum(len(memory) for memory in driver.device.values())
    assert taken == 4 * 4 * (8 + 5 + 5)
    assert runner.device_mib() == taken / 2**20


def test_every_query_copies_there_runs_and_copies_back(
    session: Callable[..., Any], model: Path, fake_cuda: ModuleType
) -> None:
    driver = fake_cuda.FakeDriver()
    runner = session(model, driver=driver)
    driver.log.clear()
    runner.run({"x": np.ones((1, 8), np.float32)})
    back = ["cuMemcpyDtoHAsync_v2"] * 2
    assert driver.log == ["cuMemcpyHtoDAsync_v2", *back, "cuStreamSynchronize"]


def test_an_error_of_the_driver_is_named(
    session: Callable[..., Any], model: Path, fake_cuda: ModuleType
) -> None:
    driver = fake_cuda.FakeDriver(fails={"cuMemAlloc_v2": 2})
    with pytest.raises(RuntimeError, match=r"cuMemAlloc_v2: .* \(2\)"):
        session(model, driver=driver)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [((True,), "no exact INT8 mode"), ((False, "CPU"), "no device 'CPU'"), ((False, "GPU:x"), "GPU:x")],
    ids=["exact", "CPU", "not a number"],
)
def test_what_tensorrt_cannot_do_is_refused(
    session: Callable[..., Any], model: Path, arguments: tuple[Any, ...], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        session(model, *arguments)


@pytest.mark.parametrize(
    "feed", [np.ones((1, 8)), np.ones((1, 7), np.float32)], ids=["float64", "seven columns"]
)
def test_a_feed_of_another_type_or_shape_is_refused(
    session: Callable[..., Any], model: Path, feed: Any
) -> None:
    with pytest.raises(ValueError, match="input x is float"):
        session(model).run({"x": feed})


def test_a_fixed_batch_takes_no_other(
    session: Callable[..., Any], small_onnx: ModuleType, tmp_path: Path
) -> None:
    runner = session(small_onnx.linear(tmp_path / "four.onnx", batch=4))
    assert runner.inputs == [("x", "float32", (4, 8))]
    with pytest.raises(ValueError, match="takes 4 rows, not 3"):
        runner.run({"x": np.ones((3, 8), np.float32)})


def test_a_build_that_fails_says_why(session: Callable[..., Any], model: Path) -> None:
    model.write_bytes(b"not an onnx file")
    with pytest.raises(RuntimeError, match="TensorRT builds no engine to serve: DecodeError"):
        session(model)


def test_the_agent_adds_the_memory_of_the_gpu_and_tells_both(
    session: Callable[..., Any], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = agent.Agent()
    asked._runner = session(model)
    asked._empty_mib = agent.peak_mib()
    monkeypatch.setattr(asked._runner, "device_mib", lambda: 100.0)
    reply, _ = asked.answer({"do": "memory"}, {})
    assert reply["device_mib"] == 100.0
    assert reply["mib"] == reply["host_mib"] + 100.0
    assert reply["added_mib"] == pytest.approx(reply["mib"] - asked._empty_mib)
    state = asked.answer({"do": "state"}, {})[0]["state"]
    assert state["memory:device_mib"] == "100.0"
    assert json.dumps(state)


def test_without_a_driver_the_sentence_says_so() -> None:
    if Path("/dev/nvidia0").exists():
        pytest.skip("this machine has an NVIDIA GPU")
    with pytest.raises(OSError, match="no NVIDIA driver"):
        SESSION.cuda.open_driver()


@pytest.fixture
def int8(nets: ModuleType, tmp_path: Path) -> Any:
    """A residual net in INT8 and float16, as it is written for TensorRT."""
    pytest.importorskip("torch")
    from edgeprune.export import export_onnx
    from edgeprune.quantize.calibrate import calibrate
    from tests.support.int8_files import quantise

    net, batches = nets.residual(), nets.images(2, 4)
    path = export_onnx(net, tmp_path / "float.onnx")
    return quantise(path, calibrate(net, batches, "minmax"), "tensorrt", tmp_path / "int8.onnx")


def test_an_engine_that_keeps_every_int8_layer_is_served(session: Callable[..., Any], int8: Any) -> None:
    told = session(int8.path).settings()
    assert told["int8_layers"] == f"{len(int8.layers_int8)}, seen in the engine inspector"


def test_an_engine_that_runs_an_int8_layer_in_float_is_refused_with_its_name(
    session: Callable[..., Any], int8: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TENSORRT_FLOAT", "stem.0")
    for _ in range(2):  # now, and from the cache
        with pytest.raises(ValueError, match=r"INT8 layers the engine runs 1 in float: stem\.0") as caught:
            session(int8.path)
        assert caught.value.layers == ["stem.0"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("version", ["10.3.0", "11.4.0"])
def test_the_inspectors_of_tensorrt_10_and_11_are_both_read(
    session: Callable[..., Any], int8: Any, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setenv("FAKE_TENSORRT_VERSION", version)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    assert session(int8.path).settings()["int8_layers"].startswith(f"{len(int8.layers_int8)}, seen in")
    monkeypatch.setenv("FAKE_TENSORRT_FLOAT", "stem.0")
    monkeypatch.setenv("EDGEPRUNE_ENGINES", str(int8.path.parent / "other engines"))
    with pytest.raises(ValueError, match=r"runs 1 in float: stem\.0"):
        session(int8.path)


@pytest.mark.parametrize(
    ("silent", "sentence"),
    [
        ("1", r"tells no more of a layer than its name: 'stem\.0"),
        ("mute", "the engine inspector's answer cannot be read: ''"),
    ],
    ids=["names alone", "nothing"],
)
def test_an_engine_of_which_no_type_can_be_read_is_refused(
    session: Callable[..., Any], int8: Any, monkeypatch: pytest.MonkeyPatch, silent: str, sentence: str
) -> None:
    monkeypatch.setenv("FAKE_TENSORRT_SILENT", silent)
    with pytest.raises(RuntimeError, match=f"TensorRT builds no engine to serve: ValueError: .*{sentence}"):
        session(int8.path)


def test_a_float_engine_needs_no_inspector(
    session: Callable[..., Any], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TENSORRT_SILENT", "mute")
    assert session(model).settings()["int8_layers"] == "0"


def test_a_layer_without_types_among_others_is_refused_and_never_given_back(int8: Any) -> None:
    account = {"int8": ["a"], "not_int8": ["b"], "unread": ["c"], "source": "engine inspector"}
    with pytest.raises(ValueError, match=r"does not tell the types of 1: c; .* not taken for INT8") as caught:
        SESSION._check_int8(account)
    assert not hasattr(caught.value, "layers")


def test_a_tensorrt_without_strong_types_is_refused(
    session: Callable[..., Any], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TENSORRT_VERSION", "8.6.1")
    with pytest.raises(RuntimeError, match=r"TensorRT 8\.6\.1 takes no types from the file: 10\.0"):
        session(model)


WEIGHT = "body.weight.dequantize"
CASES = {
    "integers": ("CaskConvolution", "Row major Int8 format", "Int8", "int8"),
    "float data": ("CaskConvolution", "Row major linear FP32", "Int8", "not_int8"),
    "float weights": ("gemm", "Int8", "Half", "not_int8"),
    "weights untold": ("gemm", "Int8", None, "unread"),
    "a type unheard of": ("CaskConvolution", "Posit8", "Int8", "unread"),
    "unsigned integers": ("CaskConvolution", "Row major linear UInt8 format", "Int8", "unread"),
    "a float of brain": ("CaskConvolution", "Row major linear BFloat16", "Int8", "unread"),
    "not a layer that multiplies": ("Reformat", "Int8", "Int8", "unread"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_layer_counts_as_int8_only_when_data_and_weights_are_seen_to_be(case: str) -> None:
    kind, data, weights, outcome = CASES[case]
    told: dict[str, Any] = {
        "Name": f"body + {WEIGHT}",
        "LayerType": kind,
        "Inputs": [{"Name": "x", "Dimensions": [1, 8], "Format/Datatype": data}],
        "Metadata": f"[ONNX Layer: body]\x1e[ONNX Layer: {WEIGHT}]",
    }
    if weights is not None:
        told["Weights"] = {"Type": weights, "Count": 64}
    found = trt_layers.check(trt_layers.read_inspector(json.dumps({"Layers": [told]})), ["body"])
    assert {name for name, layers in found.items() if layers} == {outcome}


def test_a_layer_that_the_engine_does_not_name_is_unread() -> None:
    assert trt_layers.check([], ["body"])["unread"] == ["body"]
