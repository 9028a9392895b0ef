"""Attained shares: how much of a machine's peak rates a runtime's kernels were measured to reach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Attained:
    """Shares of a machine's peak rates that a runtime's kernels reach on one kind of device.

    compute, bandwidth: shares of the peak rates. launch_us: before every launch; launch_cycles: the same,
    counted in the processor's clock. function_cycles: of one core for a value of exp, erf, division and the
    like (a GPU has units of their own for them). weights_held, activations_held: how much memory they take,
    as a multiple of their size; fixed_mib: memory of a session beside them; runtime_mib: of the process with
    the runtime imported and nothing loaded, 0 where it is not known.
    latency_off, memory_off: the least and the largest ratio of predicted to measured figures that was seen
        (docs/predicted.md): the error bar of a prediction. Of memory, of what the model adds.
    borrowed: whose these are, where too little was measured of this runtime itself; else empty.
    """

    device: Literal["CPU", "GPU"]
    compute: float
    bandwidth: float
    source: str
    latency_off: tuple[float, float]
    memory_off: tuple[float, float]
    borrowed: str = ""
    launch_us: float = 0.0
    launch_cycles: float = 0.0
    function_cycles: float = 0.0
    weights_held: float = 1.0
    activations_held: float = 1.0
    fixed_mib: float = 0.0
    runtime_mib: float = 0.0


def on_processor(
    compute: float,
    launch: float,
    function: float,
    *,
    weights: float,
    activations: float,
    fixed_mib: float,
    runtime_mib: float,
    latency_off: tuple[float, float],
    memory_off: tuple[float, float],
) -> Attained:
    """Shares that were fitted to one x86 core: `launch` and `function` in its clock cycles."""
    return Attained(
        device="CPU",
        compute=compute,
        bandwidth=0.75,
        source="fitted to one x86 core with VNNI: docs/predicted.md",
        latency_off=latency_off,
        memory_off=memory_off,
        launch_cycles=launch,
        function_cycles=function,
        weights_held=weights,
        activations_held=activations,
        fixed_mib=fixed_mib,
        runtime_mib=runtime_mib,
    )


# Four latencies of two networks, to which it was fitted, say little of others: nothing speaks for predictions
# that are nearer than those for processors, so the error bars are the widest of theirs.
ON_JETSON = Attained(
    device="GPU",
    compute=0.55,
    bandwidth=0.6,
    source=(
        "fitted to MLPerf Inference v3.1, 2023, closed, NVIDIA, SingleStream with CUDA graphs: ResNet-50 and "
        "BERT-large on Jetson AGX Orin and Orin NX"
    ),
    latency_off=(0.50, 1.72),
    memory_off=(0.64, 1.33),
    borrowed="ONNX Runtime and OpenVINO on an x86 core, the widest of both",
    launch_us=3.5,
)

__all__ = ["ON_JETSON", "Attained", "on_processor"]
