"""Order of a fit: what it is served by and where, and with which evaluation a run is resumed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from edgeprune.errors import InputError
from edgeprune.fitting.loop import workshop_for
from edgeprune.fitting.order import EVALUATION, check_evaluation, resolve_orders, told_rows
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


@dataclass(frozen=True)
class Resolved:
    """What was asked, and what it is served by: target, runtime, dialect and the runtime's device."""

    asked: dict[str, Any]
    found: tuple[str, str, str, str]
    predicted: bool = True


RESOLVED = {
    "nothing": Resolved({}, ("local", "onnxruntime", "own", "CPU"), predicted=False),
    "another runtime": Resolved(
        {"runtime": "openvino"}, ("local", "openvino", "openvino", "CPU"), predicted=False
    ),
    "the target's own": Resolved(
        {"runtime": "openvino", "target": "intel"}, ("intel", "openvino", "openvino", "CPU")
    ),
    "on another target": Resolved(
        {"runtime": "onnxruntime", "target": "intel"}, ("intel", "onnxruntime", "onnxruntime-x86", "CPU")
    ),
    "a Jetson": Resolved({"profile": "jetson-orin-nano"}, ("jetson", "tensorrt", "tensorrt", "GPU")),
    "two of them": Resolved(
        {"profile": ("jetson-orin-nano", "jetson-agx-orin"), "latency_ms": 9.0},
        ("jetson", "tensorrt", "tensorrt", "GPU"),
    ),
    "its processor": Resolved(
        {"profile": "jetson-orin-nano", "runtime": "onnxruntime"},
        ("jetson", "onnxruntime", "onnxruntime-arm", "CPU"),
    ),
    "a card": Resolved({"profile": "rtx-4060"}, ("rtx", "tensorrt-rtx", "tensorrt", "GPU")),
    "a board": Resolved({"profile": "raspberry-pi-5"}, ("local", "onnxruntime", "onnxruntime-arm", "CPU")),
}


@pytest.mark.parametrize("case", RESOLVED.values(), ids=RESOLVED.keys())
def test_a_runtime_brings_its_dialect_and_a_profile_its_target(tiny: ModuleType, case: Resolved) -> None:
    orders, _ = resolve_orders(FitOptions(**case.asked))
    order = orders[0]
    dialect = workshop_for(tiny.task(), order).dialect.name
    own = dialect if case.found[2] == "own" else case.found[2]
    assert own.startswith(("onnxruntime", "openvino", "tensorrt"))
    assert (order.target.name, order.runtime, dialect, order.target.device) == (
        *case.found[:2],
        own,
        case.found[3],
    )
    assert order.target.runtime == order.runtime
    assert (order.forecast is not None) is case.predicted


@dataclass(frozen=True)
class Contradiction:
    asked: dict[str, Any]
    sentence: str


CONTRADICTIONS = {
    "a Jetson here": Contradiction(
        {"target": "local", "profile": "jetson-orin-nano"},
        r"jetson-orin-nano is served with tensorrt \(target jetson\), and target local serves with onnx",
    ),
    "a card in a Jetson": Contradiction(
        {"target": "jetson", "profile": "rtx-4060"}, "rtx-4060 is served with tensorrt-rtx"
    ),
    "a Jetson and a card": Contradiction(
        {"profile": ("jetson-orin-nano", "rtx-4060")},
        "jetson-orin-nano with jetson, rtx-4060 with rtx",
    ),
    "a Jetson and a board": Contradiction(
        {"profile": ("jetson-orin-nano", "raspberry-pi-5")}, "raspberry-pi-5 with none of its own"
    ),
    "x86 on a board": Contradiction(
        {"target": "x86", "profile": "raspberry-pi-5"},
        "onnxruntime-x86, and the profile's machine is aarch64",
    ),
    "more threads than cores": Contradiction(
        {"target": "arm", "threads": 8}, "8 threads on the 4 cores of profile raspberry-pi-5"
    ),
}


@pytest.mark.parametrize("case", CONTRADICTIONS.values(), ids=CONTRADICTIONS.keys())
def test_what_contradicts_itself_is_refused(case: Contradiction) -> None:
    with pytest.raises(InputError, match=case.sentence):
        resolve_orders(FitOptions(**case.asked))


DESK = """\
title = "My desk"
detect = true

[budget]
latency_ms = 5
"""


def test_a_detected_profile_is_this_machine_by_any_name_and_no_other_is_by_that_of_the_shelf_s(
    tmp_path: Path,
) -> None:
    desk = tmp_path / "desk.toml"
    desk.write_text(DESK)
    (order,), _ = resolve_orders(FitOptions(profile=desk))
    assert (order.profile.name, order.forecast) == ("desk", None)
    other = tmp_path / "local.toml"
    board = Path("profiles/raspberry-pi-5.toml")
    other.write_text((Path(__file__).parents[2] / board).read_text())
    (order,), _ = resolve_orders(FitOptions(profile=other))
    assert (order.profile.name, order.forecast is None) == ("local", False)


def test_rows_and_threads_that_were_asked_for_are_the_profile_s(scripted: ModuleType) -> None:
    device = scripted.ScriptedDevice()
    (order,), notes = resolve_orders(FitOptions(batch=8, threads=3, device=device))
    assert (order.profile.batch, order.profile.threads) == (8, 3)
    assert notes == ["3 threads will serve on 2 cores of scripted."]
    (plain,), notes = resolve_orders(FitOptions(device=device, threads=2))
    assert (plain.profile.batch, notes) == (1, [])


def test_a_budget_that_limits_nothing_is_told(scripted: ModuleType) -> None:
    device = scripted.ScriptedDevice()
    _, (note,) = resolve_orders(FitOptions(latency_ms="none", device=device, threads=1))
    assert "Nothing limits latency, memory or size" in note
    _, notes = resolve_orders(FitOptions(latency_ms="none", size_mib=1.0, device=device, threads=1))
    assert notes == []


@pytest.mark.parametrize(
    "example",
    [torch.zeros(6, 4), (torch.zeros(6, 4),), {"x": torch.zeros(6, 4)}],
    ids=["bare", "tuple", "dict"],
)
def test_an_example_of_more_rows_than_are_timed_is_told(example: Any, scripted: ModuleType) -> None:
    task: Any = SimpleNamespace(example=example)
    dense: Any = SimpleNamespace(fixed_batch="")
    for batch, told in ((1, 1), (5, 1), (6, 0), (8, 0)):
        (order,), _ = resolve_orders(FitOptions(batch=batch, device=scripted.ScriptedDevice()))
        remarks = told_rows(task, order, dense)
        assert len(remarks) == told
        assert all(f"has 6 rows, and a query of {batch} is timed" in remark for remark in remarks)
