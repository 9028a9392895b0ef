"""Roofline of a machine: latency and memory of a workload, from the figures of the machine's profile.

Launch by launch (Williams, Waterman and Patterson 2009): a launch takes as long as its arithmetic or its
memory traffic, whichever is longer, and an overhead before it. Peak rates are the profile's sourced figures,
or follow from them by a rule that is printed; the shares of the peaks that kernels attain were measured
(`Runtime.attained`). Every number that enters a prediction is listed in its `assumptions`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeprune.errors import InputError
from edgeprune.latency.kernel import NumberType, Workload
from edgeprune.records.machine import Profile
from edgeprune.records.trial import ErrorBar

if TYPE_CHECKING:
    from edgeprune.runtimes import Attained, Runtime


# Bits that one vector instruction multiplies, by instruction set; the first that the processor has counts.
_VECTORS = (("avx512f", 512), ("avx2", 256), ("asimd", 128))
_PIPES = 2  # vector instructions that multiply and add, per clock
# INT8 products per FP32 product in the same time, and why; the first set that the processor has counts.
_INT8_SPEED = (
    (("avx512_vnni", "avx_vnni", "asimddp", "i8mm"), 4.0, "dot-product instructions add four products"),
    (("avx2", "avx512bw"), 2.0, "VPMADDUBSW and VPMADDWD: two multiplications where FP32 takes four"),
    (("asimd",), 4 / 3, "SMULL, SMLAL2, SADALP: three instructions where FP32 takes four"),
)
# Dense INT8 operations per CUDA core and clock, by compute capability.
_TENSOR_CORES = {
    8.7: (32, "85 TOPS of 2048 cores at 1.3 GHz: Jetson AGX Orin technical brief v1.2, 2022-07"),
    8.9: (16, "660.6 TOPS of 16384 cores at 2.52 GHz: NVIDIA Ada GPU architecture white paper v2.1, 2023"),
}


@dataclass(frozen=True)
class Roofline:
    """Attainable rates of one machine in one runtime, per second; `*_s` are seconds for one."""

    macs: Mapping[NumberType, float]
    bandwidth: float  # bytes
    launch_s: float
    function_s: float
    attained: Attained
    assumptions: tuple[str, ...]

    def latency_ms(self, workload: Workload) -> float:
        seconds = 0.0
        for kernel in workload.kernels:
            arithmetic = kernel.macs / self.macs[kernel.numbers] + kernel.functions * self.function_s
            seconds += self.launch_s + max(arithmetic, kernel.traffic / self.bandwidth)
        return seconds * 1e3

    def error_bar(self, latency_ms: float, workload: Workload) -> ErrorBar:
        """Error bar of predicted figures, by how far the runtime's were off where they were measured."""
        (least, most), (lightest, heaviest) = self.attained.latency_off, self.attained.memory_off
        added_mib = self.added_mib(workload)
        runtime_mib = self.memory_mib(workload) - added_mib
        return ErrorBar(
            (latency_ms / most, latency_ms / least),
            (runtime_mib + added_mib / heaviest, runtime_mib + added_mib / lightest),
        )

    def memory_mib(self, workload: Workload) -> float:
        """Peak memory of the process that serves; of what the model adds alone where no more is known."""
        return self.attained.runtime_mib + self.added_mib(workload)

    def added_mib(self, workload: Workload) -> float:
        """Peak memory that the model adds to the process with the runtime imported."""
        attained = self.attained
        held = attained.weights_held * workload.weight_bytes
        held += attained.activations_held * workload.activation_bytes
        return attained.fixed_mib + held / 2**20


def roofline(profile: Profile, runtime: Runtime, device: str) -> Roofline:
    """Roofline of `runtime` on `device` (the runtime's device string) of a profile's machine.

    Raises `InputError` naming the figure that the profile lacks, and where the shares that the runtime
    attains are not known.
    """
    attained = runtime.attained
    if attained is None or (attained.device == "CPU" and device != "CPU"):
        raise InputError(
            f"Without a device edgeprune cannot predict {runtime.name} on {device}: what it attains is not "
            "known.",
            "Measure: --device ssh://user@host."
            + (f" {runtime.name} can be predicted on {attained.device}." if attained else ""),
        )
    gpu = attained.device == "GPU"
    figures = _Figures(profile)
    macs, lines = _gpu(figures) if gpu else _cpu(figures, profile)
    bandwidth = figures.need("memory_bandwidth", 1e9)
    lines += [figures.line("memory_bandwidth"), *_attained_lines(attained, runtime.name)]
    launch_s, function_s = attained.launch_us * 1e-6, 0.0
    if not gpu:
        clock = figures.need("clock_max", 1e9)
        launch_s = attained.launch_cycles / clock
        function_s = attained.function_cycles / (clock * profile.threads)
    return Roofline(
        macs={numbers: rate * attained.compute for numbers, rate in macs.items()},
        bandwidth=bandwidth * attained.bandwidth,
        launch_s=launch_s,
        function_s=function_s,
        attained=attained,
        assumptions=tuple(lines),
    )


class _Figures:
    """Figures of a profile in base units, and as lines with their sources."""

    def __init__(self, profile: Profile) -> None:
        self._name, self._known = profile.name, dict(profile.figures)

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def need(self, name: str, scale: float = 1.0) -> float:
        """Figure times `scale`; raises `InputError` when the profile lacks it: nothing is guessed."""
        if name not in self._known:
            raise InputError(
                f"Profile {self._name} has no {name}, and a prediction needs it.",
                f"Measure: --device ssh://user@host. Or give a profile of your own with [figures.{name}].",
            )
        return self._known[name].value * scale

    def line(self, name: str) -> str:
        figure = self._known[name]
        return f"{name} {figure.value:g} {figure.unit} ({figure.source})"


def _cpu(figures: _Figures, profile: Profile) -> tuple[Mapping[NumberType, float], list[str]]:
    """Peak multiply-accumulates per second of the profile's threads, each on a core of its own."""
    clock = figures.need("clock_max", 1e9)
    if "cores" in figures and profile.threads > figures.need("cores"):
        raise InputError(
            f"{profile.threads} threads on the {figures.need('cores'):g} cores of profile {profile.name} "
            "cannot be predicted: each would need a core of its own.",
            "Give fewer --threads, or measure with --device.",
        )
    lines = [
        figures.line("clock_max"),
        f"{profile.threads} threads share the work, each on a core of its own",
    ]
    if "float32_macs" in figures:
        macs = figures.need("float32_macs")
        lines.append(figures.line("float32_macs"))
    else:
        name, bits = next(((name, bits) for name, bits in _VECTORS if name in profile.isa), ("", 0))
        if not bits:
            raise InputError(
                f"Profile {profile.name} lists no vector instructions, and a prediction needs them.",
                f"Add isa (one of {', '.join(name for name, _ in _VECTORS)}), or measure with --device.",
            )
        macs = _PIPES * bits / 32
        lines.append(
            f"FP32: {macs:g} multiply-adds per core and clock: {_PIPES} pipes of {bits} bits ({name})"
        )
    gain, why = next((gain, why) for names, gain, why in _INT8_SPEED if set(names) & set(profile.isa))
    lines.append(f"INT8: {gain:.3g} times FP32: {why}")
    half = 2.0 if "asimdhp" in profile.isa else 1.0
    lines.append(f"FP16: {half:g} times FP32" + (" (asimdhp)" if half > 1 else ": computed in FP32"))
    peak = profile.threads * clock * macs
    return {"float32": peak, "float16": half * peak, "int8": gain * peak}, lines


def _gpu(figures: _Figures) -> tuple[Mapping[NumberType, float], list[str]]:
    """Peak multiply-accumulates per second of the tensor cores."""
    if "int8_dense" in figures:
        peak = figures.need("int8_dense", 1e12) / 2
        lines = [figures.line("int8_dense")]
    else:
        capability = figures.need("compute_capability")
        if capability not in _TENSOR_CORES:
            figures.need("int8_dense")
        per_core, source = _TENSOR_CORES.get(capability, (0, ""))
        peak = figures.need("gpu_cores") * figures.need("gpu_clock_max", 1e9) * per_core / 2
        lines = [figures.line("gpu_cores"), figures.line("gpu_clock_max")]
        lines.append(f"INT8: {2 * peak / 1e12:.3g} TOPS, {per_core} operations per core and clock ({source})")
    lines.append("FP16: half of the INT8 rate (A100 312 of 624, RTX 4090 330 of 661: NVIDIA white papers)")
    lines.append("FP32: an eighth of the INT8 rate, as TF32 (RTX 4090 82.6 of 661: NVIDIA Ada white paper)")
    return {"int8": peak, "float16": peak / 2, "float32": peak / 8}, lines


def _attained_lines(attained: Attained, runtime: str) -> list[str]:
    overhead = f"{attained.launch_us:g} us per launch"
    memory = (
        "weights and the activations that are alive at one time, which is what the model adds; not the "
        "driver's and the runtime's own, which are not known: the process will take more"
    )
    if attained.launch_cycles:
        overhead = (
            f"{attained.launch_cycles:g} clocks per launch and {attained.function_cycles:g} per value of "
            "exp, erf, division and the like"
        )
        memory = (
            f"{attained.runtime_mib:g} MiB of the process with the runtime imported, {attained.fixed_mib:g} "
            f"MiB of a session, {attained.weights_held:g} times the weights, "
            f"{attained.activations_held:g} times the activations that are alive at one time"
        )
    return [
        f"{runtime} attains {attained.compute:.0%} of the arithmetic and {attained.bandwidth:.0%} of the "
        f"bandwidth, and takes {overhead} ({attained.source})",
        f"memory: {memory}",
        *(
            [f"error bar: of {attained.borrowed}; hardly any is known for {runtime}"]
            * bool(attained.borrowed)
        ),
    ]
