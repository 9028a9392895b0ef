"""Build a TensorRT engine from a Q/DQ ONNX file: on a Jetson, on an RTX PC, or on a host without a GPU.

    python trt_build.py --artefact model.onnx --out model.plan --batch 1 --workspace-mib 512
    python trt_build.py --artefact model.onnx --out model.plan --capability SM86        (TensorRT for RTX)

Standard library and TensorRT (`tensorrt`, or `tensorrt_rtx_bindings`); Python 3.8; nothing of edgeprune.
Prints one line of JSON: {"ok": true, "plan_bytes": ..., "layers": [...]} or {"ok": false, "error": ...}.
The first form also says which layers that are INT8 in the file multiply integers in the engine ("int8"),
which do not ("not_int8"), and of which that cannot be read ("unread").
One build per process: after a failed build the next one in the same process may silently lose its INT8
layers. Engines are not portable between GPU architectures or versions, so a device builds its own.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import re
import sys
import time
from typing import Any

MODULES = ("tensorrt", "tensorrt_rtx_bindings")
FIRST_MAJOR = {"tensorrt": 10}  # the first major version with strongly typed networks; RTX has nothing else
_MEMORY = {
    "activation_bytes": re.compile(r"^Total Activation Memory: (\d+) bytes"),
    "weights_bytes": re.compile(r"^Total Weights Memory: (\d+) bytes"),
}


def _beside(file: str) -> Any:
    """Another file of this folder, which is no package on a device."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), file)
    spec = importlib.util.spec_from_file_location("edgeprune_device_" + file[:-3], path)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot import {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


read = _beside("trt_layers.py")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Build a TensorRT engine from ONNX.")
    parser.add_argument("--artefact", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--library", choices=MODULES, help="default: the first that is installed")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--workspace-mib", type=int, help="memory that the build's tactics may use")
    parser.add_argument("--timing-cache", help="file of measured tactics, read and written")
    parser.add_argument("--capability", help="build for this GPU (SM86) instead of the one here")
    options = parser.parse_args(arguments)
    try:
        answer = build(options)
    except Exception as error:  # TensorRT's errors share no base; the caller reads one line of JSON
        answer = {"ok": False, "error": f"{type(error).__name__}: {error}"}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0 if answer["ok"] else 1


def build(options: argparse.Namespace) -> dict[str, Any]:
    trt = _library((options.library,) if options.library else MODULES)
    _check_version(trt)
    logger = _logger(trt)
    started = time.time()
    builder = trt.Builder(logger)
    network = builder.create_network(_strongly_typed(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(options.artefact):
        return {"ok": False, "error": "; ".join(_parse_errors(parser))}
    wanted = _wanted(network)
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.workspace_mib:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    if options.capability:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, options.capability), 0)
    _set_shapes(builder, network, config, options.batch)
    cache = _timing_cache(config, options.timing_cache)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        return {"ok": False, "error": "; ".join(logger.errors) or "the build gave no engine and no reason"}
    _write(options.out, bytes(plan))
    if cache is not None:
        _write(options.timing_cache, bytes(cache.serialize()))
    layers: list[dict[str, Any]] = []
    source = ""
    if wanted or options.capability:  # an engine of a float file promises nothing that must be read
        layers, source = _layers(trt, logger, plan, options.capability)
    return {
        "ok": True,
        "module": trt.__name__,
        "version": trt.__version__,
        "capability": options.capability,
        "workspace_mib": options.workspace_mib,
        "plan_bytes": int(plan.nbytes),
        "seconds": time.time() - started,
        "source": source,
        "layers": layers,
        **read.check(layers, wanted),
        **_memory(logger.lines),
    }


def _library(names: tuple[str, ...]) -> Any:
    for name in names:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise ImportError(f"none of {', '.join(names)} is installed in this Python")


def _check_version(trt: Any) -> None:
    least, version = FIRST_MAJOR.get(trt.__name__, 0), str(trt.__version__)
    if int(version.split(".")[0]) < least:
        raise ValueError(f"TensorRT {version} takes no types from the file: {least}.0 or newer is needed")


def _logger(trt: Any) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        """Logger that keeps TensorRT's messages: the only account of an engine that no GPU here can load."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            self.lines.extend(message.splitlines())
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message.strip())

    return Logger()


def _strongly_typed(trt: Any) -> int:
    """Network flags for types as the ONNX file says them; TensorRT for RTX and TensorRT 11 know no others."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _parse_errors(parser: Any) -> list[str]:
    found = []
    for at in range(parser.num_errors):
        error = parser.get_error(at)
        found.append(f"node {error.node_name()!r}: {error.desc()}")
    return found


def _wanted(network: Any) -> list[str]:
    """The layers whose weight is INT8 in the file, by the names of the nodes that dequantise them."""
    names = [network.get_layer(at).name for at in range(network.num_layers)]
    return [name[: -len(read.WEIGHT)] for name in names if name.endswith(read.WEIGHT)]


def _set_shapes(builder: Any, network: Any, config: Any, batch: int) -> None:
    """Fix the batch: an engine for one shape is the fastest one."""
    profile = builder.create_optimization_profile()
    for at in range(network.num_inputs):
        tensor = network.get_input(at)
        shape = list(tensor.shape)
        if any(size < 0 for size in shape[1:]):
            raise ValueError(f"input {tensor.name!r} has more than a dynamic batch: {shape}")
        shape[0] = batch if shape[0] < 0 else shape[0]
        profile.set_shape(tensor.name, shape, shape, shape)
    config.add_optimization_profile(profile)


def _timing_cache(config: Any, path: str | None) -> Any:
    if path is None:
        return None
    known = b""
    if os.path.exists(path):
        with open(path, "rb") as stream:
            known = stream.read()
    cache = config.create_timing_cache(known)
    config.set_timing_cache(cache, False)  # False: a cache of another device or version is refused
    return cache


def _write(path: str, content: bytes) -> None:
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)


def _layers(trt: Any, logger: Any, plan: Any, capability: str | None) -> tuple[list[dict[str, Any]], str]:
    """The engine's layers, and where they were read from."""
    if capability is not None:
        return read.read_log(logger.lines, str(trt.__version__)), "build log"
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    if engine is None:
        raise ValueError("the engine that was built does not load here: " + "; ".join(logger.errors))
    told = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return read.read_inspector(told), "engine inspector"


def _memory(lines: list[str]) -> dict[str, int]:
    found = {}
    for line in lines:
        for name, pattern in _MEMORY.items():
            match = pattern.match(line)
            if match:
                found[name] = int(match.group(1))
    return found


if __name__ == "__main__":
    sys.exit(main())
