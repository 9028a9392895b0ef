"""A recovery way is one row: a toy way is offered, documented, checked and run without another change."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from edgeprune.errors import InputError
from edgeprune.make import Workshop
from edgeprune.quantize.dialects import dialect_for
from edgeprune.records.task import Task
from edgeprune.recover import ways
from edgeprune.recover.recipe import TrainingOptions
from edgeprune.recover.ways import RecoveryWay

TOY = RecoveryWay(
    "imitate",
    "Low-rank updates that imitate the original.",
    low_rank=True,
    labels="required",
    warm_start=True,
)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> RecoveryWay:
    monkeypatch.setitem(ways.TABLE, TOY.name, TOY)  # type: ignore[arg-type]
    return TOY


def workshop(*, labelled: bool) -> Workshop:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 12), nn.Tanh(), nn.Linear(12, 3)).eval()
    inputs = [torch.randn(32, 4) for _ in range(8)]
    fields: dict[str, Any] = {"calibration": inputs, "evaluate": lambda predict: 0.5}
    if labelled:
        fields["train"] = [(x, net(x).detach().argmax(1)) for x in inputs]
    return Workshop(Task(net, inputs[0][:1], **fields), dialect_for("onnxruntime-x86", "x86_64"))


def test_a_toy_way_is_offered_by_the_command_line(
    toy: RecoveryWay, doors: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "|trainer|imitate]" in doors.help_of("fit", monkeypatch)


def test_a_toy_way_is_run_by_its_row(toy: RecoveryWay) -> None:
    shop = workshop(labelled=True)
    (group,) = shop.coupling.groups
    kept = {group.name: range(6)}
    assert shop.highest_rung(toy.name) == toy.name
    pruned, before = shop.prune(kept, toy.name)
    assert [rung.name for rung in before] == ["reconstruct", "statistics"]
    better, (rung,) = shop.train(pruned, kept, toy.name, TrainingOptions(8), None)
    assert (rung.name, rung.kept) == (toy.name, True)
    assert shop.judge.error(better) == pytest.approx(rung.after)
    assert ways.before_training(toy.name) == "reconstruct"


def test_a_toy_way_is_refused_where_the_task_lacks_what_its_row_requires(toy: RecoveryWay) -> None:
    with pytest.raises(InputError, match="'imitate' needs labelled data") as refused:
        workshop(labelled=False).highest_rung(toy.name)
    assert refused.value.hint == "Give Task.train with targets, or recover with distill or lora."


def test_an_unknown_way_is_refused_with_every_row(toy: RecoveryWay) -> None:
    with pytest.raises(InputError, match="no recovery 'prayer'") as refused:
        ways.find_way("prayer")
    assert refused.value.hint.endswith("lora, rewind, trainer, imitate.")


def test_the_document_tells_every_way(doors: ModuleType) -> None:
    assert doors.undocumented((row.name, row.says) for row in ways.TABLE.values()) == []
    assert doors.documented("Recovery ways") == list(ways.TABLE)


def test_a_toy_way_is_missed_in_the_document(toy: RecoveryWay, doors: ModuleType) -> None:
    missed = doors.undocumented((row.name, row.says) for row in ways.TABLE.values())
    assert missed == [f"| `imitate` | {toy.says} |"]


@pytest.mark.parametrize("row", ways.TABLE.values(), ids=lambda row: row.name)
def test_a_row_asks_only_for_what_training_uses(row: RecoveryWay) -> None:
    asks = row.labels != "unused" or row.needs_earlier or row.low_rank or row.warm_start
    assert row.trains or not asks
    assert row.reconstructs or not row.trains


def test_the_defaults_are_rows_that_the_data_allows() -> None:
    assert ways.TABLE[ways.UNLABELLED].labels != "required"
    assert ways.TABLE[ways.LABELLED].labels == "required"
