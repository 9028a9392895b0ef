"""TensorRT (also for RTX) on the device. Standard library, numpy, TensorRT; Python 3.8; nothing of edgeprune.

An engine belongs to one GPU and one version, so it is built here: the first load of an ONNX file runs
trt_build.py in a process of its own and keeps the engine, named by the file's SHA-256, the version, the GPU
and the batch; later loads deserialise it. An engine that runs an INT8 layer in float, or does not tell, is
refused. A `.plan` file is deserialised as it is, unchecked. Memory and copies are in gpu.py.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

LIBRARIES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx_bindings"}
BUILD_SECONDS = 3600.0  # a first build on an embedded board times kernels for minutes
CACHE = "EDGEPRUNE_ENGINES"  # where engines and timing caches are kept, instead of the user's cache folder
_NUMPY_NAMES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
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


cuda = _beside("gpu.py")


class LostInt8(ValueError):
    """Error for an engine that runs `layers`, INT8 in its file, in float; all others are INT8 for certain."""

    def __init__(self, what: str, layers: list[str]) -> None:
        super().__init__(what)
        self.layers = layers


def serving(runtime: str) -> Library:
    """Library of `runtime`, as the agent uses it. Raises ImportError when it is not installed."""
    return Library(importlib.import_module(LIBRARIES[runtime]))


class Library:
    """`version` and `Runner` of one of the two TensorRT libraries: this file serves both."""

    def __init__(self, trt: Any) -> None:
        self._trt = trt

    def version(self) -> str:
        return str(self._trt.__version__)

    def Runner(self, path: str, threads: int, *arguments: Any, **options: Any) -> Runner:
        return Runner(self._trt, path, threads, *arguments, **options)


class Runner:
    """Engine in one context, served by single synchronous queries, copies to the GPU and back included.

    threads: of the host; TensorRT uses the calling one only.
    exact: refused, TensorRT has no switch for it.
    device: "GPU", or "GPU:1" for the second one.
    batch: rows that the engine is built for when the file leaves them open; a query of more rows is served
        in pieces, so that an engine for one row can be evaluated with many.
    memory_mib: what the build's tactics may use.
    """

    def __init__(
        self,
        trt: Any,
        path: str,
        threads: int,
        exact: bool = False,
        device: str = "GPU",
        batch: int = 1,
        memory_mib: float | None = None,
    ) -> None:
        if exact:
            raise ValueError("TensorRT has no exact INT8 mode; check this artefact with onnxruntime")
        self._gpu = cuda.Gpu(cuda.open_driver(), _ordinal(device))
        self._free = self._lowest = self._gpu.free_bytes()
        built: dict[str, Any] = {}
        if not path.endswith(".plan"):
            path, built = engine_of(trt, path, self._gpu.name, batch, memory_mib)
            _check_int8(built)
        self._logger = trt.Logger(trt.Logger.ERROR)
        self._runtime = trt.Runtime(self._logger)
        with open(path, "rb") as stream:
            self._engine = self._runtime.deserialize_cuda_engine(stream.read())
        if self._engine is None:
            raise ValueError(f"{path} is no engine of TensorRT {trt.__version__} for {self._gpu.name}")
        self._context = self._engine.create_execution_context()
        names = [self._engine.get_tensor_name(at) for at in range(self._engine.num_io_tensors)]
        ins = [n for n in names if self._engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
        self._open = any(self._engine.get_tensor_shape(name)[0] < 0 for name in ins)
        for name in ins:
            shape = [batch if size < 0 else size for size in self._engine.get_tensor_shape(name)]
            if not self._context.set_input_shape(name, shape):
                raise ValueError(f"the engine refuses input {name} of shape {shape}")
        self._buffers = {name: self._buffer(name) for name in names}
        self._batch = self._buffers[ins[0]].host.shape[0]
        self.inputs = [self._port(name) for name in ins]
        self.outputs = [self._port(name) for name in names if name not in ins]
        self._settings = {
            "threads": str(threads),
            "gpu": self._gpu.name,
            "batch": str(self._batch),
            "copies": "host to GPU and back, inside the timing",
            **_account(built),
        }
        self._note_free_memory()

    def run(self, feeds: Mapping[str, Any]) -> list[np.ndarray[Any, Any]]:
        """The outputs in the model's order, for inputs by name."""
        given = {name: self._checked(name, feeds[name], dtype) for name, dtype, _ in self.inputs}
        rows = len(next(iter(given.values())))
        if rows == self._batch:
            self._query(given)
            return [self._buffers[name].host.copy() for name, _, _ in self.outputs]
        if not self._open:
            raise ValueError(f"the engine takes {self._batch} rows, not {rows}")
        pieces = []
        for start in range(0, rows, self._batch):
            piece = {name: value[start : start + self._batch] for name, value in given.items()}
            filled = len(next(iter(piece.values())))
            self._query(piece)
            pieces.append([self._buffers[name].host[:filled].copy() for name, _, _ in self.outputs])
        return [np.concatenate(parts) for parts in zip(*pieces)]

    def settings(self) -> dict[str, str]:
        """Settings that decide speed and arithmetic, for the record."""
        return dict(self._settings)

    def device_mib(self) -> float:
        """GPU memory taken since the driver was opened, at its highest, as the driver reports it.

        Memory that other processes took meanwhile is included.
        """
        self._note_free_memory()
        return float(max(0, self._free - self._lowest) / 2**20)

    def _query(self, given: Mapping[str, Any]) -> None:
        for name, _, _ in self.inputs:
            buffer, value = self._buffers[name], given[name]
            buffer.host[: len(value)] = value  # rows beyond a last, short piece keep what was there
            self._gpu.to_device(buffer)
        if not self._context.execute_async_v3(self._gpu.stream):
            raise RuntimeError("the engine did not run")
        for name, _, _ in self.outputs:
            self._gpu.to_host(self._buffers[name])
        self._gpu.wait()

    def _checked(self, name: str, value: Any, dtype: str) -> Any:
        array, wanted = np.asarray(value), self._buffers[name].host.shape[1:]
        if str(array.dtype) != dtype or array.shape[1:] != wanted:
            raise ValueError(
                f"input {name} is {array.dtype} {list(array.shape)}, the model takes {dtype} [N, {wanted}]"
            )
        return array

    def _buffer(self, name: str) -> Any:
        shape = tuple(self._context.get_tensor_shape(name))
        if any(size < 0 for size in shape):
            raise ValueError(f"tensor {name} has no fixed shape: {list(shape)}")
        kind = self._engine.get_tensor_dtype(name).name
        if kind not in _NUMPY_NAMES:
            raise ValueError(f"tensor {name} is {kind}, which numpy has not")
        buffer = self._gpu.buffer(shape, _NUMPY_NAMES[kind])
        self._context.set_tensor_address(name, buffer.address)
        return buffer

    def _port(self, name: str) -> tuple[str, str, tuple[Any, ...]]:
        """Port of a model: name, numpy dtype, shape (None where it is dynamic)."""
        dtype = self._buffers[name].host.dtype
        shape = tuple(None if size < 0 else int(size) for size in self._engine.get_tensor_shape(name))
        return name, str(dtype), shape

    def _note_free_memory(self) -> None:
        self._lowest = min(self._lowest, self._gpu.free_bytes())


def engine_of(
    trt: Any, path: str, gpu: str, batch: int, memory_mib: float | None
) -> tuple[str, dict[str, Any]]:
    """Engine built from an ONNX file for this GPU, now or earlier, and the builder's account of it.

    Raises RuntimeError with the builder's words when there is none.
    """
    folder = cache_folder()
    library = f"{trt.__name__}-{trt.__version__}-{_plain(gpu)}"
    asked = f"{_sha256(path)[:24]}-b{batch}" + (f"-{memory_mib:.0f}mib" if memory_mib else "")
    plan = os.path.join(folder, f"{asked}-{library}.plan")
    account = plan + ".json"  # written last: with it the engine is whole
    if not os.path.isfile(account):
        answer = _build(trt, path, plan, batch, memory_mib, os.path.join(folder, f"timing-{library}.cache"))
        temporary = f"{account}.{os.getpid()}.tmp"
        with open(temporary, "w") as stream:
            json.dump(answer, stream)
        os.replace(temporary, account)
        return plan, dict(answer, from_cache=False)
    with open(account) as stream:
        return plan, dict(json.load(stream), from_cache=True)


def cache_folder() -> str:
    """Folder of built engines, created where it is absent."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = os.environ.get(CACHE) or os.path.join(base, "edgeprune", "engines")
    os.makedirs(folder, exist_ok=True)
    return folder


def _build(
    trt: Any, path: str, plan: str, batch: int, memory_mib: float | None, timing_cache: str
) -> dict[str, Any]:
    """Run trt_build.py beside this file: one build per process, and its memory is not the model's."""
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "trt_build.py")
    command = [sys.executable, script, "--library", trt.__name__, "--artefact", path, "--out", plan]
    command += ["--batch", str(batch), "--timing-cache", timing_cache]
    command += ["--workspace-mib", str(max(1, int(memory_mib)))] if memory_mib else []
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=BUILD_SECONDS,
    )
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    answer = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
    if not answer.get("ok"):
        said = answer.get("error") or done.stderr.decode("utf-8", "replace").strip()[-500:]
        raise RuntimeError(f"TensorRT builds no engine to serve: {said or 'exit %d' % done.returncode}")
    return dict(answer)


def _check_int8(built: Mapping[str, Any]) -> None:
    """Raise unless every layer that is INT8 in the file was seen to be INT8 in the engine.

    INT8 in name only costs accuracy for nothing, and what cannot be read is not taken for INT8. `LostInt8`
    says that the others are INT8 for certain: with these layers in float, the file may be built again.
    """
    lost, unread, source = built["not_int8"], built["unread"], built["source"]
    total = len(lost) + len(unread) + len(built["int8"])
    if unread:
        raise ValueError(
            f"of {total} INT8 layers the {source} does not tell the types of {len(unread)}: "
            f"{', '.join(unread[:5])}; an engine that cannot be read is not taken for INT8"
        )
    if lost:
        raise LostInt8(
            f"of {total} INT8 layers the engine runs {len(lost)} in float: {', '.join(lost[:5])}", lost
        )


def _account(built: Mapping[str, Any]) -> dict[str, str]:
    if not built:
        return {"engine": "a plan file, built elsewhere"}
    return {
        "engine": "from the cache" if built["from_cache"] else f"built in {built['seconds']:.0f} s",
        "plan_mib": f"{built['plan_bytes'] / 2**20:.2f}",
        "workspace_mib": str(built.get("workspace_mib")),
        "int8_layers": f"{len(built['int8'])}, seen in the {built['source']}" if built["int8"] else "0",
    }


def _ordinal(device: str) -> int:
    kind, _, number = device.partition(":")
    if kind.upper() not in ("GPU", "CUDA") or (number and not number.isdigit()):
        raise ValueError(f"TensorRT has no device {device!r}; use GPU or GPU:0")
    return int(number or 0)


def _sha256(path: str) -> str:
    """SHA-256 of a file, and of the file beside it that holds large weights."""
    digest = hashlib.sha256()
    for part in (path, path + ".data"):
        if os.path.isfile(part) or part == path:
            with open(part, "rb") as stream:
                for block in iter(lambda: stream.read(1 << 20), b""):
                    digest.update(block)
    return digest.hexdigest()


def _plain(text: str) -> str:
    return "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in text)
