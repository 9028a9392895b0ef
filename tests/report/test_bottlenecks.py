"""Each layer of a chosen model has the cause that holds its time, as the run recorded it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from edgeprune.records.machine import Budget, Figure
from edgeprune.records.trial import FitResult, LayerFacts, LayerTimes
from edgeprune.report import bottleneck_rows, bottlenecks, summary_lines
from edgeprune.report.bottlenecks import Bottleneck, Cause
from tests.support.html_runs import facts

Make = Callable[..., Any]
FIGURES = (
    ("clock_max", Figure(1.0, "GHz", "a data sheet")),
    ("memory_bandwidth", Figure(1.0, "GB/s", "a data sheet")),
    ("float32_macs", Figure(1.0, "macs/clock", "a data sheet")),
)


@pytest.fixture
def timed(make_run: Make) -> Callable[..., FitResult]:
    """Result of a fit whose chosen model has these layers: (milliseconds, facts)."""
    made = make_run().result

    def of(
        *layers: tuple[float, LayerFacts], operator_ms: float | None = 0.004, **candidate: Any
    ) -> FitResult:
        times = LayerTimes(
            made.chosen.name,
            tuple((each.layer, ms) for ms, each in layers),
            tuple(each for _, each in layers),
            operator_ms,
        )
        chosen = replace(
            made.chosen,
            candidate=replace(made.chosen.candidate, **candidate),
            kept=(("one", 16), ("two", 32)),
        )
        baseline = replace(made.baseline, kept=(("one", 64), ("two", 64)))
        return replace(made, chosen=chosen, baseline=baseline, layers=(times,))

    return of


@dataclass(frozen=True)
class Case:
    """Facts about a layer of 0.1 ms, the cause that holds it, and words of a sentence about it."""

    name: str
    changes: dict[str, Any]
    cause: Cause
    words: str
    candidate: dict[str, Any] = field(default_factory=dict)


CASES = (
    Case("wide", {"groups": (("two", 16),)}, "width", "32 of 64 units of group two, narrowest 16"),
    Case("narrow", {"groups": (("one", 16),)}, "narrowest", "16 of 64 units, as few as is legal"),
    Case(
        "frozen",
        {"groups": (), "frozen": "output: is an output of the model"},
        "frozen",
        "its outputs are frozen by output: is an output of the model",
    ),
    Case("without a group", {"groups": ()}, "frozen", "its outputs are in no group that can be pruned"),
    Case(
        "many operators", {"operators": 13}, "launch", "launch-bound: 13 operators, of which the fixed cost"
    ),
    Case(
        "wide at its fixed cost",
        {"groups": (("two", 16),), "operators": 13},
        "launch",
        "32 of 64 units of group two, narrowest 16",
    ),
    Case("harmed", {}, "float", "for INT8 harmed the metric most here", {"float_layers": ("one",)}),
    Case("no quicker", {}, "float", "for INT8 is no quicker here", {"slow_layers": ("one",)}),
    Case("in the engine", {}, "float", "for the engine runs it in float", {"engine_layers": ("one",)}),
    Case("no form", {"int8": False}, "float", "the INT8 dialect makes no integer Conv of it"),
    Case("recurrent", {"int8": False, "operator": "GRU"}, "float", "for ONNX has no GRU on integers"),
    Case(
        "wide in float",
        {"int8": False, "groups": (("two", 16),)},
        "width",
        "in float, for the INT8 dialect makes no integer Conv of it",
    ),
    Case("a float model", {"int8": False}, "narrowest", "16 of 64 units", {"precision": "float32"}),
    Case("before all", {"operator": "", "groups": ()}, "outside", "0.0100 ms of it are conversions"),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_layer_has_the_cause_that_holds_it(case: Case, timed: Callable[..., FitResult]) -> None:
    layer = replace(facts("one"), **case.changes)
    (found,) = bottlenecks(timed((0.1, layer), **case.candidate)).layers
    assert found.cause == case.cause
    assert case.words in "; ".join(found.facts)


def test_layers_and_causes_are_told_by_their_time_and_no_time_is_told_twice(
    timed: Callable[..., FitResult],
) -> None:
    found = bottlenecks(
        timed(
            (0.2, facts("one")),
            (0.5, facts("two", converting_ms=0.3)),
            (0.1, facts("head", groups=(), frozen="output: is an output of the model", converting_ms=0.0)),
        )
    )
    assert [each.layer for each in found.layers] == ["two", "one", "head"]
    assert [each.share for each in found.layers] == pytest.approx([0.625, 0.25, 0.125])
    assert [(each.cause, each.layers) for each in found.causes] == [
        ("conversions", ("two", "one")),
        ("width", ("two",)),
        ("narrowest", ("one",)),
        ("frozen", ("head",)),
    ]
    assert sum(each.ms for each in found.causes) == pytest.approx(0.8)


def bound(layer: Bottleneck) -> str:
    return layer.facts[0].partition(":")[0]


def test_without_figures_a_layer_is_held_against_the_quickest_of_the_run(
    timed: Callable[..., FitResult],
) -> None:
    found = bottlenecks(
        timed(
            (0.1, facts("busy", macs=10_000_000, traffic=10_000)),
            (0.1, facts("moving", macs=100_000, traffic=1_000_000)),
            (0.1, facts("idle", macs=100_000, traffic=10_000)),
        )
    )
    assert {each.layer: bound(each) for each in found.layers} == {
        "busy": "compute-bound",
        "moving": "memory-bound",
        "idle": "below both rates",
    }
    assert "100 GMAC/s in int8, and 10 GB/s" in found.rates
    assert found.lacks == ()


def test_of_too_few_layers_none_is_called_bound_and_a_way_to_know_is_told(
    timed: Callable[..., FitResult],
) -> None:
    found = bottlenecks(timed((0.1, facts("one")), (0.1, facts("two"))))
    assert not any("bound" in sentence for each in found.layers for sentence in each.facts)
    (lacking,) = found.lacks
    assert "a profile of your own with clock_max and memory_bandwidth" in lacking


def test_with_a_profiles_figures_rates_are_what_the_runtime_attains_of_them(
    timed: Callable[..., FitResult],
) -> None:
    result = timed((1.0, facts("one", macs=400_000, traffic=700_000)))
    found = bottlenecks(replace(result, profile=replace(result.profile, figures=FIGURES, isa=("avx2",))))
    assert bound(found.layers[0]) == "memory-bound"
    assert "93% of the traffic" in found.layers[0].facts[0]  # 0.7 MB/ms of three quarters of 1 GB/s
    assert "figures of profile local" in found.rates


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"operator_ms": None}, "no layer is called launch-bound", id="fixed cost"),
        pytest.param({}, "none is called compute-bound or memory-bound", id="work"),
    ],
)
def test_what_was_not_told_apart_is_said(
    changes: dict[str, Any], words: str, timed: Callable[..., FitResult]
) -> None:
    layer = facts("one", macs=None, traffic=None, operators=50)
    found = bottlenecks(timed((0.1, layer), **changes))
    assert any(words in sentence for sentence in found.lacks)
    assert (found.layers[0].cause == "launch") == ("operator_ms" not in changes)


def test_the_next_gain_is_summed_up_and_too_small_a_cause_is_told(timed: Callable[..., FitResult]) -> None:
    result = timed((3.0, facts("two", groups=(("two", 16),))), (0.5, facts("one", converting_ms=0.0)))
    found = bottlenecks(result)
    tenth = 0.1 * result.chosen.measurement.latency.p50_ms
    lines = summary_lines(found, "top-1")
    assert found.next_ms == pytest.approx(tenth)
    assert lines[0] == f"The next 10% of trial-01 ({tenth:.3f} ms) could come from:"
    assert lines[1].startswith("  width, 2.990 ms in 1 layer (two): units that could still leave")
    assert "a cost in top-1" in lines[1]
    assert lines[2].startswith("  conversions, 0.010 ms in 1 layer (two), all of it less than that 10%:")
    assert lines[3] == "The rest is held by:"
    assert lines[4].startswith("  narrowest, 0.500 ms in 1 layer (one)")


def test_where_nothing_can_give_that_is_said(timed: Callable[..., FitResult]) -> None:
    lines = summary_lines(bottlenecks(timed((0.5, facts("one", converting_ms=0.0)))), "top-1")
    assert lines[0].endswith("could come from nothing that edgeprune decides.")


def test_of_an_earlier_version_times_alone_are_told_and_how_to_get_the_rest(
    timed: Callable[..., FitResult],
) -> None:
    result = timed((0.5, facts("one")), (0.1, facts("start", operator="")), slow_layers=("one",))
    (times,) = result.layers
    found = bottlenecks(replace(result, layers=(LayerTimes(times.name, times.layers),)))
    assert [each.cause for each in found.layers] == ["unrecorded", "unrecorded"]
    assert next(bottleneck_rows(found))[-1] == "in float, for INT8 is no quicker here on this device"
    assert [row[0] for row in bottleneck_rows(found)] == ["one", "before the first"]
    assert any("--resume" in sentence for sentence in found.lacks)


def predicted(result: FitResult) -> FitResult:
    measurement = replace(result.chosen.measurement, assumptions=("a roofline",))
    return replace(result, chosen=replace(result.chosen, measurement=measurement))


def sized(result: FitResult) -> FitResult:
    return replace(result, budget=Budget(size_mib=1.0))


def in_openvino(result: FitResult) -> FitResult:
    return replace(result, runtime="openvino", chosen=replace(result.chosen, artefact="trial-01/model.xml"))


@pytest.mark.parametrize(
    ("change", "way"),
    [
        pytest.param(predicted, "--device", id="predicted"),
        pytest.param(sized, "--latency-ms or --speedup", id="not limited"),
        pytest.param(in_openvino, "--runtime onnxruntime", id="another runtime"),
        pytest.param(lambda result: replace(result, runtime="tensorrt"), "--runtime onnx", id="engine"),
        pytest.param(lambda result: result, "--resume", id="earlier"),
    ],
)
def test_without_times_one_sentence_says_how_to_get_them(
    change: Callable[[FitResult], FitResult], way: str, make_run: Make
) -> None:
    found = bottlenecks(change(make_run().result))
    assert (found.layers, found.causes) == ((), ())
    (sentence,) = found.lacks
    assert way in sentence
    assert summary_lines(found, "top-1") == [sentence]
