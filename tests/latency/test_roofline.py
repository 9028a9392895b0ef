"""Latency and memory from figures alone, against arithmetic done by hand; refusals name the figure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgeprune import shelf
from edgeprune.errors import InputError
from edgeprune.latency.kernel import Kernel, NumberType, Workload
from edgeprune.latency.roofline import roofline
from edgeprune.records.machine import Budget, Figure, Profile
from edgeprune.runtimes import TABLE as RUNTIMES
from edgeprune.runtimes import Attained, find


def profile(*isa: str, architecture: str = "aarch64", threads: int = 2, **figures: float) -> Profile:
    """A made-up machine of 1 GHz and 10 GB/s, unless `figures` say otherwise."""
    known = {"clock_max": 1.0, "memory_bandwidth": 10.0, **figures}
    return Profile(
        name="board",
        title="A board",
        architecture=architecture,
        threads=threads,
        budget=Budget(latency_ms=1.0),
        isa=isa,
        figures=tuple(
            (name, Figure(value, "unit", f"data sheet of {name}")) for name, value in known.items()
        ),
    )


def work(
    macs: int = 0,
    traffic: int = 0,
    numbers: NumberType = "float32",
    launches: int = 1,
    functions: int = 0,
) -> Workload:
    return Workload((Kernel("one", macs, numbers, functions, traffic),) * launches, 0, 0)


BOARD = profile("asimd", "asimddp")


def attained(runtime: str) -> Attained:
    found = find(runtime).attained
    assert found is not None
    return found


SHARE = attained("onnxruntime")


def test_a_launch_takes_its_arithmetic_or_its_traffic_and_the_overhead() -> None:
    roof = roofline(BOARD, find("onnxruntime"), "CPU")
    overhead = SHARE.launch_cycles / 1e9 * 1e3
    macs_per_ms = 2 * 1e6 * (2 * 128 // 32) * SHARE.compute
    bytes_per_ms = 10e6 * SHARE.bandwidth
    assert roof.latency_ms(work()) == pytest.approx(overhead)
    assert roof.latency_ms(work(macs=10**8)) == pytest.approx(overhead + 1e8 / macs_per_ms)
    assert roof.latency_ms(work(traffic=10**8)) == pytest.approx(overhead + 1e8 / bytes_per_ms)
    longer = max(1e8 / macs_per_ms, 1e8 / bytes_per_ms)
    assert roof.latency_ms(work(10**8, 10**8)) == pytest.approx(overhead + longer)
    assert roof.latency_ms(work(10**8, 10**8, launches=7)) == pytest.approx(7 * (overhead + longer))


def test_functions_cost_a_processor_clocks_and_a_gpu_nothing() -> None:
    roof = roofline(BOARD, find("onnxruntime"), "CPU")
    added_ms = roof.latency_ms(work(10**8, functions=10**6)) - roof.latency_ms(work(10**8))
    assert added_ms == pytest.approx(1e6 * SHARE.function_cycles / 2e9 * 1e3)
    gpu = roofline(shelf.load_profile("jetson-orin-nano"), find("tensorrt"), "GPU")
    assert gpu.latency_ms(work(10**8, functions=10**6)) == gpu.latency_ms(work(10**8))


@pytest.mark.parametrize(
    ("isa", "float32", "gain"),
    [
        (("asimd",), 8, 4 / 3),
        (("asimd", "asimddp"), 8, 4),
        (("avx2", "fma"), 16, 2),
        (("avx2", "fma", "avx_vnni"), 16, 4),
        (("avx2", "avx512f", "avx512bw"), 32, 2),
        (("avx2", "avx512f", "avx512bw", "avx512_vnni"), 32, 4),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_instruction_sets_say_what_a_core_multiplies(
    isa: tuple[str, ...], float32: float, gain: float
) -> None:
    roof = roofline(profile(*isa, threads=3), find("onnxruntime"), "CPU")
    assert roof.macs["float32"] == pytest.approx(3e9 * float32 * SHARE.compute)
    assert roof.macs["int8"] == pytest.approx(gain * roof.macs["float32"])


def test_a_sourced_figure_overrides_what_the_instruction_sets_promise() -> None:
    roof = roofline(profile("avx2", "fma", float32_macs=8), find("openvino"), "CPU")
    assert roof.macs["float32"] == pytest.approx(2e9 * 8 * attained("openvino").compute)
    assert any("data sheet of float32_macs" in line for line in roof.assumptions)


def test_a_gpu_takes_its_int8_rate_or_derives_it_and_says_so() -> None:
    told = roofline(shelf.load_profile("jetson-orin-nano"), find("tensorrt"), "GPU")
    derived = roofline(shelf.load_profile("jetson-orin-nx"), find("tensorrt"), "GPU")
    share = attained("tensorrt").compute
    assert told.macs["int8"] == pytest.approx(10e12 * share)
    assert derived.macs["int8"] == pytest.approx(0.918e9 * 1024 * 16 * share)
    assert any(
        line.startswith("INT8: 30.1 TOPS, 32 operations per core and clock") for line in derived.assumptions
    )


def test_jetson_figures_agree_with_the_rule_that_derives_missing_ones() -> None:
    """85 TOPS of the AGX Orin and 20 of the Orin Nano are the vendor's own; the rule gives them back."""
    for name in ("jetson-agx-orin", "jetson-orin-nano"):
        own = shelf.load_profile(name)
        without = replace(own, figures=tuple(pair for pair in own.figures if pair[0] != "int8_dense"))
        told, derived = (roofline(each, find("tensorrt"), "GPU").macs["int8"] for each in (own, without))
        assert derived == pytest.approx(told, rel=0.03)


def test_memory_is_weights_activations_and_what_the_runtime_takes() -> None:
    roof = roofline(BOARD, find("onnxruntime"), "CPU")
    held = SHARE.weights_held * 3 + SHARE.activations_held * 5
    added = SHARE.fixed_mib + held
    workload = Workload((), 3 << 20, 5 << 20)
    assert roof.added_mib(workload) == pytest.approx(added)
    assert roof.memory_mib(workload) == pytest.approx(SHARE.runtime_mib + added)
    assert SHARE.runtime_mib > 0


def test_the_error_bar_is_how_far_figures_were_off_and_of_memory_what_the_model_adds() -> None:
    roof = roofline(BOARD, find("onnxruntime"), "CPU")
    workload = Workload((), 3 << 20, 5 << 20)
    bar = roof.error_bar(2.0, workload)
    assert bar.latency_ms == (2.0 / SHARE.latency_off[1], 2.0 / SHARE.latency_off[0])
    added = [roof.added_mib(workload) / off for off in reversed(SHARE.memory_off)]
    assert bar.memory_mib == pytest.approx([SHARE.runtime_mib + each for each in added])
    assert bar.memory_mib[0] < roof.memory_mib(workload) < bar.memory_mib[1]


def test_where_the_runtime_s_own_memory_is_not_known_the_prediction_says_so() -> None:
    roof = roofline(shelf.load_profile("jetson-orin-nano"), find("tensorrt"), "GPU")
    workload = Workload((), 3 << 20, 5 << 20)
    assert roof.memory_mib(workload) == roof.added_mib(workload)
    assert any("not known: the process will take more" in line for line in roof.assumptions)


@pytest.mark.parametrize("missing", ["clock_max", "memory_bandwidth"])
def test_a_missing_figure_is_refused_by_name(missing: str) -> None:
    figures = tuple(pair for pair in BOARD.figures if pair[0] != missing)
    with pytest.raises(InputError, match=f"board has no {missing}") as caught:
        roofline(replace(BOARD, figures=figures), find("onnxruntime"), "CPU")
    assert "--device" in caught.value.hint


def test_a_processor_without_known_vectors_is_refused() -> None:
    with pytest.raises(InputError, match="no vector instructions"):
        roofline(profile(), find("onnxruntime"), "CPU")


def test_a_gpu_of_an_unknown_generation_needs_its_int8_rate() -> None:
    with pytest.raises(InputError, match="no int8_dense"):
        roofline(profile(compute_capability=7.5, gpu_cores=4608, gpu_clock_max=1.7), find("tensorrt"), "GPU")


def test_a_device_whose_share_of_the_peak_nobody_measured_is_refused() -> None:
    with pytest.raises(InputError, match="openvino on NPU"):
        roofline(BOARD, find("openvino"), "NPU")


@pytest.mark.parametrize("name", [name for name in shelf.names("targets") if name != "local"])
def test_every_target_can_be_predicted_on_its_own_profile_from_sourced_lines(name: str) -> None:
    target = shelf.load_target(name)
    machine = shelf.load_profile(target.profile)
    roof = roofline(machine, find(target.runtime), target.device)
    assert 0 < roof.latency_ms(work(10**9, 10**6)) < 1000
    used = dict(machine.figures)["memory_bandwidth"].source
    assert any(used in line for line in roof.assumptions)
    assert any("attains" in line and attained(target.runtime).source in line for line in roof.assumptions)


def test_every_runtime_that_edgeprune_serves_with_can_be_predicted() -> None:
    assert [name for name, row in RUNTIMES.items() if row.attained is None] == []


def test_a_runtime_whose_share_nobody_measured_is_refused() -> None:
    unmeasured = replace(find("openvino"), name="abacus", attained=None)
    with pytest.raises(InputError, match="cannot predict abacus on CPU") as caught:
        roofline(BOARD, unmeasured, "CPU")
    assert caught.value.hint == "Measure: --device ssh://user@host."


def test_a_borrowed_error_bar_is_told_among_the_assumptions() -> None:
    own = roofline(BOARD, find("onnxruntime"), "CPU").assumptions
    assert not any("error bar" in line for line in own)
    jetson = shelf.load_profile("jetson-orin-nano")
    (told,) = [
        line for line in roofline(jetson, find("tensorrt"), "GPU").assumptions if line.startswith("error bar")
    ]
    assert "ONNX Runtime and OpenVINO" in told
    assert told.endswith("hardly any is known for tensorrt")
