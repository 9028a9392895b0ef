"""What is held back is never trained on, in whatever order the data comes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from edgeprune.recover import data
from edgeprune.recover.data import HELD_BACK, Split, split
from edgeprune.recover.objective import Pair

# A sample is its number, as input and as target, so that every test can follow it.
POOL = torch.arange(4096, dtype=torch.float32)


def batches(numbers: Tensor, size: int) -> list[Pair]:
    return [((part[:, None],), part.long()) for part in numbers.split(size)]


def seen(pairs: list[Pair]) -> list[int]:
    for (inputs,), target in pairs:
        assert target is not None
        assert torch.equal(inputs[:, 0].long(), target), "an input lost its target"
    return [int(number) for _, target in pairs for number in target]  # type: ignore[union-attr]


def held(found: Split) -> list[int]:
    return seen(list(found.held_back))


@settings(deadline=None)
@given(
    numbers=st.lists(st.integers(0, 4095), min_size=1, max_size=200, unique=True),
    size=st.integers(1, 40),
    reordering=st.randoms(use_true_random=False),
)
def test_no_epoch_holds_a_sample_that_was_held_back_whatever_the_order(
    numbers: list[int], size: int, reordering: object
) -> None:
    order = list(numbers)

    def source() -> list[Pair]:
        reordering.shuffle(order)  # type: ignore[attr-defined]  # every pass in another order
        return batches(POOL[order], size)

    found = split(source)
    back = set(held(found))
    for number in range(3):
        epoch = list(found.epoch(number))
        trained = seen(epoch)
        assert not back & set(trained)
        assert set(trained) <= set(numbers)
        assert len(trained) == len(set(trained))
        assert len(epoch) == found.steps
    assert back <= set(numbers)


@settings(deadline=None)
@given(rows=st.integers(1, 300), size=st.integers(1, 64))
def test_an_epoch_has_full_batches_and_drops_less_than_one(rows: int, size: int) -> None:
    found = split(lambda: batches(POOL[:rows], size))
    lengths = [len(inputs[0]) for inputs, _ in found.epoch(0)]
    available = rows - len(held(found))
    if available >= found.batch:
        assert lengths == [found.batch] * (available // found.batch)
    else:  # less than one batch there is: better a small step than none
        assert lengths == ([available] if available else [])


def test_a_pass_that_gives_fewer_samples_still_gives_full_batches_and_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lengths = iter([256, 100])  # as a loader that draws at random may
    found = split(lambda: batches(POOL[: next(lengths)], 32))
    assert [len(inputs[0]) for inputs, _ in found.epoch(0)] == [32, 32]
    assert caplog.messages == ["training pass 0 has 2 batches, the first one had 7"]


@settings(deadline=None)
@given(st.lists(st.integers(0, 4095), min_size=2, max_size=12, unique=True))
def test_of_a_few_samples_some_are_held_back_and_some_are_not(numbers: list[int]) -> None:
    found = split(lambda: batches(POOL[numbers], 4))
    residues = {checksum % HELD_BACK for checksum in data._checksums((POOL[numbers, None],))}
    # With one residue there is no way to tell the samples apart.
    assert (bool(found.held_back) and found.steps > 0) == (len(residues) > 1)


def test_batches_of_an_epoch_have_one_length_each() -> None:
    pairs = [
        ((part[:, None].repeat(1, length),), part.long())
        for length, numbers in ((8, POOL[:100]), (16, POOL[1000:1050]))
        for part in numbers.split(7)
    ]
    found = split(lambda: pairs[::2] + pairs[1::2])
    epoch = list(found.epoch(0))
    assert len(epoch) == found.steps
    assert {(len(target), inputs[0].shape[1]) for inputs, target in epoch} == {(7, 8), (7, 16)}  # type: ignore[arg-type]
    trained = seen(epoch)
    assert len(trained) == len(set(trained)) > 100
    assert not set(trained) & set(held(found))


def test_about_one_sample_in_eight_is_held_back() -> None:
    found = split(lambda: batches(POOL, 64))
    share = len(held(found)) / len(POOL)
    # Binomial with p = 1/8 over 4096: 5 standard deviations are 0.026.
    assert share == pytest.approx(1 / HELD_BACK, abs=0.026)


def test_no_more_than_the_limit_is_kept_for_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "MOST_HELD_BACK", 20)
    found = split(lambda: batches(POOL, 64))
    assert 20 <= len(held(found)) < 20 + 64
    checksums = data._checksums((POOL[:, None],))
    everywhere = {n for n, checksum in enumerate(checksums) if checksum % HELD_BACK == 0}
    assert not everywhere & set(seen(list(found.epoch(0)))), "beyond the limit they are still not trained on"


def test_large_samples_are_held_back_as_far_as_memory_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "MOST_HELD_BACK_MIB", 20)
    assert 20 <= len(held(split(lambda: batches(POOL, 8), sample_bytes=2**20))) < 20 + 8
    assert len(held(split(lambda: batches(POOL[:64], 8), sample_bytes=2**40))) > 0


def test_a_loader_that_shuffles_gives_the_same_split() -> None:
    loader = DataLoader(TensorDataset(POOL[:256, None], POOL[:256].long()), batch_size=32, shuffle=True)

    def source() -> list[Pair]:
        return [((inputs,), target) for inputs, target in loader]

    torch.manual_seed(0)
    one, other = split(source), split(source)
    assert sorted(held(one)) == sorted(held(other))
    passes = [seen(list(one.epoch(number))) for number in range(2)]
    assert passes[0] != passes[1], "the loader's own order must come through"
    assert not set(held(one)) & (set(passes[0]) | set(passes[1]))


def test_samples_without_labels_are_split_by_all_their_inputs() -> None:
    left, right = torch.zeros(64, 2), torch.arange(64.0)[:, None]  # `left` alone would not tell them apart
    found = split(lambda: [((left, right), None)])
    assert 0 < sum(len(inputs[1]) for inputs, _ in found.held_back) < 64
    ((one, two), target) = next(found.epoch(0))
    assert target is None
    assert len(one) == len(two) > 0


DTYPES = [torch.bfloat16, torch.float16, torch.float64, torch.uint8, torch.bool]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_inputs_of_any_type_are_told_apart(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(2, (64, 40), generator=generator).to(dtype)
    found = split(lambda: [((inputs,), None)])
    assert 0 < sum(len(part[0]) for part, _ in found.held_back) < 32


def test_a_sample_may_be_a_single_number() -> None:
    found = split(lambda: [((POOL[:64],), POOL[:64].long())])
    assert found.held_back
    assert found.steps == 1


def test_no_data_gives_no_steps_and_nothing_held_back() -> None:
    for source in (list, lambda: [((torch.zeros(0, 1),), None)]):
        found = split(source)
        assert found.steps == 0
        assert found.held_back == ()
        assert list(found.epoch(0)) == []


@pytest.mark.parametrize(
    "tree",
    [
        lambda numbers: {"number": numbers, "twice": (2 * numbers, None)},
        lambda numbers: [numbers, {"twice": 2 * numbers}],
    ],
    ids=["a dict", "a list"],
)
def test_targets_that_are_trees_stay_with_their_inputs(tree: Callable[[Tensor], Any]) -> None:
    pairs: list[Pair] = [((part[:, None],), tree(part.long())) for part in POOL[:200].split(32)]
    found = split(lambda: pairs)
    for (inputs,), target in [*found.held_back, *found.epoch(0)]:
        expected = tree(inputs[:, 0].long())
        assert type(target) is type(expected)
        torch.testing.assert_close(target, expected)


def test_without_targets_there_is_none_in_any_part() -> None:
    pairs: list[Pair] = [((part[:, None],), None) for part in POOL[:200].split(32)]
    found = split(lambda: pairs)
    assert {target for _, target in [*found.held_back, *found.epoch(0)]} == {None}
