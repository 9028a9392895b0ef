"""Integers and scales: what is lost is at most half a step, and zero is exact."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeprune.quantize.dialects import TABLE
from edgeprune.quantize.scales import activation_scale, quantise_bias, quantise_weight

BOUND = st.floats(-1e4, 1e4, width=32)
LIMITS = {"uint8": (0, 255), "int8": (-128, 127)}
WEIGHTS = hnp.arrays(np.float32, (3, 4, 2), elements=st.floats(-100, 100, width=32))
BIASES = hnp.arrays(np.float32, (3,), elements=st.floats(-1e4, 1e4, width=32))


@pytest.mark.parametrize("dialect", TABLE.values(), ids=TABLE)
@given(one=BOUND, other=BOUND)
def test_a_range_is_covered_up_to_one_step_and_zero_is_exact(dialect, one: float, other: float) -> None:
    low, high = min(one, other), max(one, other)
    scale = activation_scale(low, high, dialect)
    bottom, top = LIMITS[dialect.activation]
    assert bottom <= scale.zero_point <= top
    assert scale.scale > 0
    step = float(scale.scale)
    assert (bottom - scale.zero_point) * step <= min(low, 0) + step
    assert (top - scale.zero_point) * step >= max(high, 0) - step


@pytest.mark.parametrize(
    "dialect", [row for row in TABLE.values() if not row.symmetric], ids=lambda row: row.name
)
def test_a_relu_range_starts_at_the_smallest_integer_so_that_relu_disappears(dialect) -> None:
    assert activation_scale(0.0, 6.0, dialect).zero_point == LIMITS[dialect.activation][0]


@given(
    weight=WEIGHTS,
    bias=BIASES,
    axis=st.sampled_from([0]),
    per_channel=st.booleans(),
    reduce_range=st.booleans(),
)
def test_weights_and_bias_come_back_within_half_a_step(
    weight: np.ndarray, bias: np.ndarray, axis: int, per_channel: bool, reduce_range: bool
) -> None:
    activation = activation_scale(-1.0, 3.0, TABLE["onnxruntime-x86"])
    found = quantise_weight(weight, axis, per_channel, reduce_range, bias, activation)
    scale = np.broadcast_to(found.scale, (3,)).astype(np.float64)
    assert np.abs(found.integers.astype(int)).max() <= (64 if reduce_range else 127)
    assert np.all(np.abs(found.integers * scale[:, None, None] - weight) <= 0.5001 * scale[:, None, None])
    accumulator = scale * float(activation.scale)
    error = np.abs(quantise_bias(bias, found, activation) * accumulator - bias)
    assert np.all(error <= 0.5001 * accumulator + 1e-6 * np.abs(bias))


def test_a_dead_channel_keeps_its_bias() -> None:
    activation = activation_scale(0.0, 1.0, TABLE["onnxruntime-x86"])
    weight = np.zeros((2, 3), np.float32)
    weight[1] = 1.0
    bias = np.array([5.0, 5.0], np.float32)
    found = quantise_weight(weight, 0, True, False, bias, activation)
    back = quantise_bias(bias, found, activation) * found.scale.astype(np.float64) * float(activation.scale)
    np.testing.assert_allclose(back, bias, rtol=1e-3)
