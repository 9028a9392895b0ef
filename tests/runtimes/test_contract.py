"""Every row of runtimes.TABLE keeps the contract of a session file, when its runtime is installed here."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edgeprune import runtimes
from edgeprune.devices import agent
from edgeprune.errors import InputError, MissingExtraError
from edgeprune.quantize.dialects import TABLE as DIALECTS
from edgeprune.runtimes import AUTO
from edgeprune.shelf import load_target, names

ROWS = list(runtimes.TABLE.values())


@pytest.fixture(params=ROWS, ids=lambda row: row.name)
def session_file(request: pytest.FixtureRequest) -> Any:
    """The session file of a row, imported the way the agent does it."""
    row: runtimes.Runtime = request.param
    if runtimes.version(row.name) is None:
        pytest.skip(f"{row.name} is not installed")
    if row.name in agent.BUILDERS and not has_gpu():
        pytest.skip(f"{row.name} needs an NVIDIA GPU to load an engine")
    return agent.load_session(row.name)


@pytest.fixture(params=[row for row in ROWS if row.name not in agent.BUILDERS], ids=lambda row: row.name)
def profiled_file(request: pytest.FixtureRequest) -> Any:
    """The session file of a runtime that is timed operator by operator."""
    row: runtimes.Runtime = request.param
    if runtimes.version(row.name) is None:
        pytest.skip(f"{row.name} is not installed")
    return agent.load_session(row.name)


def has_gpu() -> bool:
    try:
        agent.load_module("gpu.py").open_driver()
    except OSError:
        return False
    return True


def test_it_computes_what_numpy_computes(session_file: Any, small_onnx: ModuleType, tmp_path: Path) -> None:
    runner = session_file.Runner(str(small_onnx.linear(tmp_path / "m.onnx")), 1)
    for batch in (1, 3):
        x = np.random.default_rng(batch).standard_normal((batch, 8)).astype(np.float32)
        outputs = runner.run({"x": x})
        for got, want in zip(outputs, small_onnx.linear_in_numpy(x), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_outputs_stay_valid_after_the_next_run(
    session_file: Any, small_onnx: ModuleType, tmp_path: Path
) -> None:
    runner = session_file.Runner(str(small_onnx.linear(tmp_path / "m.onnx")), 1)
    first = runner.run({"x": np.ones((1, 8), np.float32)})[1]
    kept = first.copy()
    runner.run({"x": np.zeros((1, 8), np.float32)})
    np.testing.assert_array_equal(first, kept)


def test_it_names_inputs_and_outputs_in_the_models_order(
    session_file: Any, small_onnx: ModuleType, tmp_path: Path
) -> None:
    runner = session_file.Runner(str(small_onnx.difference(tmp_path / "m.onnx")), 1)
    assert [(name, dtype, shape[1]) for name, dtype, shape in runner.inputs] == [
        ("left", "float32", 3),
        ("right", "float32", 3),
    ]
    assert [name for name, _, _ in runner.outputs] == ["out"]
    left, right = np.full((2, 3), 5, np.float32), np.full((2, 3), 2, np.float32)
    np.testing.assert_array_equal(runner.run({"right": right, "left": left})[0], left - right)


def test_a_fixed_batch_is_reported_as_numbers(
    session_file: Any, small_onnx: ModuleType, tmp_path: Path
) -> None:
    runner = session_file.Runner(str(small_onnx.linear(tmp_path / "m.onnx", batch=4)), 1)
    assert runner.inputs == [("x", "float32", (4, 8))]
    x = np.ones((4, 8), np.float32)
    np.testing.assert_allclose(runner.run({"x": x})[0], small_onnx.linear_in_numpy(x)[0], rtol=1e-5)


def test_its_settings_tell_the_threads_it_was_given(
    session_file: Any, small_onnx: ModuleType, tmp_path: Path
) -> None:
    path = str(small_onnx.linear(tmp_path / "m.onnx", batch=1))
    told = [session_file.Runner(path, threads).settings() for threads in (1, 2)]
    changed = {name: (told[0][name], told[1][name]) for name in told[0] if told[0][name] != told[1][name]}
    assert list(changed.values()) == [("1", "2")]


def test_its_version_is_the_one_that_the_table_reports(
    session_file: Any, request: pytest.FixtureRequest
) -> None:
    row: runtimes.Runtime = request.node.callspec.params["session_file"]
    assert session_file.version() == runtimes.version(row.name)


def test_a_profiled_session_tells_the_time_and_the_shapes_of_every_operator(
    profiled_file: Any, small_onnx: ModuleType, tmp_path: Path
) -> None:
    runner = profiled_file.Runner(str(small_onnx.linear(tmp_path / "m.onnx", batch=4096)), 1, profile=True)
    told = runner.operators({"x": np.ones((4096, 8), np.float32)}, 8)
    assert told
    assert all(set(each) == {"name", "kind", "ms", "inputs", "outputs", "sources"} for each in told)
    assert all(each["ms"] >= 0 for each in told)
    assert any([4096, 8] in each["inputs"] and [4096, 5] in each["outputs"] for each in told)


def test_a_session_without_profile_refuses_to_invent_times(
    profiled_file: Any, small_onnx: ModuleType, tmp_path: Path
) -> None:
    runner = profiled_file.Runner(str(small_onnx.linear(tmp_path / "m.onnx")), 1)
    with pytest.raises(ValueError, match="without profile"):
        runner.operators({"x": np.ones((1, 8), np.float32)}, 4)


def test_exact_arithmetic_is_a_setting_of_onnxruntime(small_onnx: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    runner = agent.load_module("ort.py").Runner(str(small_onnx.linear(tmp_path / "m.onnx")), 1, exact=True)
    assert runner.settings()["x64quantprecision"] == "1"


def test_openvino_refuses_exact_arithmetic_instead_of_ignoring_it(
    small_onnx: ModuleType, tmp_path: Path
) -> None:
    pytest.importorskip("openvino")
    with pytest.raises(ValueError, match="no exact INT8 mode"):
        agent.load_module("ov.py").Runner(str(small_onnx.linear(tmp_path / "m.onnx")), 1, exact=True)


def test_onnxruntime_names_the_providers_it_has_when_a_device_is_unknown(
    small_onnx: ModuleType, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(ValueError, match=r"no ABACUSExecutionProvider \(it has .*CPUExecutionProvider"):
        agent.load_module("ort.py").Runner(str(small_onnx.linear(tmp_path / "m.onnx")), 1, device="ABACUS")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_names_a_session_file_that_the_agent_finds(row: runtimes.Runtime) -> None:
    assert row.path.is_file()
    assert row.suffix in row.accepts
    assert Path(agent.sibling(agent.SESSIONS[row.name][0])) == row.path


DEVICE_FILES = [
    Path(agent.__file__),
    *(Path(agent.__file__).with_name(file) for file in ("frames.py", "probe.py")),
    *sorted({row.path.with_name(file) for row in ROWS for file in (row.file, *row.beside)}),
]


@pytest.mark.parametrize("path", DEVICE_FILES, ids=lambda path: path.name)
def test_a_file_that_runs_on_the_device_is_python_3_8_and_needs_no_edgeprune(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert "__future__" in imported  # annotations such as `list[int] | None` are not evaluated
    assert not {name for name in imported if name.split(".")[0] == "edgeprune"}


def test_an_unknown_runtime_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="no runtime 'ort'") as caught:
        runtimes.version("ort")
    assert "onnxruntime" in caught.value.hint


def test_a_missing_runtime_is_reported_with_its_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)  # makes the import fail
    assert runtimes.version("openvino") is None
    with pytest.raises(MissingExtraError) as caught:
        runtimes.require("openvino")
    assert "pip install 'edgeprune[openvino]'" in caught.value.hint


@pytest.mark.parametrize("device", ["HETERO:CPU", "AUTO:CPU", "BATCH:CPU(1)"])
def test_openvino_takes_its_own_device_strings(device: str, small_onnx: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    path = str(small_onnx.linear(tmp_path / "m.onnx"))
    x = np.random.default_rng(0).standard_normal((2, 8)).astype(np.float32)
    outputs = agent.load_module("ov.py").Runner(path, 1, device=device).run({"x": x})
    np.testing.assert_allclose(outputs[0], small_onnx.linear_in_numpy(x)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("device", ["GPU", "NPU"])
def test_openvino_names_the_device_that_this_machine_lacks(
    device: str, small_onnx: ModuleType, tmp_path: Path
) -> None:
    openvino = pytest.importorskip("openvino")
    if device in {name.split(".")[0] for name in openvino.Core().available_devices}:
        pytest.skip(f"this machine has a {device}")
    path = str(small_onnx.linear(tmp_path / "m.onnx", batch=1))
    with pytest.raises(ValueError, match=rf"this openvino has no {device} \(it has .*CPU"):
        agent.load_module("ov.py").Runner(path, 1, device=device)


# What an artefact is written in for each runtime: a dialect is called as its runtime, with what tells it from
# the runtime's others behind, and two runtimes may share one. Those that build engines are proven by a build.
PAIRS = [
    (runtime, dialect)
    for runtime in runtimes.TABLE
    for dialect in DIALECTS
    if dialect.startswith(runtime) or runtime.startswith(dialect)
]


@pytest.fixture(scope="module")
def calibrated(nets: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A residual net as a float file, its ranges, one image, and what the float file makes of it."""
    pytest.importorskip("torch")
    from edgeprune.export import export_onnx
    from edgeprune.quantize.calibrate import calibrate

    net, batches = nets.residual(), nets.images(4, 4)
    path = export_onnx(net, tmp_path_factory.mktemp("pairs") / "float.onnx")
    image = {"image": batches[0][0].numpy()}
    exact = agent.load_session("onnxruntime").Runner(str(path), 1).run(image)[0]
    return path, calibrate(net, batches, "minmax"), image, exact


@pytest.mark.parametrize(("runtime", "dialect"), PAIRS, ids="-".join)
def test_every_runtime_takes_int8_in_its_dialect(
    runtime: str, dialect: str, calibrated: Any, tmp_path: Path
) -> None:
    from tests.support.int8_files import quantise

    if runtimes.version(runtime) is None:
        pytest.skip(f"{runtime} is not installed")
    path, ranges, image, exact = calibrated
    written = quantise(path, ranges, dialect, tmp_path / "int8.onnx")
    if runtime in agent.BUILDERS and not has_gpu():
        from edgeprune.quantize.tensorrt.engines import build_engine

        engine = build_engine(written.path, "SM86")
        assert set(engine.int8) == set(written.layers_int8)
        assert engine.not_int8 == ()
        return
    options = {"exact": True} if runtime == "onnxruntime" else {}
    found = agent.load_session(runtime).Runner(str(written.path), 1, **options).run(image)[0]
    assert np.abs(found - exact).max() < 0.2 * np.abs(exact).max()


def test_the_pairs_cover_every_runtime_every_dialect_and_every_target() -> None:
    assert {runtime for runtime, _ in PAIRS} == set(runtimes.TABLE)
    assert {dialect for _, dialect in PAIRS} == set(DIALECTS)
    for target in map(load_target, names("targets")):
        assert any(
            runtime == target.runtime for runtime, dialect in PAIRS if target.dialect in (AUTO, dialect)
        )
