"""Curves from rows: made-up devices whose times are known everywhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.latency.curves import Knees, LatencyTable, Row, Whole, fit
from edgeprune.records.codec import from_json, to_json


def rows(ms: object, count: int = 24, seed: int = 0, node: str = "conv", step: int = 8) -> list[Row]:
    """`count` random pairs of widths up to 256, timed by `ms(reads, writes)`."""
    numbers = np.random.default_rng(seed)
    pairs = numbers.integers(1, 256 // step, (count, 2), endpoint=True) * step
    return [Row("conv", node, int(u), int(v), float(ms(u, v))) for u, v in pairs]


def blocked(block: int) -> object:
    return lambda u, v: 0.02 + 1e-4 * u * (-(-v // block) * block)


@pytest.mark.parametrize("block", [16, 32, 64])
def test_the_block_in_which_time_jumps_is_found(block: int) -> None:
    curve = fit(rows(blocked(block)))
    assert curve.knees.writes == block
    u, v = np.meshgrid(np.arange(8, 257, 8), np.arange(8, 257, 8))
    truth = 0.02 + 1e-4 * u * (-(-v // block) * block)
    assert np.abs(curve.ms("conv", u, v) / truth - 1).max() < 0.05


def test_a_smooth_operator_has_no_knee() -> None:
    curve = fit(rows(lambda u, v: 0.05 + 1e-4 * u * v))
    assert curve.knees == Knees(1, 1)
    assert LatencyTable(tuple(rows(lambda u, v: 0.05 + 1e-4 * u * v))).knees() == {}


def test_widths_that_are_no_whole_blocks_may_cost_extra() -> None:
    """As when a runtime copies into another layout for them."""

    def ms(u: int, v: int) -> float:
        return 0.02 + 1e-4 * u * (-(-v // 16) * 16) + (0.3 + 0.002 * v if v % 16 else 0.0)

    curve = fit(rows(ms, count=32))
    assert curve.knees.writes == 16
    for u, v in ((64, 72), (128, 128), (200, 40), (48, 240)):
        assert float(curve.ms("conv", u, v)) == pytest.approx(ms(u, v), rel=0.08)


def test_a_width_below_one_block_may_be_as_quick_as_a_whole_one() -> None:
    """OpenVINO's INT8 max-pooling of 112 x 112, as it was measured with AVX2, in milliseconds by channels."""
    measured = {64: 0.095, 24: 0.138, 40: 1.650, 32: 0.092, 56: 1.854, 48: 1.479, 16: 0.112}
    curve = fit([Row("pool", "pool", 0, channels, ms) for channels, ms in measured.items()])
    assert curve.knees.writes == 32
    for channels, ms in {**measured, 8: 0.1}.items():
        assert float(curve.ms("pool", 0, channels)) == pytest.approx(ms, rel=0.25)


def test_what_follows_one_width_needs_no_other() -> None:
    found = fit([Row("add", "add", 0, width, 0.01 + 0.001 * width) for width in range(16, 257, 16)])
    assert float(found.ms("add", 0, 100)) == pytest.approx(0.11, rel=0.02)


def test_an_operator_that_never_changes_is_its_own_mean() -> None:
    found = fit([Row("pool", "pool", 0, 0, ms) for ms in (0.100, 0.101, 0.099, 0.100)])
    assert float(found.ms("pool", 0, 0)) == pytest.approx(0.1, rel=0.02)


def test_one_row_that_a_burst_of_load_spoilt_moves_little() -> None:
    def ms(u: int, v: int) -> float:
        return 0.02 + 1e-4 * u * v

    spoilt = rows(ms)
    spoilt[5] = Row("conv", "conv", spoilt[5].reads, spoilt[5].writes, 3 * spoilt[5].ms)
    curve = fit(spoilt)
    others = [row for at, row in enumerate(spoilt) if at != 5]
    errors = [float(curve.ms("conv", row.reads, row.writes)) / row.ms - 1 for row in others]
    assert np.mean(np.abs(errors)) < 0.05


def test_nodes_of_one_signature_share_their_rows_but_keep_their_own_level() -> None:
    def ms(u: int, v: int) -> float:
        return 0.02 + 1e-4 * u * v

    slower = [
        Row(row.operator, "late", row.reads, row.writes, 1.2 * row.ms) for row in rows(ms, count=24, seed=1)
    ]
    curve = fit([*rows(ms, count=24), *slower])
    ratio = float(curve.ms("late", 128, 128)) / float(curve.ms("conv", 128, 128))
    assert 1.1 < ratio < 1.25


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 12))
def test_a_curve_never_leaves_the_numbers_and_is_repeatable(seed: int, count: int) -> None:
    numbers = np.random.default_rng(seed)
    measured = rows(lambda u, v: numbers.lognormal(-3, 2), count=count, seed=seed)
    u, v = np.meshgrid(np.arange(1, 300, 13), np.arange(1, 300, 13))
    found = fit(measured).ms("conv", u, v)
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    assert np.array_equal(found, fit(measured).ms("conv", u, v))


def test_joined_tables_have_the_rows_of_both_at_the_speed_of_the_first() -> None:
    one, other = (
        LatencyTable((Row("conv", "n", 8, width, 1.0),), (Whole((("group", width),), 2.0),))
        for width in (8, 16)
    )
    both = one.at(3.0).joined(other.at(3.0))
    assert both.reference_ms == 3.0
    assert [(row.writes, row.ms) for row in both.rows] == [(8, 3.0), (16, 3.0)]
    assert [dict(whole.widths)["group"] for whole in both.wholes] == [8, 16]


def test_a_table_survives_json() -> None:
    table = LatencyTable(tuple(rows(blocked(16))))
    assert from_json(LatencyTable, to_json(table)) == table
