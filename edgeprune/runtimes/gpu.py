"""A GPU through the CUDA driver: memory, copies, one stream. Standard library, numpy; Python 3.8.

Nothing of edgeprune. The driver (libcuda) is on every machine with a GPU, in the same form: JetPack ships no
CUDA package for Python, and the runtime library's name changes by version.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np


class Buffer:
    """Tensor in two places: pinned memory of the host as an array, and an address on the GPU."""

    def __init__(self, host: Any, pinned: int, address: int) -> None:
        self.host, self.pinned, self.address = host, pinned, address


class Gpu:
    """GPU through the CUDA driver: memory, copies and one stream, for as long as this process lives.

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
    """CUDA driver, libcuda. Raises OSError where there is no NVIDIA driver."""
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise OSError(f"this machine has no NVIDIA driver for TensorRT ({error})") from error
