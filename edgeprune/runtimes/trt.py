"""TensorRT (also for RTX) on the device. Standard library, numpy, TensorRT; Python 3.8; nothing of edgeprune.

An engine belongs to one GPU and one version, so it is built here: the first load of an ONNX file runs
trt_build.py in a process of its own and keeps the engine, named by the file's SHA-256, the version, the GPU
and the batch; later loads deserialise it. An engine that runs an INT8 layer in float, or does not tell, is
refused. A `.plan` file is deserialised as it is, unchecked.

GPU memory and copies go through the CUDA driver (libcuda), which every machine with a GPU has in the
same form: JetPack ships no CUDA package for Python, and the runtime library's name changes by version.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
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
_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}


def serving(runtime: str) -> Library:
    """The module of `runtime`, as the agent uses it. Raises ImportError when it is not installed."""
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
    """One engine in one context: single synchronous queries, copies to the GPU and back included.

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
        self._gpu = Gpu(open_driver(), _ordinal(device))
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
            **_told(built),
        }
        self._seen()

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
        """What decides speed and arithmetic, for the record."""
        return dict(self._settings)

    def device_mib(self) -> float:
        """GPU memory taken since the driver was opened, at its highest, as the driver reports it.

        What other processes took in the meantime is in it too.
        """
        self._seen()
        return max(0, self._free - self._lowest) / 2**20

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

    def _buffer(self, name: str) -> Buffer:
        shape = tuple(self._context.get_tensor_shape(name))
        if any(size < 0 for size in shape):
            raise ValueError(f"tensor {name} has no fixed shape: {list(shape)}")
        kind = self._engine.get_tensor_dtype(name).name
        if kind not in _DTYPES:
            raise ValueError(f"tensor {name} is {kind}, which numpy has not")
        buffer = self._gpu.buffer(shape, _DTYPES[kind])
        self._context.set_tensor_address(name, buffer.address)
        return buffer

    def _port(self, name: str) -> tuple[str, str, tuple[Any, ...]]:
        """Name, numpy dtype, shape (None where it is dynamic)."""
        dtype = self._buffers[name].host.dtype
        shape = tuple(None if size < 0 else int(size) for size in self._engine.get_tensor_shape(name))
        return name, str(dtype), shape

    def _seen(self) -> None:
        self._lowest = min(self._lowest, self._gpu.free_bytes())


class Buffer:
    """The same tensor twice: pinned memory of the host as an array, and an address on the GPU."""

    def __init__(self, host: Any, pinned: int, address: int) -> None:
        self.host, self.pinned, self.address = host, pinned, address


class Gpu:
    """One GPU through the CUDA driver: memory, copies and one stream, for as long as this process lives.

    driver: libcuda, or what plays it in a test.
    """

    def __init__(self, driver: Any, ordinal: int) -> None:
        self._driver = driver
        self._call("cuInit", ctypes.c_uint(0))
        device = self._got("cuDeviceGet", ctypes.c_int(), ctypes.c_int(ordinal))
        # TensorRT uses the device's primary context too.
        context = self._got("cuDevicePrimaryCtxRetain", ctypes.c_void_p(), device)
        self._call("cuCtxSetCurrent", context)
        text = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", text, ctypes.c_int(256), device)
        # 75, 76: CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR.
        at = [self._got("cuDeviceGetAttribute", ctypes.c_int(), ctypes.c_int(k), device) for k in (75, 76)]
        self.name = f"{text.value.decode('utf-8', 'replace')} SM{at[0].value}{at[1].value}"
        self._stream = self._got("cuStreamCreate", ctypes.c_void_p(), ctypes.c_uint(0))
        self.stream = int(self._stream.value or 0)

    def free_bytes(self) -> int:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return int(free.value)

    def buffer(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        size = max(1, int(np.prod(shape, dtype=np.int64))) * np.dtype(dtype).itemsize
        pinned = self._got("cuMemHostAlloc", ctypes.c_void_p(), ctypes.c_size_t(size), ctypes.c_uint(0))
        address = self._got("cuMemAlloc_v2", ctypes.c_uint64(), ctypes.c_size_t(size))
        memory: Any = (ctypes.c_byte * size).from_address(int(pinned.value or 0))
        host = np.frombuffer(memory, dtype)[: int(np.prod(shape, dtype=np.int64))].reshape(shape)
        host[...] = 0
        return Buffer(host, int(pinned.value or 0), int(address.value))

    def to_device(self, buffer: Buffer) -> None:
        self._copy(
            "cuMemcpyHtoDAsync_v2", ctypes.c_uint64(buffer.address), ctypes.c_void_p(buffer.pinned), buffer
        )

    def to_host(self, buffer: Buffer) -> None:
        self._copy(
            "cuMemcpyDtoHAsync_v2", ctypes.c_void_p(buffer.pinned), ctypes.c_uint64(buffer.address), buffer
        )

    def wait(self) -> None:
        self._call("cuStreamSynchronize", self._stream)

    def _copy(self, function: str, to: Any, source: Any, buffer: Buffer) -> None:
        self._call(function, to, source, ctypes.c_size_t(buffer.host.nbytes), self._stream)

    def _got(self, function: str, result: Any, *arguments: Any) -> Any:
        self._call(function, ctypes.byref(result), *arguments)
        return result

    def _call(self, function: str, *arguments: Any) -> None:
        code = getattr(self._driver, function)(*arguments)
        if code:
            text = ctypes.c_char_p()
            self._driver.cuGetErrorName(ctypes.c_int(code), ctypes.byref(text))
            said = (text.value or b"unknown error").decode("ascii", "replace")
            raise RuntimeError(f"{function}: {said} ({code})")


def open_driver() -> Any:
    """libcuda. Raises OSError where there is no NVIDIA driver."""
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise OSError(f"this machine has no NVIDIA driver for TensorRT ({error})") from error


def engine_of(
    trt: Any, path: str, gpu: str, batch: int, memory_mib: float | None
) -> tuple[str, dict[str, Any]]:
    """The engine built from an ONNX file for this GPU, now or earlier, and the builder's account of it.

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
    """Where engines are kept; made when it is not there."""
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
        raise RuntimeError(f"TensorRT builds no engine: {said or 'exit %d' % done.returncode}")
    return dict(answer)


def _check_int8(built: Mapping[str, Any]) -> None:
    """Raise ValueError unless every layer that is INT8 in the file was seen to be INT8 in the engine.

    INT8 in name only costs accuracy for nothing, and what cannot be read is not taken for INT8.
    """
    lost, unread = built["not_int8"], built["unread"]
    if lost or unread:
        seen = [f"{len(lost)} run in float: {', '.join(lost[:5])}"] if lost else []
        seen += (
            [f"of {len(unread)} the {built['source']} does not tell: {', '.join(unread[:5])}"]
            if unread
            else []
        )
        total = len(lost) + len(unread) + len(built["int8"])
        raise ValueError(f"of {total} INT8 layers in the engine, {'; '.join(seen)}")


def _told(built: Mapping[str, Any]) -> dict[str, str]:
    if not built:
        return {"engine": "a plan file, built elsewhere"}
    return {
        "engine": "from the cache" if built["from_cache"] else f"built in {built['seconds']:.0f} s",
        "plan_mib": f"{built['plan_bytes'] / 2**20:.2f}",
        "workspace_mib": str(built.get("workspace_mib")),
        "int8_layers": f"{len(built['int8'])}, seen in the {built['source']}",
    }


def _ordinal(device: str) -> int:
    kind, _, number = device.partition(":")
    if kind.upper() not in ("GPU", "CUDA") or (number and not number.isdigit()):
        raise ValueError(f"TensorRT has no device {device!r}; use GPU or GPU:0")
    return int(number or 0)


def _sha256(path: str) -> str:
    """Of the file, and of the file beside it that holds large weights."""
    digest = hashlib.sha256()
    for part in (path, path + ".data"):
        if os.path.isfile(part) or part == path:
            with open(part, "rb") as stream:
                for block in iter(lambda: stream.read(1 << 20), b""):
                    digest.update(block)
    return digest.hexdigest()


def _plain(text: str) -> str:
    return "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in text)
