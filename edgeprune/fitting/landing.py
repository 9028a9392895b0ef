"""Landing on the budget by the latency table: allocate, build, measure, correct the prediction, again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from edgeprune.fitting.space import BYTES, LATENCY, Plan, Space
from edgeprune.fitting.trials import Trials
from edgeprune.make import Workshop, as_candidate_kept
from edgeprune.records.machine import Budget
from edgeprune.records.trial import Candidate
from edgeprune.search.landing import Probe, Zone, best, landed, zone

MOST_BUILDS = 6  # for one budget, trained ones not included
APART = 0.02  # models whose bytes differ by less say nothing about what bytes cost
LEAST = 0.05  # of a model's bytes: a line through two measured models is not believed below
RESOURCE = {"latency_ms": LATENCY, "memory_mib": BYTES, "size_mib": BYTES}  # what a budget line follows

Point = tuple[Mapping[str, float], Mapping[str, float]]  # costs by resource, uses by line


def land_by_table(
    workshop: Workshop, space: Space, trials: Trials, budget: Budget, recipe: Candidate, probes: list[Probe]
) -> Probe | None:
    """Build what the allocation says fits until it does; the least compressed candidate that fits.

    recipe: the candidate without its widths. probes: extended in place; the last one says how far the table
    is from the device just there.
    """
    goal = zone([t.measurement.drift for t in trials.tested.values() if t.measurement.drift is not None])
    dense_macs = workshop.cost.macs({})
    while len([p for p in probes if p.name.startswith("trial")]) < MOST_BUILDS and not landed(probes, goal):
        nearest = min(probes[-2:], key=lambda probe: abs(probe.use - goal.aim))
        points = {probe.name: _point(trials, space, probe, budget) for probe in probes}
        here = points.pop(nearest.name)
        plan = space.keep(limits(*here, goal, tuple(points.values())))
        candidate = made(recipe, plan, space)
        if any(trials.tested[probe.name].candidate == candidate for probe in probes):
            break  # widths move in steps: nothing lies nearer
        name = f"trial-{sum(probe.name.startswith('trial') for probe in probes) + 1:02}"
        trials.run(name, candidate)
        probes.append(Probe(workshop.cost.macs(plan.kept) / dense_macs, trials.use(name, budget), name))
    fitting = best(probes, goal)
    return fitting if fitting is not None and fitting.name.startswith("trial") else None


def made(recipe: Candidate, plan: Plan, space: Space) -> Candidate:
    """The recipe with what was planned; a float model when no layer of it is INT8."""
    kept = as_candidate_kept(plan.kept)
    if space.joint is not None and set(space.joint.layers) <= {*plan.float_layers, *plan.gone}:
        return Candidate(kept, "float32", recover=recipe.recover)
    left = {*recipe.float_layers, *plan.float_layers} - plan.gone
    return replace(
        recipe,
        kept=kept,
        float_layers=tuple(sorted(left)),
        engine_layers=tuple(sorted({*recipe.engine_layers} - plan.gone)),
        slow_layers=tuple(sorted({*recipe.slow_layers} - plan.gone)),
    )


def limits(
    costs: Mapping[str, float], uses: Mapping[str, float], goal: Zone, others: Sequence[Point] = ()
) -> dict[str, float]:
    """What may be spent by the table, so that every line is used to the aim: as a model that was measured.

    costs: of that model by the table; uses: of the budget's lines by measuring it. others: more models.
    Latency is in proportion to the table's. Memory and files have a part that no width changes, so a second
    model that differs in bytes gives them a line.
    """
    found: dict[str, float] = {}
    for line, use in uses.items():
        resource = RESOURCE[line]
        allowed = costs[resource] * goal.aim / use
        slope = _slope(costs[resource], use, [(c[resource], u[line]) for c, u in others])
        if line != "latency_ms" and slope is not None:
            allowed = max(costs[resource] + (goal.aim - use) / slope, LEAST * costs[resource])
        found[resource] = min(found.get(resource, allowed), allowed)
    return found


def _slope(cost: float, use: float, others: Sequence[tuple[float, float]]) -> float | None:
    """Use of a line per cost, by the model that is nearest in use and costs something else."""
    apart = [(c, u) for c, u in others if abs(c - cost) > APART * cost]
    if not apart:
        return None
    other_cost, other_use = min(apart, key=lambda each: abs(each[1] - use))
    slope = (use - other_use) / (cost - other_cost)
    return slope if slope > 0 else None


def _point(trials: Trials, space: Space, probe: Probe, budget: Budget) -> Point:
    tested = trials.tested[probe.name]
    return space.costs(dict(tested.candidate.kept), tested.layers_float), _uses(trials, probe, budget)


def _uses(trials: Trials, probe: Probe, budget: Budget) -> dict[str, float]:
    """Line by line; where a proof found more use than the search did, by so much more."""
    uses = trials.uses(probe.name, budget)
    worst = max(uses.values())
    return {line: use * probe.use / worst for line, use in uses.items()} if probe.use > worst else uses
