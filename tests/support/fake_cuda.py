"""Plays libcuda: "GPU memory" is a list of buffers of this process, so an address is a real one."""

from __future__ import annotations

import ctypes
from typing import Any

TOTAL = 1 << 30


class FakeDriver:
    """The functions that trt.py calls; `log` names them in order.

    fails: a function's name -> its error code.
    """

    def __init__(self, fails: dict[str, int] | None = None) -> None:
        self.log: list[str] = []
        self.fails = fails or {}
        self.device: dict[int, Any] = {}
        self.pinned: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cu"):
            raise AttributeError(name)

        def call(*arguments: Any) -> int:
            self.log.append(name)
            if name in self.fails:
                return self.fails[name]
            getattr(self, "do_" + name)(*arguments)
            return 0

        return call

    def do_cuInit(self, flags: Any) -> None:
        """Nothing to start."""

    def do_cuDeviceGet(self, device: Any, ordinal: Any) -> None:
        device._obj.value = ordinal.value

    def do_cuDevicePrimaryCtxRetain(self, context: Any, device: Any) -> None:
        context._obj.value = 1

    def do_cuCtxSetCurrent(self, context: Any) -> None:
        """There is one."""

    def do_cuDeviceGetName(self, text: Any, length: Any, device: Any) -> None:
        text.value = b"Scripted GPU"

    def do_cuDeviceGetAttribute(self, value: Any, attribute: Any, device: Any) -> None:
        value._obj.value = {75: 8, 76: 7}[attribute.value]

    def do_cuStreamCreate(self, stream: Any, flags: Any) -> None:
        stream._obj.value = 7

    def do_cuStreamSynchronize(self, stream: Any) -> None:
        """Copies were made at once."""

    def do_cuMemGetInfo_v2(self, free: Any, total: Any) -> None:
        free._obj.value = TOTAL - sum(len(memory) for memory in self.device.values())
        total._obj.value = TOTAL

    def do_cuMemHostAlloc(self, address: Any, size: Any, flags: Any) -> None:
        self.pinned.append((ctypes.c_byte * size.value)())
        address._obj.value = ctypes.addressof(self.pinned[-1])

    def do_cuMemAlloc_v2(self, address: Any, size: Any) -> None:
        memory = (ctypes.c_byte * size.value)()
        address._obj.value = ctypes.addressof(memory)
        self.device[ctypes.addressof(memory)] = memory

    def do_cuMemcpyHtoDAsync_v2(self, to: Any, source: Any, size: Any, stream: Any) -> None:
        ctypes.memmove(to.value, source.value, size.value)

    def do_cuMemcpyDtoHAsync_v2(self, to: Any, source: Any, size: Any, stream: Any) -> None:
        ctypes.memmove(to.value, source.value, size.value)

    def do_cuGetErrorName(self, code: Any, text: Any) -> None:
        text._obj.value = b"CUDA_ERROR_OUT_OF_MEMORY"
