"""OpenVINO on the device. Standard library, numpy and openvino; Python 3.8; nothing of edgeprune."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import openvino

_REPORTED = (
    "PERFORMANCE_HINT",
    "INFERENCE_NUM_THREADS",
    "NUM_STREAMS",
    "ENABLE_CPU_PINNING",
    "INFERENCE_PRECISION_HINT",
    "EXECUTION_DEVICES",
)
_VIRTUAL = {"AUTO", "BATCH", "HETERO", "MULTI"}  # devices that choose among the others


_FIRST_RUNS = 2  # that fill the caches
_STEADY = 1.05  # times the quickest query: slower ones were disturbed
_PROFILES = 4  # compilations at most, until half of `runs` queries were not disturbed
# Residual blocks that crash its compiler are no larger: 8 rows do, 12 do not; 256 features do, 257 do not.
_ROWS, _FEATURES = 11, 256


def version() -> str:
    return str(openvino.__version__).split("-")[0]  # without the build number and the commit


def devices() -> list[str]:
    return [str(name) for name in openvino.Core().available_devices]


class Runner:
    """Model compiled for one device, served by single synchronous queries.

    A model with dynamic dimensions is compiled for the shapes of its first query, because OpenVINO runs
    dynamic shapes slower; a query of other shapes compiles anew.
    exact: refused, OpenVINO has no switch for it.
    device: OpenVINO's own string: "CPU", "GPU.1", "NPU", "HETERO:GPU,CPU".
    profile: time every operator (`operators`); queries get a little slower by it.
    """

    def __init__(
        self, path: str, threads: int, exact: bool = False, device: str = "CPU", profile: bool = False
    ) -> None:
        if exact:
            raise ValueError("openvino has no exact INT8 mode; check this artefact with onnxruntime")
        self._core = openvino.Core()
        _check(device, self._core.available_devices)
        self._device = device
        # f32 stops a machine with AMX or an ARM core from serving a float model in bf16 or f16 unasked.
        self._config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        if device == "CPU":
            # Pinned threads cannot leave a core that something else has taken.
            self._config.update(INFERENCE_NUM_THREADS=str(threads), NUM_STREAMS="1", ENABLE_CPU_PINNING="NO")
        self._alone = device == "CPU" and min(threads, _processors()) == 1
        if profile:
            self._config["PERF_COUNT"] = "YES"
        self._profile = profile
        self._model = self._core.read_model(path)
        self.inputs = [_port(port) for port in self._model.inputs]
        self.outputs = [_port(port) for port in self._model.outputs]
        self._dynamic = bool(self._model.is_dynamic())
        self._shapes: tuple[tuple[int, ...], ...] | None = None
        self._compiled: Any = None
        self._request: Any = None
        if not self._dynamic:
            self._compile()

    def run(self, feeds: Mapping[str, Any]) -> list[np.ndarray[Any, Any]]:
        """The outputs in the model's order, for inputs by name."""
        if self._dynamic:
            shapes = tuple(tuple(feeds[name].shape) for name, _, _ in self.inputs)
            if shapes != self._shapes:
                self._model.reshape({name: list(feeds[name].shape) for name, _, _ in self.inputs})
                self._compile()
                self._shapes = shapes
        # share_inputs skips a copy that a serving program would skip too; the outputs are copied, because
        # the next query overwrites them.
        self._request.infer(dict(feeds), share_inputs=True)
        return [self._request.get_output_tensor(at).data.copy() for at in range(len(self.outputs))]

    def operators(self, feeds: Mapping[str, Any], runs: int) -> list[dict[str, Any]]:
        """Milliseconds of every operator as this runtime fused them, in the order in which they run.

        [{name, kind, ms, inputs, outputs, sources}]; sources: the model's nodes that it was made of. Only the
        quickest queries count, other load only adds; `runs` of them at a time. Needs `profile`.
        """
        if not self._profile:
            raise ValueError("this session was started without profile")
        queries: list[tuple[float, dict[str, float]]] = []
        for _ in range(_PROFILES):
            queries += self._profiled(feeds, runs)
            quick = [
                times
                for seconds, times in queries
                if seconds <= _STEADY * min(queries, key=lambda query: query[0])[0]
            ]
            if 2 * len(quick) >= runs:
                break
        times = {name: sum(each.get(name, 0.0) for each in quick) / len(quick) for name in quick[0]}
        nodes = self._compiled.get_runtime_model().get_ops()
        found = []
        for node in sorted(nodes, key=lambda op: int(_info(op, "execOrder"))):
            name = str(node.get_friendly_name())
            if name in times and (times[name] > 0 or _info(node, "execTimeMcs").isdigit()):
                found.append(
                    {
                        "name": name,
                        "kind": f"{_info(node, 'layerType')} {_info(node, 'primitiveType')}",
                        "ms": max(0.0, times[name]),
                        "inputs": [_shape(port.get_source_output()) for port in node.inputs()],
                        "outputs": [_shape(port) for port in node.outputs()],
                        "sources": [text for text in _info(node, "originalLayersNames").split(",") if text],
                    }
                )
        return found

    def _profiled(self, feeds: Mapping[str, Any], runs: int) -> list[tuple[float, dict[str, float]]]:
        """Queries, each as its seconds and the milliseconds by operator.

        The runtime tells the average over all queries since the model was compiled, in microseconds, so what
        one query added is less and less precise: the model is compiled anew for every few of them.
        """
        self._shapes = None
        if not self._dynamic:
            self._compile()
        found = []
        before: dict[str, float] = {}
        for count in range(1, _FIRST_RUNS + runs + 1):
            begin = time.perf_counter()
            self.run(feeds)
            seconds = time.perf_counter() - begin
            total = {
                str(op.node_name): op.real_time.total_seconds() * 1e3 * count
                for op in self._request.get_profiling_info()
            }
            if count > _FIRST_RUNS:
                found.append((seconds, {name: ms - before.get(name, 0.0) for name, ms in total.items()}))
            before = total
        return found

    def settings(self) -> dict[str, str]:
        """Settings that decide speed and arithmetic, as the compiled model reports them."""
        if self._compiled is None:
            return dict(self._config)
        known = {str(name) for name in self._compiled.get_property("SUPPORTED_PROPERTIES")}
        found = {name: self._compiled.get_property(name) for name in _REPORTED if name in known}
        return {**{name: _text(value) for name, value in found.items()}, **self._workaround}

    def _compile(self) -> None:
        # The property is internal: no compiled model reports it.
        self._workaround = {"SNIPPETS_MODE": "DISABLE"} if self._alone and _crashes(self._model) else {}
        self._compiled = self._core.compile_model(
            self._model, self._device, {**self._config, **self._workaround}
        )
        self._request = self._compiled.create_infer_request()


def _processors() -> int:
    """Number of processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _crashes(model: Any) -> bool:
    """Whether OpenVINO (2026.3 and 2026.4) crashes, signal 11, while it compiles the model for one thread.

    It does where Snippets, its generator of fused kernels, takes matrix products with constants that follow
    one another, and two such sequences end in an elementwise operator that also reads a value from before
    the sequence: residual blocks.
    """
    length: dict[str, int] = {}  # of the sequence that ends at each value computed from the inputs
    blocks = 0
    for node in model.get_ordered_ops():
        read = [length[name] for name in map(_source, node.inputs()) if name in length]
        if node.get_type_name() == "Parameter":
            read = [0]
        if not read:
            continue
        longest = max(read)
        shape = _shape(node.output(0)) if node.get_output_size() else []
        if len(shape) != 2 or not 0 < shape[0] <= _ROWS or node.get_type_name() == "Concat":
            longest = 0
        elif node.get_type_name() == "MatMul":
            longest += 1
        elif longest > 1 and min(read) < longest:
            blocks += 0 < shape[1] <= _FEATURES
            longest = 0
        length[node.get_name()] = longest
    return blocks > 1


def _source(port: Any) -> str:
    return str(port.get_source_output().get_node().get_name())


def _check(device: str, available: Sequence[str]) -> None:
    """Raise ValueError for a device that is not here; OpenVINO's own error blames libraries instead."""
    here = {name.split(".")[0] for name in available}
    wanted = {name.split("(")[0].split(".")[0] for name in device.split(":")[-1].split(",")}
    missing = sorted(name for name in wanted - here - _VIRTUAL if not name.startswith("-"))
    if missing:
        raise ValueError(f"this openvino has no {', '.join(missing)} (it has {', '.join(available)})")


def _port(port: Any) -> tuple[str, str, tuple[Any, ...]]:
    """Port of a model: name, numpy dtype, shape (a string or None where it is dynamic)."""
    shape = tuple(None if size.is_dynamic else size.get_length() for size in port.partial_shape)
    return str(port.any_name), str(np.dtype(port.element_type.to_dtype())), shape


def _text(value: Any) -> str:
    if hasattr(value, "to_string"):
        return str(value.to_string())
    return ",".join(str(item) for item in value) if isinstance(value, (list, tuple)) else str(value)


def _info(node: Any, key: str) -> str:
    """Entry of an operator's runtime information; "" where there is none."""
    info = node.get_rt_info()
    return str(info[key].astype(str)) if key in info else ""


def _shape(port: Any) -> list[int]:
    """Shape of a port: -1 for a dimension that is not fixed, [] where their number is not."""
    sizes = port.get_partial_shape()
    return [int(size.get_length()) if size.is_static else -1 for size in sizes]
