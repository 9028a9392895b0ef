"""A run folder as fit leaves it, made without torch and without onnx: two tiny models that really run."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgeprune.bundle import write_bundle, write_golden
from edgeprune.files import sha256
from edgeprune.records.codec import to_json
from edgeprune.records.machine import Budget, Profile, Target
from edgeprune.records.trial import (
    Breach,
    Candidate,
    DeviceState,
    FitResult,
    Latency,
    Measurement,
    Report,
    Verdict,
)

BUDGET = Budget(latency_ms=1000.0, percentile=90, memory_mib=2000.0, size_mib=1.0, max_drop=0.01)
PROFILE = Profile("local", "This machine", "x86_64", threads=1, budget=BUDGET)
TARGET = Target("local", "This machine", "onnxruntime", "onnxruntime-x86", "local", 8)
STATE = DeviceState((), (), (), ())
ROWS, WIDTH, CLASSES = 4, 8, 3


@dataclass(frozen=True)
class Run:
    """A finished fit in `folder`."""

    folder: Path
    result: FitResult

    def bundle(self, destination: Path | None = None, **options: object) -> Path:
        """The bundle of the chosen candidate, or of what `options` ask `write_bundle` for."""
        place = destination or self.folder / "tiny.edgeprune.zip"
        return write_bundle(self.result, self.folder, place, **options)  # type: ignore[arg-type]


def make_run(folder: Path, budget: Budget = BUDGET) -> Run:
    """dense (12 weights more than it needs), its INT8, and two trials; trial-01 is chosen."""
    numbers = np.random.default_rng(0)
    inputs = numbers.standard_normal((ROWS, WIDTH), dtype=np.float32)
    reports = {}
    for at, name in enumerate(("dense", "dense-int8", "trial-01", "trial-02")):
        weight = numbers.standard_normal((WIDTH, CLASSES), dtype=np.float32)
        path = folder / name / "model.onnx"
        path.parent.mkdir(parents=True)
        path.write_bytes(linear_onnx(weight))
        if name == "trial-01":
            write_golden(folder / name / "golden.npz", {"pixels": inputs}, {"output": inputs @ weight})
        reports[name] = _report(name, path, folder, p90_ms=8.0 / (at + 1), params=1000 // (at + 1))
    reports["trial-02"] = replace(reports["trial-02"], metric=0.955)
    misses = Verdict("misses", (Breach("latency_ms", 8.4, 2.5),))
    reports["dense"] = replace(
        reports["dense"], verdict=misses, candidate=Candidate((), "float32"), layers_int8=0, layers_float=2
    )
    result = FitResult(
        verdict=reports["trial-01"].verdict,
        budget=budget,
        metric="top-1",
        baseline=reports["dense"],
        chosen=reports["trial-01"],
        frontier=(reports["trial-01"], reports["trial-02"]),
        trials=tuple(reports[name] for name in ("dense-int8", "trial-01", "trial-02")),
        seconds=61.5,
        bundle=None,
        profile=PROFILE,
        target=TARGET,
        runtime="onnxruntime",
        out=str(folder),
    )
    (folder / "result.json").write_text(json.dumps(to_json(result)))
    return Run(folder, result)


def _report(name: str, path: Path, folder: Path, p90_ms: float, params: int) -> Report:
    latency = Latency(p90_ms * 0.9, p90_ms, p90_ms * 1.2, p90_ms * 2, 90, p90_ms * 1.05, 1000, 10.5)
    return Report(
        name=name,
        candidate=Candidate((("conv1", (0, 2, 5)),), "int8", "minmax", recover="reconstruct"),
        metric=0.965,
        measurement=Measurement(
            latency=latency,
            added_mib=12.5,
            process_mib=12.5,
            size_mib=path.stat().st_size / 2**20,
            artefact_sha256=sha256(path),
            runtime="onnxruntime 1.32.0",
            threads=1,
            batch=1,
            drift=0.004,
            conclusive=True,
            state=STATE,
        ),
        params=params,
        macs=params * 100,
        kept=(("conv1", 3),),
        layers_int8=2,
        layers_float=0,
        recovered=(("reconstruct", 0.93, 0.965, True),),
        artefact=path.relative_to(folder).as_posix(),
        verdict=Verdict("fits"),
    )


def linear_onnx(weight: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> bytes:
    """`output = pixels @ weight` as an ONNX file, encoded by hand: the tests of the wheel have no onnx."""
    rows, columns = weight.shape
    node = _text(1, "pixels") + _text(1, "weight") + _text(2, "output") + _text(4, "MatMul")
    tensor = _number(1, rows) + _number(1, columns) + _number(2, 1) + _text(8, "weight")
    tensor += _bytes(9, weight.astype("<f4").tobytes())
    graph = _bytes(1, node) + _text(2, "linear") + _bytes(5, tensor)
    graph += _bytes(11, _value("pixels", rows)) + _bytes(12, _value("output", columns))
    return _number(1, 8) + _bytes(7, graph) + _bytes(8, _text(1, "") + _number(2, 17))


def _value(name: str, width: int) -> bytes:
    shape = _bytes(1, _text(2, "batch")) + _bytes(1, _number(1, width))
    return _text(1, name) + _bytes(2, _bytes(1, _number(1, 1) + _bytes(2, shape)))


def _bytes(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _text(field: int, text: str) -> bytes:
    return _bytes(field, text.encode())


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
