"""Plays the `tensorrt` module where there is no GPU: an "engine" is the ONNX file, run by onnxruntime.

It has what the session and the build script call, with TensorRT 10's names and behaviour as NVIDIA documents
them (11's where they differ: "Migrating IEngineInspector Usage from TensorRT 10.x to 11.x"); nothing here
was compared with a real one. FAKE_TENSORRT_VERSION is the version. FAKE_TENSORRT_FLOAT names nodes that the
engine "runs in float", with commas between; `a>b` is b, once a is float in the file. FAKE_TENSORRT_SILENT=1
leaves the inspector with the names of layers alone, as without DETAILED verbosity; =mute with an empty
answer. FAKE_TENSORRT_ABORT names a node whose INT8 ends the process as the engine is made ready to run.
"""

from __future__ import annotations

import ctypes
import enum
import json
import os
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime

__version__ = os.environ.get("FAKE_TENSORRT_VERSION", "10.3.0")
_ELEVEN = int(__version__.partition(".")[0]) >= 11  # always strongly typed, another inspector
_MAGIC = b"fake engine "


class DataType(enum.Enum):
    FLOAT = 1
    HALF = 10
    INT8 = 3
    INT64 = 7

    @property
    def numpy(self) -> Any:
        return {1: np.float32, 10: np.float16, 3: np.int8, 7: np.int64}[self.value]


class TensorIOMode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class ProfilingVerbosity(enum.Enum):
    DETAILED = 1


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


class LayerInformationFormat(enum.Enum):
    JSON = 1


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1


class LayerType(enum.Enum):
    DEQUANTIZE = 1
    OTHER = 2


class ILogger:
    class Severity(enum.Enum):
        INTERNAL_ERROR = 0
        ERROR = 1

    def __init__(self) -> None:
        """As pybind11 wants it, a subclass calls this."""


class Logger(ILogger):
    ERROR = ILogger.Severity.ERROR

    def __init__(self, severity: Any) -> None:
        self.severity = severity


class Network:
    def __init__(self) -> None:
        self.model: Any = None

    @property
    def num_inputs(self) -> int:
        return len(self.model.graph.input)

    def get_input(self, at: int) -> Any:
        value = self.model.graph.input[at]
        return SimpleNamespace(name=value.name, shape=_shape(value))

    @property
    def num_layers(self) -> int:
        return len(self.model.graph.node)

    def get_layer(self, at: int) -> Any:
        node = self.model.graph.node[at]
        kind = LayerType.DEQUANTIZE if node.op_type == "DequantizeLinear" else LayerType.OTHER
        return SimpleNamespace(name=node.name, type=kind)


class Builder:
    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def create_network(self, flags: int) -> Network:
        if flags != 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED and not _ELEVEN:
            raise ValueError(f"the network is not strongly typed: {flags}")
        return Network()

    def create_builder_config(self) -> Config:
        return Config()

    def create_optimization_profile(self) -> dict[str, Any]:
        return Profile()

    def build_serialized_network(self, network: Network, config: Config) -> Any:
        batch = next(iter(config.profiles[0].values()))[0]
        config.cache.tactics += b" tactic"
        header = json.dumps({"version": __version__, "batch": batch}).encode()
        return memoryview(_MAGIC + header + b"\n" + network.model.SerializeToString())


class Profile(dict[str, Any]):
    def set_shape(self, name: str, least: Any, best: Any, most: Any) -> None:
        if not list(least) == list(best) == list(most):
            raise ValueError(f"{name} is open: {least} {best} {most}")
        self[name] = list(best)


class Config:
    def __init__(self) -> None:
        self.profiling_verbosity: Any = None
        self.profiles: list[Profile] = []
        self.pools: dict[Any, int] = {}
        self.cache = TimingCache(b"")

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self.pools[pool] = size

    def add_optimization_profile(self, profile: Profile) -> None:
        self.profiles.append(profile)

    def create_timing_cache(self, known: bytes) -> TimingCache:
        return TimingCache(known)

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        if ignore_mismatch:
            raise ValueError("a cache of another device must not be used")
        self.cache = cache
        return True


class TimingCache:
    def __init__(self, tactics: bytes) -> None:
        self.tactics = tactics

    def serialize(self) -> bytes:
        return self.tactics


class OnnxParser:
    def __init__(self, network: Network, logger: Any) -> None:
        self.network, self.errors = network, list[str]()

    def parse_from_file(self, path: str) -> bool:
        self.network.model = onnx.load(path)
        self.errors = [node.name for node in self.network.model.graph.node if node.op_type == "Multinomial"]
        return not self.errors

    @property
    def num_errors(self) -> int:
        return len(self.errors)

    def get_error(self, at: int) -> Any:
        return SimpleNamespace(node_name=lambda: self.errors[at], desc=lambda: "no such operator here")


class Runtime:
    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, plan: Any) -> Engine | None:
        content = bytes(plan)
        header, _, model = content.removeprefix(_MAGIC).partition(b"\n")
        if not content.startswith(_MAGIC) or json.loads(header)["version"] != __version__:
            return None
        return Engine(onnx.load_from_string(model), json.loads(header)["batch"])


class Engine:
    def __init__(self, model: Any, batch: int) -> None:
        self.model, self.batch = model, batch
        self.ports = {value.name: value for value in (*model.graph.input, *model.graph.output)}

    @property
    def num_io_tensors(self) -> int:
        return len(self.ports)

    def get_tensor_name(self, at: int) -> str:
        return list(self.ports)[at]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        inputs = {value.name for value in self.model.graph.input}
        return TensorIOMode.INPUT if name in inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType(self.ports[name].type.tensor_type.elem_type)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(_shape(self.ports[name]))

    def create_execution_context(self) -> Context:
        fatal = os.environ.get("FAKE_TENSORRT_ABORT")
        if any(node.name == fatal and not _floating(self, node) for node in self.model.graph.node):
            os.abort()
        return Context(self)

    def create_engine_inspector(self) -> Any:
        return SimpleNamespace(get_engine_information=self._told)

    def _told(self, form: Any) -> str:
        """The whole engine in JSON."""
        silent = os.environ.get("FAKE_TENSORRT_SILENT")
        if silent == "mute":
            return ""
        layers = [self._layer(node) for node in self.model.graph.node if node.op_type in _KINDS]
        ports: dict[str, Any] = {"Bindings": list(self.ports)}
        if _ELEVEN:
            ports = {"I/O Tensors": [{"Name": name, "DataType": "Float"} for name in self.ports]}
        return json.dumps({"Layers": [layer["Name"] for layer in layers] if silent else layers, **ports})

    def _layer(self, node: Any) -> dict[str, Any]:
        """A multiplying node: a convolution has Weights, a product behind TensorRT's own fusion Constants."""
        weight = self._dequantised(node)
        integer = weight is not None and node.name not in self._lost()
        names = [node.name] + ([weight.name] if weight is not None else [])
        kind = _KINDS[node.op_type]
        stored: dict[str, Any] = {"Weights": {"Type": "Int8" if integer else "Half", "Count": 1}}
        if kind == "gemm":
            stored = {"Constants": [_tensor("w", integer)]}
        return {
            "Name": " + ".join(names),
            "LayerType": kind,
            "Inputs": [_tensor("x", integer)],
            "Outputs": [_tensor("y", integer)],
            **stored,
            "Metadata": "\x1e".join(f"[ONNX Layer: {name}]" for name in names),
        }

    def _dequantised(self, node: Any) -> Any:
        """The node that dequantises a layer's weight; None where the weight is float."""
        makers = {value: each for each in self.model.graph.node for value in each.output}
        weight = makers.get(node.input[1])
        return weight if weight is not None and weight.op_type == "DequantizeLinear" else None

    def _lost(self) -> set[str]:
        lost = set()
        in_float = {node.name for node in self.model.graph.node if _floating(self, node)}
        for word in os.environ.get("FAKE_TENSORRT_FLOAT", "").split(","):
            first, _, then = word.partition(">")
            lost |= {first} if not then else ({then} if first in in_float else set())
        return lost


_KINDS = {"Conv": "CaskConvolution", "Gemm": "gemm", "MatMul": "gemm"}


def _floating(engine: Engine, node: Any) -> bool:
    return node.op_type in _KINDS and engine._dequantised(node) is None


def _tensor(name: str, integer: bool) -> dict[str, Any]:
    text = "Thirty-two wide channel vectorized row major Int8 format" if integer else "Row major linear FP16"
    if _ELEVEN:
        return {"Name": name, "Dimensions": [1], "DataType": "Int8" if integer else "Half", "Format": text}
    return {"Name": name, "Dimensions": [1], "Format/Datatype": text}


class Context:
    def __init__(self, engine: Engine) -> None:
        self.engine, self.addresses = engine, dict[str, int]()
        content = engine.model.SerializeToString()
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.disable_quant_qdq", "1")  # fused wrongly in float16
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def set_input_shape(self, name: str, shape: Any) -> bool:
        return bool(shape[0] == self.engine.batch)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.engine.batch if size < 0 else size for size in self.engine.get_tensor_shape(name))

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        feeds = {value.name: self._memory(value.name) for value in self.engine.model.graph.input}
        names = [value.name for value in self.engine.model.graph.output]
        for name, value in zip(names, self.session.run(names, feeds), strict=True):
            self._memory(name)[...] = value
        return True

    def _memory(self, name: str) -> Any:
        shape, dtype = self.get_tensor_shape(name), self.engine.get_tensor_dtype(name).numpy
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        memory: Any = (ctypes.c_byte * size).from_address(self.addresses[name])
        return np.frombuffer(memory, dtype).reshape(shape)


def _shape(value: Any) -> list[int]:
    return [entry.dim_value or -1 for entry in value.type.tensor_type.shape.dim]
