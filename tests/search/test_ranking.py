"""The allocation keeps the most important units that a share of the work allows, by floors and multiples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.search.ranking import Choice, Ranking, Widths

SHARES = st.floats(0, 1.2, allow_nan=False)
# Few different scores, so that ties within and between groups are the rule.
SCORES = st.one_of(
    st.lists(st.integers(0, 3).map(float), min_size=1, max_size=24),
    st.lists(st.floats(0, 5, width=32), min_size=1, max_size=24),
)


@st.composite
def rankings(draw: st.DrawFn) -> Ranking:
    """Up to five groups in a chain: a layer's work is its own width times its producer's."""
    choices = tuple(
        Choice(f"g{number}", np.array(scores, np.float32), draw(st.sampled_from([1, 2, 4, 8])))
        for number, scores in enumerate(draw(st.lists(SCORES, min_size=1, max_size=5)))
    )

    def work(widths: Widths) -> float:
        chain = [3, *(len(widths[choice.name]) for choice in choices), 2]
        return float(sum(one * following for one, following in pairwise(chain)))

    return Ranking(choices, work, floor=draw(st.sampled_from([0.0, 0.1, 0.25, 0.5])))


def whole(ranking: Ranking) -> Mapping[str, tuple[int, ...]]:
    return {choice.name: tuple(range(len(choice.scores))) for choice in ranking.choices}


@settings(deadline=None)
@given(rankings(), SHARES)
def test_the_work_is_never_above_the_share_unless_there_is_nothing_smaller(
    ranking: Ranking, share: float
) -> None:
    kept = ranking.keep(share)
    assert ranking.work(kept) <= share * ranking.work(whole(ranking)) or kept == ranking.smallest()


@settings(deadline=None)
@given(rankings(), SHARES, SHARES)
def test_a_larger_share_keeps_every_unit_that_a_smaller_one_keeps(
    ranking: Ranking, one: float, other: float
) -> None:
    less, more = ranking.keep(min(one, other)), ranking.keep(max(one, other))
    for name, units in less.items():
        assert set(units) <= set(more[name])


@settings(deadline=None)
@given(rankings(), SHARES)
def test_floors_and_multiples_hold_in_every_group(ranking: Ranking, share: float) -> None:
    for kept in (ranking.keep(share), ranking.smallest()):
        assert list(kept) == [choice.name for choice in ranking.choices]
        for choice in ranking.choices:
            units, width = len(choice.scores), len(kept[choice.name])
            assert width >= max(1, math.ceil(ranking.floor * units))
            if units >= max(16, 2 * choice.multiple):
                assert width % choice.multiple == 0 or width == units
            assert list(kept[choice.name]) == sorted(set(kept[choice.name]))
            assert set(kept[choice.name]) <= set(range(units))


@settings(deadline=None)
@given(rankings(), SHARES)
def test_no_unit_that_left_a_group_is_more_important_than_one_that_stayed(
    ranking: Ranking, share: float
) -> None:
    kept = ranking.keep(share)
    for choice in ranking.choices:
        stayed = choice.scores[list(kept[choice.name])]
        left = np.delete(choice.scores, kept[choice.name])
        assert left.size == 0 or left.max() <= stayed.min()


@settings(deadline=None)
@given(rankings(), SHARES)
def test_one_more_unit_would_be_too_many(ranking: Ranking, share: float) -> None:
    """Without multiples and floors, dropping stops at the first unit that is enough."""
    free = Ranking(tuple(Choice(c.name, c.scores, 1) for c in ranking.choices), ranking.work, floor=0.0)
    kept = free.keep(share)
    limit = share * free.work(whole(free))
    ranked = sorted(
        (float(choice.scores[unit]), place, unit)
        for place, choice in enumerate(free.choices)
        for unit in range(len(choice.scores))
        if unit not in kept[choice.name]
    )
    if ranked:
        _, place, _ = ranked[-1]
        name = free.choices[place].name
        # The last one to go was in this group; with one more unit there the work was above the limit.
        back = {**kept, name: (*kept[name], len(kept[name]))}
        assert free.work(back) > limit


@settings(deadline=None)
@given(rankings(), SHARES)
def test_the_same_question_has_the_same_answer(ranking: Ranking, share: float) -> None:
    copy = Ranking(
        tuple(Choice(c.name, c.scores.copy(), c.multiple) for c in ranking.choices),
        ranking.work,
        ranking.floor,
    )
    assert copy.keep(share) == ranking.keep(share)


@settings(deadline=None)
@given(rankings(), st.floats(1, 2))
def test_the_whole_share_keeps_everything(ranking: Ranking, share: float) -> None:
    assert ranking.keep(share) == whole(ranking)


@settings(deadline=None)
@given(rankings())
def test_no_share_at_all_gives_the_smallest(ranking: Ranking) -> None:
    assert ranking.keep(0) == ranking.smallest()


def layers(**scores: list[float]) -> Ranking:
    choices = tuple(Choice(name, np.array(values, np.float32), 1) for name, values in scores.items())
    return Ranking(choices, lambda widths: float(sum(map(len, widths.values()))))


def test_units_of_all_groups_compete_with_each_other() -> None:
    ranking = layers(weak=[0.1, 0.2, 0.3, 0.9], strong=[0.8, 0.7, 0.6, 0.5])
    assert ranking.keep(0.625) == {"weak": (3,), "strong": (0, 1, 2, 3)}


def test_a_group_that_lost_all_but_its_floor_lets_the_others_pay() -> None:
    ranking = layers(worthless=[0.0] * 10, strong=[1.0] * 10)
    kept = ranking.keep(0.5)
    assert len(kept["worthless"]) == 1
    assert len(kept["strong"]) == 9


@pytest.mark.parametrize(
    ("units", "multiple", "widths"),
    [
        (32, 8, {8, 16, 24, 32}),
        (31, 16, set(range(4, 32))),
        (15, 4, set(range(2, 16))),
        (20, 8, {8, 16, 20}),
        (16, 8, {8, 16}),
    ],
    ids=[
        "steps",
        "less than twice the multiple",
        "too narrow to step",
        "the whole width always remains",
        "twice the multiple",
    ],
)
def test_widths_step_by_the_multiple_where_the_group_is_wide_enough(
    units: int, multiple: int, widths: set[int]
) -> None:
    ranking = Ranking(
        (Choice("g", np.arange(units, dtype=np.float32), multiple),), lambda kept: float(len(kept["g"]))
    )
    assert {len(ranking.keep(share)["g"]) for share in np.linspace(0, 1, 200)} == widths
