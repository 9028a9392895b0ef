"""Forecast of a trial's measurement without a device: a roofline's latency and memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeprune.devices import Device, Feeds, Load
from edgeprune.devices.artefact import artefact_sha256, artefact_size_mib
from edgeprune.errors import InputError
from edgeprune.latency.roofline import Roofline, roofline
from edgeprune.latency.workload import read_workload
from edgeprune.quantize.tensorrt.engines import build_engine, capability_of, require_int8
from edgeprune.records.machine import Profile
from edgeprune.records.trial import DeviceState, Latency, Measurement
from edgeprune.runtimes import exact_runtime, find, require


@dataclass(frozen=True)
class Forecast:
    """Predictor of measurements on one machine in one runtime.

    capability: of the GPU that TensorRT's engines are built for, to prove that they build; None elsewhere.
    """

    profile: Profile
    runtime: str
    roofline: Roofline
    capability: str | None

    def measurement(self, artefact: Path, host: Device, feeds: Feeds, percentile: int) -> Measurement:
        """Measurement of an artefact as the roofline predicts it; the size is measured.

        artefact: an ONNX file, or one that was made from the ONNX file beside it. feeds: one batch, to prove
        on `host` that the artefact runs in its runtime.
        Raises `EdgepruneError` naming the node whose work depends on the data, or what TensorRT refuses.
        """
        onnx, exact = artefact.with_suffix(".onnx"), exact_runtime().name
        workload = read_workload(onnx, self.profile.batch)
        ms = self.roofline.latency_ms(workload)
        return Measurement(
            latency=Latency(ms, ms, ms, ms, percentile, bound_ms=None, runs=0, seconds=0.0),
            added_mib=self.roofline.added_mib(workload),
            process_mib=self.roofline.memory_mib(workload),
            error_bar=self.roofline.error_bar(ms, workload),
            size_mib=artefact_size_mib(artefact),
            artefact_sha256=artefact_sha256(artefact),
            runtime=self.runtime,
            threads=self.profile.threads,
            batch=self.profile.batch,
            drift=None,
            conclusive=True,
            state=DeviceState((), (), (), ()),
            assumptions=(
                *self.roofline.assumptions,
                *self._proven(artefact, host, feeds),
                f"{len(workload.kernels)} launches, fused as runtimes do; how queries vary is not predicted",
                f"metric and golden outputs: computed on this host, by {exact} {require(exact)} in exact "
                "integer arithmetic, not on the device",
            ),
        )

    def _proven(self, artefact: Path, host: Device, feeds: Feeds) -> tuple[str, ...]:
        """Sentence about what building or loading the artefact for its runtime proved, if anything."""
        if find(self.runtime).exact:
            return ()  # the metric is evaluated in it
        if self.capability is None:
            with host.start(Load(self.runtime, artefact, self.profile.threads)) as session:
                session.predict(feeds)
            return (f"{session.runtime_version} loads it and runs it on this host",)
        engine = build_engine(artefact, self.capability, batch=self.profile.batch)
        require_int8(engine)
        own = dict(self.profile.figures)["compute_capability"].value
        device = (
            ""
            if f"SM{own * 10:.0f}" == self.capability
            else f"; its own engine, for {own:g}, the device builds"
        )
        integers = f", with {len(engine.int8)} INT8 layers on integers" if engine.int8 else ""
        return (f"TensorRT for RTX {engine.version} builds it for {self.capability}{integers}{device}",)


def forecast_for(profile: Profile, runtime: str, device: str) -> Forecast:
    """Forecast for a profile's machine.

    Raises `InputError` naming the figure that the profile lacks, `MissingExtraError` without a runtime.
    """
    require(exact_runtime().name)
    roof = roofline(profile, find(runtime), device)
    capability = None
    if find(runtime).builds_engine:
        figure = dict(profile.figures).get("compute_capability")
        if figure is None:
            raise InputError(
                f"Profile {profile.name} has no compute_capability, and TensorRT builds for one.",
                "Add [figures.compute_capability] to a profile of your own, or measure with --device.",
            )
        capability = capability_of(figure.value)
    return Forecast(profile, runtime, roof, capability)
