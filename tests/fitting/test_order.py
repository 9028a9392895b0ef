"""Order of a fit: its runtime is a known one, and a run is resumed with the evaluation that it began with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from edgeprune.errors import InputError
from edgeprune.fitting.order import EVALUATION, check_evaluation, resolve_orders
from edgeprune.ledger import Ledger, Noted
from edgeprune.options import FitOptions
from edgeprune.records.progress import Event
from edgeprune.records.task import Task


@dataclass(frozen=True)
class Resumed:
    """Score at the beginning, and what `evaluate` gives at the resumption, call by call."""

    then: float | None
    now: tuple[float, ...]
    told: str = ""
    refusal: str = ""


RESUMED = {
    "the same": Resumed(0.9, (0.9,)),
    "a sum in another order": Resumed(-2.3025851, (-2.3025853,)),
    "other data": Resumed(0.9, (0.85, 0.85), refusal="0.85 now, and gave 0.9 when the run began"),
    "one sample of ten thousand": Resumed(0.9, (0.9001, 0.9001), refusal="0.9001 now, and gave 0.9"),
    "a random one": Resumed(0.9, (0.85, 0.87), told="0.85, then 0.87: it is random, and was not compared"),
    "a run of an earlier version": Resumed(None, (0.85,)),
}


@pytest.mark.parametrize("case", RESUMED.values(), ids=RESUMED.keys())
def test_a_run_is_resumed_with_the_evaluation_that_it_began_with(tmp_path: Path, case: Resumed) -> None:
    scores: Iterator[float] = iter(case.now)
    task = Task(torch.nn.Identity(), torch.zeros(1, 1), [torch.zeros(1, 1)], lambda predict: next(scores))
    workshop: Any = SimpleNamespace(predict=None)
    Ledger.open(tmp_path, {EVALUATION: Noted(case.then)}, False).close()
    told: list[Event] = []
    score = next(scores)
    with Ledger.open(tmp_path, {EVALUATION: Noted(score)}, True) as ledger:
        if case.refusal:
            with pytest.raises(InputError, match=case.refusal):
                check_evaluation(ledger, score, task, workshop, told.append)
        else:
            check_evaluation(ledger, score, task, workshop, told.append)
    assert [case.told in event.doing for event in told] == [True] * bool(case.told)
    assert next(scores, None) is None, "it is asked again only where it differs"


@pytest.mark.parametrize("runtime", ["onnx-runtime", ""])
def test_a_runtime_that_was_asked_for_and_is_none_is_not_said_to_be_the_target_s(runtime: str) -> None:
    with pytest.raises(InputError, match=f"There is no runtime '{runtime}'"):
        resolve_orders(FitOptions(runtime=runtime))
