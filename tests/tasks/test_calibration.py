"""As much calibration data as is used is read, twice, however much there is."""

from __future__ import annotations

import math
from collections import UserDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from edgeprune import InputError
from edgeprune.tasks import calibration
from edgeprune.tasks.calibration import CHANGED, MOST_CALIBRATION_SAMPLES, hold

X = torch.zeros(1, 3, 4)


@dataclass(frozen=True)
class Bad:
    why: str
    parts: dict[str, Any]
    says: str


def with_nan() -> torch.Tensor:
    x = torch.zeros(2, 3, 4)
    x[1, 2, 3] = math.nan
    return x


class Passes:
    """Data that differ from pass to pass; an exception is raised in its place."""

    def __init__(self, *passes: list[Any]) -> None:
        self.passes = list(passes)

    def __iter__(self):
        for item in self.passes.pop(0) if self.passes else ():
            if isinstance(item, BaseException):
                raise item
            yield item


class Exhausted:
    """A generator in the clothes of a collection."""

    def __init__(self) -> None:
        self.items = (X for _ in range(3))

    def __iter__(self):
        yield from self.items


SECOND_PASS = [
    Bad(
        "fails",
        {"data": Passes([X], [X, OSError("gone")])},
        "Reading the task's calibration data a second time raised OSError: gone",
    ),
    Bad(
        "is exhausted",
        {"data": Exhausted()},
        "The task's calibration data has 3 samples, and 0 when it is read a second time.",
    ),
    Bad(
        "has fewer samples",
        {"data": Passes([X, X, X], [X])},
        "The task's calibration data has 3 samples, and 1 when it is read a second time.",
    ),
    Bad(
        "has more samples",
        {"data": Passes([X], [X, X])},
        "The task's calibration data has 1 samples, and 2 when it is read a second time.",
    ),
    Bad(
        "has another shape",
        {"data": Passes([X], [torch.zeros(1, 3, 5)])},
        "Calibration batch 1, read a second time, input 0, has shape [1, 3, 5]",
    ),
    Bad(
        "has NaN",
        {"data": Passes([torch.zeros(2, 3, 4)], [with_nan()])},
        "Calibration batch 1, read a second time, input 0, holds NaN",
    ),
]


@pytest.mark.parametrize("bad", SECOND_PASS, ids=lambda bad: bad.why)
def test_calibration_data_whose_second_pass_is_another_is_refused(bad: Bad):
    with pytest.raises(InputError) as refused:
        hold(X, **bad.parts)
    assert refused.value.what.startswith(bad.says)


@pytest.mark.parametrize(
    ("first", "second"),
    [([X, X + 1], [X + 1, X]), ([X], [X + 1]), ([X, X], [torch.cat([X, X])])],
    ids=["in another order", "augmented", "in other batches"],
)
def test_calibration_data_that_change_are_told_and_the_first_are_kept(first: Any, second: Any):
    held, remarks = hold(X, Passes(first, second))
    assert remarks == (CHANGED,)
    assert len(held) == len(first)
    assert all(torch.equal(tensor, item) for (tensor,), item in zip(held, first, strict=True))


def test_a_loader_that_fills_one_buffer_again_and_again_gives_every_batch():
    class Buffer:
        def __iter__(self):
            buffer = torch.zeros(1, 3, 4)
            for number in range(3):
                yield buffer.fill_(number)

    held, remarks = hold(X, Buffer())
    assert not remarks
    assert [float(tensor.mean()) for (tensor,) in held] == [0.0, 1.0, 2.0]


def rows(first: int, count: int) -> torch.Tensor:
    """Samples that are told by their values."""
    return torch.arange(first, first + count, dtype=torch.float32)[:, None, None].expand(-1, 3, 4)


class Endless:
    def __init__(self) -> None:
        self.read = 0

    def __iter__(self) -> Iterator[torch.Tensor]:
        for number in iter(int, 1):
            self.read += 1
            yield rows(number, 100)


def numbers(held: Any) -> list[int]:
    return [int(value) for (tensor,) in held for value in tensor[:, 0, 0]]


def test_endless_data_are_read_as_far_as_they_are_used_and_that_is_told():
    data = Endless()
    held, remarks = hold(X, data)
    assert len(numbers(held)) == MOST_CALIBRATION_SAMPLES
    assert data.read == 2 * -(-MOST_CALIBRATION_SAMPLES // 100), "two passes"
    assert remarks == (
        "The task's calibration data is more than 1024 samples, the most that is read: 1024 samples are "
        "used, the first ones.",
    )


def test_endless_noise_is_told_to_change():
    class Noise:
        def __iter__(self) -> Iterator[torch.Tensor]:
            while True:
                yield torch.randn(16, 3, 4)

    held, remarks = hold(X, Noise())
    assert len(remarks) == 2
    assert remarks[1] == CHANGED
    assert sum(len(tensor) for (tensor,) in held) == MOST_CALIBRATION_SAMPLES


def test_as_many_as_are_read_are_no_more_than_that():
    assert hold(X, [rows(0, MOST_CALIBRATION_SAMPLES)])[1] == ()
    held, remarks = hold(X, [rows(0, MOST_CALIBRATION_SAMPLES + 1)])
    assert numbers(held) == list(range(MOST_CALIBRATION_SAMPLES))
    assert remarks[0].endswith("1024 samples are used, the first ones.")


class Counted(Dataset[torch.Tensor]):
    """Sorted samples, of which 4 are a batch; `read` holds the numbers that were asked for."""

    def __init__(self, batches: int) -> None:
        self.batches, self.read = batches, set[int]()

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, number: int) -> torch.Tensor:
        self.read.add(number)
        return rows(4 * number, 4)


def test_of_data_that_are_read_by_number_the_batches_are_spread_over_all():
    data = Counted(100_000)
    held, remarks = hold(X, data)
    assert len(data.read) == 256
    assert max(data.read) > 99_000
    assert len(numbers(held)) == MOST_CALIBRATION_SAMPLES
    assert remarks[0].endswith("1024 samples are used, spread over its 100000 batches.")
    assert set(np.diff(sorted(data.read))) == {390, 391}


def test_few_data_that_are_read_by_number_are_read_whole():
    held, remarks = hold(X, Counted(10))
    assert numbers(held) == list(range(40))
    assert remarks == ()


def test_samples_that_are_large_are_bounded_by_their_bytes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(calibration, "MOST_CALIBRATION_MIB", 2)
    large = torch.zeros(1, 2**18)  # a MiB
    held, remarks = hold(large, [large] * 5)
    assert len(held) == 2
    assert remarks[0].startswith(
        "The task's calibration data is more than 2 MiB, the most that is read: 2 samples"
    )


def images() -> Iterator[torch.Tensor]:
    yield from (rows(0, 2), rows(2, 2))


class Stream(IterableDataset[torch.Tensor]):
    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter([rows(0, 4)[number] for number in range(4)])


class Again:
    """An iterator that begins anew, as loaders of other libraries are."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        self.at = 0
        return self

    def __next__(self) -> torch.Tensor:
        if self.at == 2:
            raise StopIteration
        self.at += 1
        return rows(2 * self.at - 2, 2)


READABLE = [
    ("a list", list(images())),
    ("a tuple", tuple(images())),
    ("arrays", [batch.numpy() for batch in images()]),
    ("a generator function", images),
    ("a loader of samples", DataLoader(rows(0, 4), batch_size=2)),  # type: ignore[arg-type]
    ("a loader of a stream", DataLoader(Stream(), batch_size=3)),
    ("a loader that yields lists", DataLoader(TensorDataset(rows(0, 4)), batch_size=2)),
    ("an iterator that begins anew", Again()),
    ("one tensor of samples", rows(0, 4)),
    ("one array of samples", rows(0, 4).numpy()),
    ("a tensor of batches", torch.stack(list(images()))),
    ("batches by number", Counted(1)),
]


@pytest.mark.parametrize(("name", "data"), READABLE, ids=[name for name, _ in READABLE])
def test_data_of_all_usual_kinds_are_read_whole(name: str, data: Any):
    held, remarks = hold(X, data)
    assert numbers(held) == [0, 1, 2, 3]
    assert remarks == ()


@pytest.mark.parametrize("kind", [dict, UserDict])
def test_of_a_dict_the_names_of_the_example_are_read_and_others_told(kind: Any):
    batch = kind({"labels": torch.zeros(4), "ids": rows(0, 4)})
    for data in ([batch], batch):
        held, remarks = hold(kind({"ids": X}), data)
        assert numbers(held) == [0, 1, 2, 3]
        assert remarks == ("The calibration data has 'labels', which the example has not: it is left out.",)
