"""Operators that compute each position by itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from onnx import TensorProto
from torch import Tensor

from edgeprune.translate.calls import Call, Untranslated, operator

TORCH_TYPES: Mapping[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.INT64: torch.int64,
    TensorProto.INT32: torch.int32,
    TensorProto.INT16: torch.int16,
    TensorProto.INT8: torch.int8,
    TensorProto.UINT8: torch.uint8,
    TensorProto.BOOL: torch.bool,
}
_SAME_NAME = (
    *(
        "Abs",
        "Neg",
        "Exp",
        "Log",
        "Sqrt",
        "Reciprocal",
        "Floor",
        "Ceil",
        "Round",
        "Sign",
        "Sin",
        "Cos",
        "Tan",
    ),
    *("Asin", "Acos", "Atan", "Sinh", "Cosh", "Tanh", "Asinh", "Acosh", "Atanh", "Erf", "Sigmoid"),
)
_PLAIN: Mapping[str, Callable[[Tensor], Tensor]] = {
    **{name: getattr(torch, name.lower()) for name in _SAME_NAME},
    "Relu": torch.relu,
    "Softplus": F.softplus,
    "Softsign": F.softsign,
    "HardSwish": F.hardswish,
    "Mish": F.mish,
    "Not": torch.logical_not,
    "IsNaN": torch.isnan,
}
_PAIRS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "Less": torch.lt,
    "GreaterOrEqual": torch.ge,
    "LessOrEqual": torch.le,
}


@operator(*_PLAIN)
def plain(call: Call, x: Tensor) -> Tensor:
    return _PLAIN[call.op_type](x)


@operator(*_PAIRS)
def pair(call: Call, x: Tensor, y: Tensor) -> Tensor:
    return _PAIRS[call.op_type](x, y)


@operator("Identity")
def identity(call: Call, x: Tensor) -> Tensor:
    return x


@operator("Dropout", plain=(1, 2))
def dropout(call: Call, x: Tensor, ratio: Any = None, training: Any = None) -> Tensor:
    if call.outputs > 1 or (training and training[0]):
        raise Untranslated("it is in training mode, or its mask is read")
    return x


@operator("Div")
def divide(call: Call, x: Tensor, y: Tensor) -> Tensor:
    return torch.div(x, y, rounding_mode=None if x.is_floating_point() else "trunc")


@operator("Pow")
def power(call: Call, x: Tensor, exponent: Tensor) -> Tensor:
    return torch.pow(x, exponent).to(x.dtype)


@operator("Mod")
def modulo(call: Call, x: Tensor, y: Tensor) -> Tensor:
    return torch.fmod(x, y) if call.get("fmod", 0) else torch.remainder(x, y)


@operator("Max", "Min", "Sum", "Mean")
def several(call: Call, *values: Tensor) -> Tensor:
    join = {"Max": torch.maximum, "Min": torch.minimum}.get(call.op_type, torch.add)
    joined = reduce(join, values)
    return joined / len(values) if call.op_type == "Mean" else joined


@operator("Where")
def where(call: Call, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return torch.where(condition, x, y)


@operator("Cast")
def cast(call: Call, x: Tensor) -> Tensor:
    kind = TORCH_TYPES.get(call.attributes["to"])
    if kind is None:
        raise Untranslated(f"it casts to {TensorProto.DataType.Name(call.attributes['to']).lower()}")
    return x.to(kind)


@operator("CastLike")
def cast_like(call: Call, x: Tensor, like: Tensor) -> Tensor:
    return x.to(like.dtype)


@operator("Clip", plain=(1, 2))
def clip(call: Call, x: Tensor, low: Any = None, high: Any = None) -> Tensor:
    least = low[0] if low else call.get("min")
    most = high[0] if high else call.get("max")
    if least is None and most is None:
        return x
    if (least, most) == (0, 6):
        return F.relu6(x)
    return torch.clamp(x, least, most)


@operator("LeakyRelu")
def leaky_relu(call: Call, x: Tensor) -> Tensor:
    return F.leaky_relu(x, call.get("alpha", 0.01))


@operator("PRelu")
def prelu(call: Call, x: Tensor, slope: Tensor) -> Tensor:
    channels = x.shape[1] if x.dim() > 1 else 1
    if slope.numel() in (1, channels) and slope.numel() == max(slope.shape, default=1):
        trailing = slope.shape[1:] if slope.dim() > 1 else ()
        if all(size == 1 for size in trailing) or slope.numel() == 1:
            return F.prelu(x, slope.reshape(-1))
    return torch.where(x < 0, x * slope, x)


@operator("Elu")
def elu(call: Call, x: Tensor) -> Tensor:
    return F.elu(x, call.get("alpha", 1.0))


@operator("Celu")
def celu(call: Call, x: Tensor) -> Tensor:
    return F.celu(x, call.get("alpha", 1.0))


@operator("Selu")
def selu(call: Call, x: Tensor) -> Tensor:
    alpha, gamma = call.get("alpha", 1.6732632423543772), call.get("gamma", 1.0507009873554805)
    return F.elu(x, alpha).mul(gamma)


@operator("ThresholdedRelu")
def thresholded_relu(call: Call, x: Tensor) -> Tensor:
    return F.threshold(x, call.get("alpha", 1.0), 0.0)


@operator("HardSigmoid")
def hard_sigmoid(call: Call, x: Tensor) -> Tensor:
    alpha, beta = call.get("alpha", 0.2), call.get("beta", 0.5)
    if math.isclose(alpha, 1 / 6, rel_tol=1e-6) and beta == 0.5:
        return F.hardsigmoid(x)
    return torch.clamp(x * alpha + beta, 0.0, 1.0)


@operator("Gelu")
def gelu(call: Call, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=call.get("approximate", "none"))


@operator("Swish")
def swish(call: Call, x: Tensor) -> Tensor:
    alpha = call.get("alpha", 1.0)
    return F.silu(x) if alpha == 1.0 else x * torch.sigmoid(x * alpha)


@operator("Softmax", "LogSoftmax")
def softmax(call: Call, x: Tensor) -> Tensor:
    """From opset 13 along one axis, before along all axes from one on."""
    function: Callable[[Tensor, int], Tensor] = F.softmax if call.op_type == "Softmax" else F.log_softmax
    axis = call.get("axis", -1 if call.opset >= 13 else 1) % x.dim()
    if call.opset >= 13 or axis == x.dim() - 1:
        return function(x, axis)
    return function(x.flatten(axis), axis).reshape(x.shape)
