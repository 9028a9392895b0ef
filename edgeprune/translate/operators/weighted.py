"""Operators with weights: convolutions, products, norms; and pools."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeprune.translate.calls import Call, Untranslated, operator

_CONVOLUTIONS: Mapping[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: Mapping[int, Callable[..., Tensor]] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}
_MAX_POOLS: Mapping[int, Callable[..., Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_MEAN_POOLS: Mapping[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_ONE_MEAN: Mapping[int, Callable[..., Tensor]] = {
    1: F.adaptive_avg_pool1d,
    2: F.adaptive_avg_pool2d,
    3: F.adaptive_avg_pool3d,
}


def _ends(
    call: Call, x: Tensor, window: list[int], stride: list[int], dilation: list[int]
) -> list[list[int]]:
    """Padding before and behind each dimension of space, as `pads` or `auto_pad` say."""
    space = len(window)
    kind = call.get("auto_pad", "NOTSET")
    if kind == "VALID":
        return [[0, 0]] * space
    if kind in ("SAME_UPPER", "SAME_LOWER"):
        ends = []
        for size, width, step, gap in zip(x.shape[2:], window, stride, dilation, strict=True):
            total = max((-(-size // step) - 1) * step + (width - 1) * gap + 1 - size, 0)
            small = total // 2
            ends.append([small, total - small] if kind == "SAME_UPPER" else [total - small, small])
        return ends
    pads = call.get("pads") or [0] * 2 * space
    return [[pads[at], pads[at + space]] for at in range(space)]


def _even(x: Tensor, ends: list[list[int]], value: float = 0.0) -> tuple[Tensor, list[int]]:
    """The input, padded where its two ends differ, and the padding that is left for the operation."""
    if all(before == behind for before, behind in ends):
        return x, [before for before, _ in ends]
    flat = [size for pair in reversed(ends) for size in pair]
    return F.pad(x, flat, "constant", value), [0] * len(ends)


def _steps(call: Call, space: int) -> tuple[list[int], list[int]]:
    return list(call.get("strides") or [1] * space), list(call.get("dilations") or [1] * space)


@operator("Conv")
def convolution(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    space = weight.dim() - 2
    stride, dilation = _steps(call, space)
    x, padding = _even(x, _ends(call, x, list(weight.shape[2:]), stride, dilation))
    return _of(_CONVOLUTIONS, space)(x, weight, bias, stride, padding, dilation, call.get("group", 1))


@operator("ConvTranspose")
def transposed_convolution(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    call.only(auto_pad=("NOTSET", "VALID"))
    space = weight.dim() - 2
    stride, dilation = _steps(call, space)
    ends = _ends(call, x, list(weight.shape[2:]), stride, dilation)
    if call.get("output_shape") is not None or any(before != behind for before, behind in ends):
        raise Untranslated("its output is padded unevenly")
    beyond = list(call.get("output_padding") or [0] * space)
    function = _of(_TRANSPOSED, space)
    padding = [before for before, _ in ends]
    return function(x, weight, bias, stride, padding, beyond, call.get("group", 1), dilation)


@operator("linear")
def linear(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A product with a stored matrix [outputs, inputs], as `network` writes Gemm and MatMul."""
    return F.linear(x.t() if call.get("transA", 0) else x, weight, bias)


@operator("MatMul")
def matrix_product(call: Call, x: Tensor, y: Tensor) -> Tensor:
    return torch.matmul(x, y)


@operator("Gemm")
def general_product(call: Call, x: Tensor, y: Tensor, z: Tensor | None = None) -> Tensor:
    x = x.t() if call.get("transA", 0) else x
    y = y.t() if call.get("transB", 0) else y
    alpha, beta = call.get("alpha", 1.0), call.get("beta", 1.0)
    product = torch.matmul(x, y)
    product = product if alpha == 1.0 else product * alpha
    if z is None:
        return product
    return product + (z if beta == 1.0 else z * beta)


@operator("Einsum")
def einsum(call: Call, *values: Tensor) -> Tensor:
    return torch.einsum(call.attributes["equation"], *values)


@operator("MaxPool")
def max_pool(call: Call, x: Tensor) -> Tensor:
    if call.outputs > 1:
        raise Untranslated("the places of its maxima are read")
    window = list(call.attributes["kernel_shape"])
    stride, dilation = _steps(call, len(window))
    x, padding = _even(x, _ends(call, x, window, stride, dilation), -torch.inf)
    if any(2 * size > width for size, width in zip(padding, window, strict=True)):
        x = F.pad(x, [size for size in reversed(padding) for _ in "ab"], "constant", -torch.inf)
        padding = [0] * len(window)
    ceil = bool(call.get("ceil_mode", 0))
    return _of(_MAX_POOLS, len(window))(x, window, stride, padding, dilation, ceil)


@operator("AveragePool")
def average_pool(call: Call, x: Tensor) -> Tensor:
    window = list(call.attributes["kernel_shape"])
    stride, dilation = _steps(call, len(window))
    if any(step != 1 for step in dilation):
        raise Untranslated("it is dilated")
    ends, counted = _ends(call, x, window, stride, dilation), bool(call.get("count_include_pad", 0))
    if any(before != behind for before, behind in ends) and not counted:
        raise Untranslated("its padding is uneven and does not count")
    x, padding = _even(x, ends)
    if any(2 * size > width for size, width in zip(padding, window, strict=True)):
        raise Untranslated("its padding is more than half of its window")
    return _of(_MEAN_POOLS, len(window))(x, window, stride, padding, bool(call.get("ceil_mode", 0)), counted)


@operator("GlobalAveragePool")
def global_average(call: Call, x: Tensor) -> Tensor:
    return _of(_ONE_MEAN, x.dim() - 2)(x, 1)


@operator("GlobalMaxPool")
def global_max(call: Call, x: Tensor) -> Tensor:
    return x.amax(list(range(2, x.dim())), keepdim=True)


@operator("BatchNormalization")
def batch_norm(call: Call, x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    call.only(training_mode=(0,), spatial=(1,))
    return F.batch_norm(x, mean, variance, scale, shift, False, 0.1, call.get("epsilon", 1e-5))


@operator("InstanceNormalization")
def instance_norm(call: Call, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return F.instance_norm(x, None, None, scale, shift, True, 0.1, call.get("epsilon", 1e-5))


@operator("LayerNormalization")
def layer_norm(call: Call, x: Tensor, scale: Tensor, shift: Tensor | None = None) -> Tensor:
    if call.outputs > 1:
        raise Untranslated("its statistics are read")
    shape = list(x.shape[call.get("axis", -1) % x.dim() :])
    if list(scale.shape) == shape and (shift is None or list(shift.shape) == shape):
        return F.layer_norm(x, shape, scale, shift, call.get("epsilon", 1e-5))
    scaled = F.layer_norm(x, shape, None, None, call.get("epsilon", 1e-5)) * scale
    return scaled if shift is None else scaled + shift


@operator("RMSNormalization")
def rms_norm(call: Call, x: Tensor, scale: Tensor) -> Tensor:
    shape = list(x.shape[call.get("axis", -1) % x.dim() :])
    if list(scale.shape) == shape:
        return F.rms_norm(x, shape, scale, call.get("epsilon", 1e-5))
    return F.rms_norm(x, shape, None, call.get("epsilon", 1e-5)) * scale


@operator("GroupNormalization")
def group_norm(call: Call, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Until opset 20 with a scale for each group, then for each channel."""
    groups = call.attributes["num_groups"]
    if scale.numel() != x.shape[1]:
        scale, shift = (each.repeat_interleave(x.shape[1] // groups) for each in (scale, shift))
    return F.group_norm(x, groups, scale, shift, call.get("epsilon", 1e-5))


@operator("LRN")
def local_response_norm(call: Call, x: Tensor) -> Tensor:
    size = call.attributes["size"]
    return F.local_response_norm(
        x, size, call.get("alpha", 1e-4), call.get("beta", 0.75), call.get("bias", 1.0)
    )


def _of(functions: Mapping[int, Callable[..., Tensor]], space: int) -> Callable[..., Tensor]:
    if space not in functions:
        raise Untranslated(f"it has {space} dimensions of space")
    return functions[space]
