"""ONNX Runtime on the device. Standard library, numpy and onnxruntime; Python 3.8; nothing of edgeprune."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime

_NUMPY_NAMES = {"float": "float32", "double": "float64"}  # ORT's C names; the others are numpy's already


_KERNEL = "_kernel_time"


def version() -> str:
    return str(onnxruntime.__version__)


class Runner:
    """Model in one session, served by single synchronous queries on the CPU.

    path: of the file, or its content.
    threads: of the intra-op pool, the calling thread included.
    exact: compute u8*s8 without the 16-bit saturation of x86 machines that lack VNNI, and Q/DQ of float16
        as they are written.
    profile: time every operator (`operators`); queries get a little slower by it.
    """

    def __init__(
        self, path: str | bytes, threads: int, exact: bool = False, device: str = "CPU", profile: bool = False
    ) -> None:
        provider = device + "ExecutionProvider"
        if provider not in onnxruntime.get_available_providers():
            has = ", ".join(onnxruntime.get_available_providers())
            raise ValueError(f"this onnxruntime has no {provider} (it has {has})")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        # A spinning pool burns a core after every query: here 40 ms of it, and a p99 of 4.5 ms instead
        # of 0.4 ms for a model of 0.28 ms on 2 cores. It would also disturb whoever is timed next.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        unfused = exact and _in_float16(path)
        # It would quantise, per tensor and unasked, every float layer that stands between integers: those
        # that were left in float because INT8 hurts them.
        options.add_session_config_entry(
            "optimization.disable_specified_optimizers", "WeightBiasQuantization"
        )
        if exact:
            options.add_session_config_entry("session.x64quantprecision", "1")
        self._folder = tempfile.TemporaryDirectory(prefix="edgeprune-") if profile else None
        if self._folder is not None:
            options.enable_profiling = True
            options.profile_file_prefix = os.path.join(self._folder.name, "profile")
        if unfused:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        self._session = onnxruntime.InferenceSession(path, options, providers=[provider])
        self._settings = {
            "intra_op_num_threads": str(threads),
            "inter_op_num_threads": "1",
            "execution_mode": "sequential",
            "allow_spinning": "0",
            "x64quantprecision": "1" if exact else "0",
            "disable_quant_qdq": "1" if unfused else "0",
            "providers": ",".join(self._session.get_providers()),
        }
        self.inputs = [_port(node) for node in self._session.get_inputs()]
        self.outputs = [_port(node) for node in self._session.get_outputs()]

    def run(self, feeds: Mapping[str, Any]) -> list[np.ndarray[Any, Any]]:
        """The outputs in the model's order, for inputs by name."""
        outputs: list[np.ndarray[Any, Any]] = self._session.run(None, feeds)
        return outputs

    def operators(self, feeds: Mapping[str, Any], runs: int) -> list[dict[str, Any]]:
        """Milliseconds of every operator as this runtime fused them, in the order in which they run.

        [{name, kind, ms, inputs, outputs, sources}]; ms is the mean of the quickest third of the runs: the
        runtime counts whole microseconds, and other load only adds. Needs `profile`, can be asked once.
        """
        if self._folder is None:
            raise ValueError("this session was started without profile")
        for _ in range(runs):
            self._session.run(None, dict(feeds))
        path = self._session.end_profiling()
        with open(path, encoding="utf-8") as stream:
            events = json.load(stream)
        self._folder.cleanup()
        found: dict[str, Any] = {}
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith(_KERNEL):
                found.setdefault(event["name"], []).append(event)
        return [_operator(name[: -len(_KERNEL)], seen) for name, seen in found.items()]

    def settings(self) -> dict[str, str]:
        """Settings that decide speed and arithmetic, for the record."""
        return dict(self._settings)


def _in_float16(path: str | bytes) -> bool:
    """Whether edgeprune wrote the file in float16, for TensorRT.

    onnxruntime (1.32) fuses such Q/DQ into kernels for float32 scales: it refuses its own graph, or computes
    something else (EfficientNet's outputs move by 12 % instead of 2 %).
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    meta = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]).get_modelmeta()
    return str(meta.custom_metadata_map.get("edgeprune.types")) == "float16"


def _port(node: Any) -> tuple[str, str, tuple[Any, ...]]:
    """Port of a model: name, numpy dtype, shape (a string or None where it is dynamic)."""
    inner = str(node.type).split("(", 1)[-1].rstrip(")")  # "tensor(float)" -> "float"
    return str(node.name), _NUMPY_NAMES.get(inner, inner), tuple(node.shape)


def _operator(name: str, events: list[Any]) -> dict[str, Any]:
    """Record of an operator from its events, one a run; the first run of a session is not counted."""
    times = sorted(int(event["dur"]) for event in events[1:] or events)
    quick = times[: (len(times) + 2) // 3]
    told = events[-1]["args"]
    return {
        "name": name,
        "kind": str(told.get("op_name", "")),
        "ms": sum(quick) / len(quick) / 1e3,
        "inputs": _tensor_shapes(told.get("input_type_shape", [])),
        "outputs": _tensor_shapes(told.get("output_type_shape", [])),
        "sources": [],
    }


def _tensor_shapes(told: Any) -> list[list[int]]:
    return [[int(size) for size in shape] for entry in told for shape in entry.values()]
