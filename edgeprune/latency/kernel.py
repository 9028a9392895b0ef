"""Workload of one query of an artefact, launch by launch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

NumberType = Literal["float32", "float16", "int8"]


@dataclass(frozen=True)
class Kernel:
    """Launch of an operation with the operations that runtimes fuse into it.

    numbers: the type at whose rate it multiplies. Dot products and tensor cores sum over channels, which a
    depthwise convolution does not: that multiplies at the rate of float32, whatever its type.
    functions: values of exp, erf, division and the like, which take longer than a sum or a product.
    traffic: bytes of activations and weights that it reads and writes; values inside are not counted.
    """

    name: str
    macs: int  # multiply-accumulates
    numbers: NumberType
    functions: int
    traffic: int


@dataclass(frozen=True)
class Workload:
    """All launches of one query, in order."""

    kernels: tuple[Kernel, ...]
    weight_bytes: int
    activation_bytes: int  # the most that are alive at one time

    @property
    def macs(self) -> int:
        return sum(kernel.macs for kernel in self.kernels)

    @property
    def traffic(self) -> int:
        return sum(kernel.traffic for kernel in self.kernels)
