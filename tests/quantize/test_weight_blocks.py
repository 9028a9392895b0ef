"""Weights in blocks: what is stored, and how near it is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.quantize import weight_blocks as module
from edgeprune.quantize.weight_blocks import to_blocks


def weights(inputs: int, outputs: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((inputs, outputs)).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(
    inputs=st.integers(1, 100),
    outputs=st.integers(1, 20),
    bits=st.sampled_from([4, 8]),
    block=st.sampled_from([16, 32, 64]),
    symmetric=st.booleans(),
    seed=st.integers(0, 99),
)
def test_no_weight_moves_further_than_a_step_of_its_block_allows(
    inputs: int, outputs: int, bits: int, block: int, symmetric: bool, seed: int
) -> None:
    weight = weights(inputs, outputs, seed)
    held = to_blocks(weight, bits, block, symmetric=symmetric)
    assert held.integers.shape == (outputs, -(-inputs // block), block)
    assert int(held.integers.max()) < 2**bits
    restored = held.restored()
    assert restored.shape == weight.shape
    step = np.repeat(held.scales, block, axis=1)[:, :inputs].T
    clipped = 1.0 if bits == 8 else 1.0 + (1 - min(module.CLIPS)) * 2**bits
    assert (np.abs(restored - weight) <= step * clipped * 1.001).all()


def test_zero_stays_zero_and_a_block_of_zeros_too() -> None:
    weight = weights(64, 3)
    weight[:40] = 0
    for symmetric in (True, False):
        restored = to_blocks(weight, 4, 32, symmetric=symmetric).restored()
        assert not restored[:40].any()
        assert np.isfinite(restored).all()


def test_the_search_never_loses_and_gains_where_a_block_has_an_outlier(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weight = np.random.default_rng(0).standard_t(4, (256, 64)).astype(np.float32)
    error = {}
    for clips in (module.CLIPS, (1.0,)):
        monkeypatch.setattr(module, "CLIPS", clips)
        restored = to_blocks(weight, 4, 64, symmetric=True).restored()
        error[len(clips)] = float(np.linalg.norm(restored - weight) / np.linalg.norm(weight))
    assert error[7] < 0.95 * error[1]


@pytest.mark.parametrize(
    ("bits", "block", "symmetric", "bound"), [(8, 128, True, 0.008), (4, 32, False, 0.085)]
)
def test_normal_weights_keep_their_relative_error(
    bits: int, block: int, symmetric: bool, bound: float
) -> None:
    weight = weights(512, 64)
    restored = to_blocks(weight, bits, block, symmetric=symmetric).restored()
    assert 0 < np.linalg.norm(restored - weight) < bound * np.linalg.norm(weight)


def test_large_matrices_are_rounded_in_parts_as_small_ones_are(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = weights(96, 50)
    whole = to_blocks(weight, 4, 32, symmetric=False)
    monkeypatch.setattr(module, "_WEIGHTS_AT_ONCE", 96 * 7)
    parts = to_blocks(weight, 4, 32, symmetric=False)
    np.testing.assert_array_equal(whole.restored(), parts.restored())
