"""Blocks of a session: all runs, those that nothing disturbed, and those that a search counts."""

from __future__ import annotations

import pytest

from edgeprune.records.cpu_time import TimedBlock, Waiting
from edgeprune.search.session_blocks import SessionBlocks


def block(*ms: float, waited: tuple[float, ...] = ()) -> TimedBlock:
    waiting = Waiting(sum(ms) / 1e3, 4, threads=1, ran_s=sum(ms) / 1e3, waited_s=0.0, busy_s=sum(ms) / 1e3)
    return TimedBlock(ms, waiting, waited)


def test_runs_that_waited_are_kept_and_not_counted() -> None:
    blocks = SessionBlocks(interleaved=False)
    blocks.add(block(1.0, 9.0, 1.0, waited=(0.0, 0.9, 0.0)))
    assert blocks.every.artefact == [[1.0, 9.0, 1.0]]
    assert blocks.counted(90, None).artefact == [[1.0, 1.0]]
    assert blocks.at_best[0][1] < 2.0
    assert (blocks.every.runs, blocks.every.seconds) == (3, pytest.approx(0.011))
    assert not blocks.waited


def test_a_block_without_a_run_that_counts_is_left_out() -> None:
    blocks = SessionBlocks(interleaved=True)
    blocks.add(block(5.0, 5.0, waited=(0.9, 0.9)))
    blocks.add(block(1.0, 1.0, waited=(0.0, 0.0)))
    blocks.add_reference(block(2.0))
    counted = blocks.counted(90, 2.0)
    assert (counted.artefact, counted.reference) == ([[1.0, 1.0]], [[2.0]])
    assert len(blocks.every.artefact) == 2
