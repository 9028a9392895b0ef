"""Which budgets a fit answers: each once, the largest first, and what cannot be meant is refused."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from edgeprune.errors import InputError
from edgeprune.fitting.budgets import looseness, profile_names, requested_budgets
from edgeprune.options import FitOptions
from edgeprune.records.machine import Budget, Profile

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
