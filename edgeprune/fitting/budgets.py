"""Budgets of one fit, from its profiles and flags: each once, the largest first."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import inf
from pathlib import Path
from typing import Any, Literal, cast

from edgeprune.errors import InputError
from edgeprune.records.machine import Budget, Profile
from edgeprune.records.trial import Latency, percentile_ms

UNLIMITED = "none"  # said of the latency
# Lines of which one replaces the other: an absolute bound, and one relative to the dense model.
RELATIVE = {"latency_ms": "speedup", "max_drop": "max_drop_percent"}
LARGE_SHARE = 0.1  # of the dense model's metric: a default that allows more is told
SEVERAL = {"latency_ms": " ms", "speedup": "x"}  # lines that take several values, and how a value is written


@dataclass(frozen=True)
class RequestedBudget:
    """One budget, its profile, and the name of the tier that answers it; relative lines are not yet resolved.

    sources: who said each line, also that it has no limit: "flag", "project", "profile" or "default".
    """

    name: str
    profile: Profile
    budget: Budget
    sources: tuple[tuple[str, str], ...] = ()


def requested_budgets(
    profiles: Sequence[Profile],
    flags: Mapping[str, float | Sequence[float] | Literal["none"]],
    project_lines: Collection[str] = (),
) -> tuple[tuple[RequestedBudget, ...], list[str]]:
    """Budgets to answer, and sentences about those that were given twice or out of order.

    Flags override each profile line by line; milliseconds replace a speed-up and vice versa. Several values
    of one line are several budgets, the largest first; so are several profiles, in the order given. A latency
    of "none" is no limit of it. project_lines: those of the flags that a project file gave.
    Raises `InputError` for what is no budget, or asks for several values and several profiles at once.
    """
    unlimited: dict[str, float | None] = {
        name: None for name, value in flags.items() if _unlimited(name, value)
    }
    found = {name: _values(name, value) for name, value in flags.items() if name not in unlimited}
    line = next((name for name in SEVERAL if len(found.get(name, ())) > 1), None)
    if line is None:
        fixed = unlimited | {name: values[0] for name, values in found.items()}
        asked, notes = _each_once(profiles)
        return tuple(_requested(one.name, one, fixed, project_lines) for one in asked), notes
    if len(profiles) > 1:
        raise InputError(
            f"{len(profiles)} profiles and {len(found[line])} values of {line} were given.",
            "Give several profiles with one latency for all of them, or one profile with several latencies.",
        )
    ordered = sorted(set(found[line]), reverse=line == "latency_ms")
    notes = _told(line, found[line], ordered)
    rest = {name: values[0] for name, values in found.items() if name != line}
    (profile,) = profiles
    named = ((f"{value:g}{SEVERAL[line]}", {**rest, line: value}) for value in ordered)
    return tuple(_requested(name, profile, given, project_lines) for name, given in named), notes


def profile_names(value: str | Path | Sequence[str | Path] | None) -> tuple[str | Path, ...]:
    """Names or paths of profiles: one, several or none."""
    if isinstance(value, str | Path):
        return (value,)
    return tuple(value or ())


def looseness(budget: Budget, dense_ms: float) -> tuple[float, float, float]:
    """Sort key of a resolved budget: its share of the dense model's latency, its memory and its size."""
    latency = inf if budget.latency_ms is None else budget.latency_ms / dense_ms
    return latency, budget.memory_mib or inf, budget.size_mib or inf


def _unlimited(name: str, value: object) -> bool:
    return name == "latency_ms" and isinstance(value, str) and value == UNLIMITED


def _values(name: str, value: float | Sequence[float] | Literal["none"]) -> tuple[float, ...]:
    if isinstance(value, str):
        raise InputError(f"The budget's {name} is {value!r}, a text.", "Give a number.")
    values = tuple(float(one) for one in value) if isinstance(value, Sequence) else (float(value),)
    if not values:
        raise InputError(f"The budget's {name} is an empty list.", "Give one value or more.")
    if len(values) > 1 and name not in SEVERAL:
        raise InputError(
            f"The budget's {name} has {len(values)} values.",
            f"Only {' and '.join(SEVERAL)} may have several.",
        )
    for one in values:
        if not 0 < one < inf and not (name in ("max_drop", "max_drop_percent") and one == 0):
            raise InputError(f"The budget's {name} is {one}.", "Give a positive number.")
    return values


def _requested(
    name: str, profile: Profile, given: Mapping[str, float | None], project_lines: Collection[str]
) -> RequestedBudget:
    """The budget of a profile with the lines of `given` in place of its own."""
    replaced: dict[str, Any] = {}
    for absolute, relative in RELATIVE.items():
        if absolute in given:
            replaced[relative] = None
        if relative in given:
            replaced[absolute] = getattr(Budget(), absolute)
    budget = replace(profile.budget, **replaced, **cast("Any", given))
    lines = {field.name: getattr(budget, field.name) for field in fields(budget)}
    if budget.max_drop_percent is not None:
        del lines["max_drop"]
    said = {line: "default" if line in profile.unsaid else "profile" for line in lines}
    said |= {line: "project" if line in project_lines else "flag" for line in given}
    sources = ((line, said[line]) for line, value in lines.items() if value is not None or line in given)
    return RequestedBudget(name, profile, budget, tuple(sources))


def _each_once(profiles: Sequence[Profile]) -> tuple[list[Profile], list[str]]:
    asked = list(dict.fromkeys(profiles))
    twice = sorted({one.name for one in asked if profiles.count(one) > 1})
    notes = [f"Profile {name} was given more than once; it is answered once." for name in twice]
    names = [one.name for one in asked]
    for name in names:
        if names.count(name) > 1:
            raise InputError(
                f"Two profiles are called {name}.",
                "Rename one of the files: tiers are called by their profile.",
            )
    return asked, notes


def _told(line: str, given: Sequence[float], ordered: Sequence[float]) -> list[str]:
    """Sentences about budgets that were given twice or out of order."""
    unit = SEVERAL[line]
    notes = [
        f"The budget {value:g}{unit} was given more than once; it is answered once."
        for value in ordered
        if given.count(value) > 1
    ]
    if list(dict.fromkeys(given)) != list(ordered):
        shown = ", ".join(f"{value:g}{unit}" for value in ordered)
        notes.append(f"Budgets are answered from the largest to the smallest: {shown}.")
    return notes


def resolved(budget: Budget, dense: Latency, metric: float) -> Budget:
    """Budget with its relative lines in absolute figures: of the dense float model's latency and metric.

    A speed-up divides the percentile itself and not its upper bound, which would make the budget the wider
    the less is known.
    """
    if budget.speedup is not None:
        budget = replace(budget, latency_ms=percentile_ms(dense) / budget.speedup)
    if budget.max_drop_percent is not None:
        budget = replace(budget, max_drop=abs(metric) * budget.max_drop_percent / 100)
    return budget


def check_drop(budget: Budget, sources: Mapping[str, str], name: str, metric: float) -> str | None:
    """Sentence about a default drop that is a large share of the dense model's metric; None where it is not.

    name, metric: of the dense model. Raises `InputError` where a share of it is nothing, and where the drop
    was left to a default that is not meant for such a metric.
    """
    percent = budget.max_drop_percent
    if percent is not None and metric == 0:
        raise InputError(
            f"{name} of the dense model is 0, and {percent:g}% of that allows nothing.",
            "Give --max-drop in the metric's own unit.",
        )
    if sources.get("max_drop") != "default":
        return None
    if not 0 <= metric <= 1:
        raise InputError(
            f"{name} of the dense model is {metric:.4g}, and how much of it may be lost was not said: the "
            f"default of {budget.max_drop:g} is for metrics of 0 to 1.",
            "Give --max-drop in the metric's own unit, or as a share of the dense model's such as 2%.",
        )
    if budget.max_drop <= LARGE_SHARE * metric:
        return None
    share = f"{budget.max_drop / metric:.0%} of it" if metric else "more than it"
    return (
        f"{name} of the dense model is {metric:.4g}, and the default --max-drop of {budget.max_drop:g} "
        f"allows to lose {share}; say another in its unit, or as a share such as 2%."
    )
