"""Landing on the budget by the latency table: allocate, build, measure, correct the prediction, again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from edgeprune.fitting.space import LATENCY, PARAMS, Space
from edgeprune.fitting.trials import TRIAL, Trials
from edgeprune.make import Workshop, as_candidate_kept
from edgeprune.records.machine import Budget
from edgeprune.records.trial import Candidate
from edgeprune.search.landing import Probe, Zone, best, landed, zone

MOST_BUILDS = 6  # for one budget, trained ones not included
RESOURCE = {"latency_ms": LATENCY, "memory_mib": PARAMS, "size_mib": PARAMS}  # what a budget line follows


def land_by_table(
    workshop: Workshop, space: Space, trials: Trials, budget: Budget, recipe: Candidate, probes: list[Probe]
) -> Probe | None:
    """Build what the allocation says fits until it does; the least compressed candidate that fits.

    recipe: the candidate without its widths. probes: extended in place; the last one says how far the table
    is from the device just there.
    """
    goal = zone([t.measurement.drift for t in trials.tested.values() if t.measurement.drift is not None])
    dense_macs = workshop.cost.macs({})
    while trials.builds < MOST_BUILDS and not landed(probes, goal):
        nearest = min(probes[-2:], key=lambda probe: abs(probe.use - goal.aim))
        known = dict(trials.tested[nearest.name].candidate.kept)
        kept, _ = space.keep(limits(space.costs(known), _uses(trials, nearest, budget), goal))
        candidate = replace(recipe, kept=as_candidate_kept(kept))
        if any(trials.tested[probe.name].candidate == candidate for probe in probes):
            break  # widths move in steps: nothing lies nearer
        name = trials.next_name()
        trials.run(name, candidate)
        probes.append(Probe(workshop.cost.macs(kept) / dense_macs, trials.use(name, budget), name))
    fitting = best(probes, goal)
    return fitting if fitting is not None and fitting.name.startswith("trial") else None


def known(workshop: Workshop, trials: Trials, budget: Budget, recipe: Candidate) -> list[Probe]:
    """What larger budgets built by the same recipe, held against this one; the nearest to it last."""
    dense_macs = workshop.cost.macs({})
    probes = [
        Probe(workshop.cost.macs(dict(tested.candidate.kept)) / dense_macs, trials.use(name, budget), name)
        for name, tested in trials.tested.items()
        if name.startswith(TRIAL) and _alike(tested.candidate, recipe)
    ]
    return sorted(probes, key=lambda probe: -probe.use)


def _alike(candidate: Candidate, recipe: Candidate) -> bool:
    """Do they differ in what is kept and what is float only?"""
    if candidate.precision == "float32":
        return candidate.recover == recipe.recover
    return replace(candidate, kept=recipe.kept, float_layers=recipe.float_layers) == recipe


def limits(costs: Mapping[str, float], uses: Mapping[str, float], goal: Zone) -> dict[str, float]:
    """What may be spent by the table, so that every line is used to the aim: as a model that was measured.

    costs: of that model by the table; uses: of the budget's lines by measuring it.
    """
    found: dict[str, float] = {}
    for line, use in uses.items():
        resource = RESOURCE[line]
        allowed = costs[resource] * goal.aim / use
        found[resource] = min(found.get(resource, allowed), allowed)
    return found


def _uses(trials: Trials, probe: Probe, budget: Budget) -> dict[str, float]:
    """Line by line; where a proof found more use than the search did, by so much more."""
    uses = trials.uses(probe.name, budget)
    worst = max(uses.values())
    return {line: use * probe.use / worst for line, use in uses.items()} if probe.use > worst else uses
