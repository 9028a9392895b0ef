"""Which budgets a fit answers: each once, the largest first, and what cannot be meant is refused."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from edgeprune.errors import InputError
from edgeprune.fitting.budgets import check_drop, looseness, profile_names, requested_budgets, resolved
from edgeprune.options import FitOptions
from edgeprune.records.machine import Budget, Profile
from edgeprune.records.trial import Latency, ProjectUse

PRESS = Profile("press", "At the press", "x86_64", 2, Budget(latency_ms=8.0, memory_mib=100.0))
GATE = Profile("gate", "At the gate", "x86_64", 2, Budget(speedup=2.0))


def asked(profiles: list[Profile], **flags: Any) -> list[tuple[str, float | None, float | None]]:
    found, _ = requested_budgets(profiles, FitOptions(**flags).budget)
    return [(wish.name, wish.budget.latency_ms, wish.budget.speedup) for wish in found]


def test_one_profile_and_no_flags_is_the_profile_s_budget() -> None:
    assert asked([PRESS], latency_ms=None) == [("press", 8.0, None)]
    assert requested_budgets([PRESS], {})[1] == []


def test_several_latencies_are_answered_from_the_largest_to_the_smallest_and_each_once() -> None:
    found, notes = requested_budgets([PRESS], {"latency_ms": (5, 20.0, 5.0, 10), "max_drop": 0.02})
    assert [(wish.name, wish.budget) for wish in found] == [
        (f"{ms:g} ms", replace(PRESS.budget, latency_ms=ms, max_drop=0.02)) for ms in (20.0, 10.0, 5.0)
    ]
    assert notes == [
        "The budget 5 ms was given more than once; it is answered once.",
        "Budgets are answered from the largest to the smallest: 20 ms, 10 ms, 5 ms.",
    ]


def test_several_speed_ups_begin_with_the_least_and_replace_milliseconds() -> None:
    assert asked([PRESS], speedup=(4.0, 2.0)) == [("2x", None, 2.0), ("4x", None, 4.0)]


def test_no_latency_at_all_is_said_as_none_and_takes_the_profile_s_away() -> None:
    assert asked([PRESS, GATE], latency_ms="none") == [("press", None, None), ("gate", None, None)]
    (wish,), _ = requested_budgets([PRESS], {"latency_ms": "none", "size_mib": 2.0})
    assert (wish.budget.timed, wish.budget.memory_mib, wish.budget.size_mib) == (False, 100.0, 2.0)


def test_a_share_replaces_an_absolute_drop_and_vice_versa() -> None:
    strict = replace(PRESS, budget=Budget(latency_ms=8.0, max_drop_percent=2.0))
    (share,), _ = requested_budgets([PRESS], FitOptions(max_drop="0.5%").budget)
    (absolute,), _ = requested_budgets([strict], FitOptions(max_drop=0.3).budget)
    assert share.budget.max_drop_percent == 0.5
    assert (absolute.budget.max_drop, absolute.budget.max_drop_percent) == (0.3, None)


def test_every_line_that_binds_has_its_source() -> None:
    profile = replace(PRESS, unsaid=("percentile", "max_drop"))
    (found,), _ = requested_budgets([profile], {"latency_ms": 5.0})
    assert dict(found.sources) == {
        "latency_ms": "flag",
        "percentile": "default",
        "memory_mib": "profile",
        "max_drop": "default",
    }
    (share,), _ = requested_budgets([profile], FitOptions(max_drop="1%").budget)
    assert "max_drop" not in dict(share.sources)
    assert dict(share.sources)["max_drop_percent"] == "flag"


@pytest.mark.parametrize(("drop", "line"), [("1%", "max_drop_percent"), (0.5, "max_drop")])
def test_a_line_of_the_project_file_is_told_as_such(drop: str | float, line: str) -> None:
    use = ProjectUse("edgeprune.toml", (("model", '"m.py"'), ("max_drop", "1"), ("latency_ms", "[20, 5]")))
    options = FitOptions(latency_ms=(20.0, 5.0), size_mib=3.0, max_drop=drop, project=use)
    found, _ = requested_budgets([PRESS], options.budget, options.project_lines)
    for one in found:
        told = dict(one.sources)
        assert (told["latency_ms"], told[line], told["size_mib"]) == ("project", "project", "flag")
        assert told["memory_mib"] == "profile"
    overridden = replace(options, project=replace(use, keys=use.keys[:1]))
    assert overridden.project_lines == frozenset()


DENSE = Latency(2.0, 3.0, 4.0, 5.0, 90, 3.3, 1000, 10.0, percentile_ms=3.0)


@pytest.mark.parametrize(
    ("metric", "dense", "percent", "drop"),
    [
        pytest.param("MSE", 0.03, 2.0, 0.0006, id="MSE"),
        pytest.param("perplexity", 18.5, 2.0, 0.37, id="perplexity"),
        pytest.param("WER %", 7.5, 10.0, 0.75, id="word error rate in percent"),
        pytest.param("top-1", 93.0, 1.0, 0.93, id="accuracy of 0 to 100"),
        pytest.param("PSNR", 31.5, 1.0, 0.315, id="PSNR"),
        pytest.param("R2", -0.4, 5.0, 0.02, id="R2 below zero"),
        pytest.param("-MSE", -0.03, 2.0, 0.0006, id="negative error"),
    ],
)
def test_a_share_is_of_the_dense_models_metric_whatever_its_sign(
    metric: str, dense: float, percent: float, drop: float
) -> None:
    asked = Budget(max_drop_percent=percent)
    assert check_drop(asked, {"max_drop_percent": "flag"}, metric, dense) is None
    got = resolved(asked, DENSE, dense)
    assert got.max_drop == pytest.approx(drop)
    assert got.max_drop_percent == percent, "what was asked stays"


def test_both_relative_lines_are_resolved_together() -> None:
    got = resolved(Budget(speedup=2.0, max_drop_percent=1.0), DENSE, 0.9)
    assert (got.latency_ms, got.max_drop) == (1.5, pytest.approx(0.009))
    assert resolved(PRESS.budget, DENSE, 0.9) == PRESS.budget


def test_a_share_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="MSE of the dense model is 0, and 2% of that allows nothing"):
        check_drop(Budget(max_drop_percent=2.0), {"max_drop_percent": "flag"}, "MSE", 0.0)


UNSAID = {"max_drop": "default"}


@pytest.mark.parametrize("dense", [18.5, 7.5, 93.0, 31.5, 1.0001, -0.03])
def test_a_default_drop_is_for_shares_alone(dense: float) -> None:
    with pytest.raises(InputError, match=r"the default of 0\.01 is for metrics of 0 to 1") as caught:
        check_drop(Budget(), UNSAID, "metric", dense)
    assert "in the metric's own unit" in caught.value.hint
    assert "2%" in caught.value.hint
    for source in ("flag", "profile"):
        assert check_drop(Budget(), {"max_drop": source}, "metric", dense) is None


@pytest.mark.parametrize("dense", [1.0, 0.9, 0.1])
def test_a_default_drop_of_a_share_needs_no_sentence(dense: float) -> None:
    assert check_drop(Budget(), UNSAID, "top-1", dense) is None


@pytest.mark.parametrize(
    ("dense", "share"), [(0.03, "33% of it"), (0.0004, "2500% of it"), (0.0, "more than it")]
)
def test_a_default_drop_that_is_much_of_the_metric_is_told(dense: float, share: str) -> None:
    told = check_drop(Budget(), UNSAID, "MSE", dense)
    assert told is not None
    assert f"allows to lose {share}" in told


def test_a_list_in_order_needs_no_sentence() -> None:
    assert requested_budgets([PRESS], {"latency_ms": (20.0, 10.0)})[1] == []


def test_a_list_of_one_and_the_same_is_one_budget() -> None:
    assert asked([PRESS], latency_ms=(5.0, 5.0)) == [("5 ms", 5.0, None)]


def test_several_profiles_each_have_their_own_budget_and_share_the_flags() -> None:
    assert asked([PRESS, GATE]) == [("press", 8.0, None), ("gate", None, 2.0)]
    assert asked([PRESS, GATE], latency_ms=3.0) == [("press", 3.0, None), ("gate", 3.0, None)]


def test_a_profile_that_was_given_twice_is_answered_once() -> None:
    found, notes = requested_budgets([PRESS, GATE, PRESS], {})
    assert [wish.name for wish in found] == ["press", "gate"]
    assert notes == ["Profile press was given more than once; it is answered once."]


@dataclass(frozen=True)
class Refused:
    id: str
    flags: dict[str, Any]
    profiles: tuple[Profile, ...]
    sentence: str


REFUSED = [
    Refused("both kinds", {"latency_ms": (5.0, 4.0), "speedup": (2.0,)}, (PRESS,), "Both --latency-ms and"),
    Refused("lists times profiles", {"latency_ms": (5.0, 4.0)}, (PRESS, GATE), "2 profiles and 2 values of"),
    Refused("a list of memories", {"memory_mib": (5.0, 4.0)}, (PRESS,), "memory_mib has 2 values"),
    Refused("nothing", {"latency_ms": ()}, (PRESS,), "latency_ms is an empty list"),
    Refused("one of them negative", {"latency_ms": (5.0, -1.0)}, (PRESS,), "latency_ms is -1.0"),
    Refused("a text", {"latency_ms": "12"}, (PRESS,), "latency_ms is '12', a text"),
    Refused("a speed-up of none", {"speedup": "none"}, (PRESS,), "speedup is 'none', a text"),
    Refused(
        "none beside a speed-up", {"latency_ms": "none", "speedup": 2.0}, (PRESS,), "Both --latency-ms and"
    ),
    Refused("not finite", {"latency_ms": float("inf")}, (PRESS,), "latency_ms is inf"),
    Refused("two of a name", {}, (PRESS, replace(PRESS, threads=1)), "Two profiles are called press"),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.id)
def test_what_cannot_be_meant_is_refused(case: Refused) -> None:
    with pytest.raises(InputError, match=case.sentence):
        requested_budgets(case.profiles, FitOptions(**case.flags).budget)


def test_profiles_are_given_as_none_one_or_several() -> None:
    assert profile_names(None) == profile_names(()) == ()
    assert profile_names("a") == ("a",)
    assert profile_names(["a", "b"]) == ("a", "b")


def test_looseness_is_a_budget_s_share_of_the_dense_model_on_its_machine() -> None:
    slow, quick = Budget(latency_ms=20.0), Budget(latency_ms=5.0)
    assert looseness(slow, 40.0) < looseness(quick, 5.0), (
        "5 ms are more for a model that takes 5 than 20 for one of 40"
    )
    assert looseness(Budget(), 1.0) > looseness(slow, 1.0), "no latency binds"
    assert looseness(replace(slow, memory_mib=10.0), 1.0) < looseness(slow, 1.0)
