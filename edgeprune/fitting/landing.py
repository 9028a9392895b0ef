"""Landing on the budget by the latency table: allocate, build, measure, correct the prediction, again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from edgeprune.fitting.space import LATENCY, PARAMS, Space
from edgeprune.fitting.trials import Trials
from edgeprune.make import Workshop, as_candidate_kept
from edgeprune.records.machine import Budget
from edgeprune.records.trial import Candidate
from edgeprune.search.landing import Probe, Zone, best, landed

MOST_BUILDS = 5  # for one budget; with the one that is trained six
SECANT = 0.05  # two models whose costs differ by less than this share tell nothing about the slope
SMALLEST = 1e-3  # of a model's cost: a limit that nothing meets, where the rest alone is over the budget
RESOURCE = {"latency_ms": LATENCY, "memory_mib": PARAMS, "size_mib": PARAMS}  # what a budget line follows

Known = tuple[Mapping[str, float], Mapping[str, float]]  # of a model: costs by the table, uses by measuring


def land_by_table(
    workshop: Workshop, space: Space, trials: Trials, budget: Budget, recipe: Candidate, probes: list[Probe]
) -> Probe | None:
    """Build what the allocation says fits until it does; the least compressed candidate that fits.

    recipe: the candidate without its widths. probes: extended in place; the last one says how far the table
    is from the device just there.
    """
    goal = trials.zone()
    dense_macs = workshop.cost.macs({})
    while len([p for p in probes if p.name.startswith("trial")]) < MOST_BUILDS and not landed(probes, goal):
        candidate = _wider_or_narrower(space, trials, budget, recipe, probes, goal)
        if candidate is None:
            break  # widths move in steps: nothing lies nearer
        name = f"trial-{sum(probe.name.startswith('trial') for probe in probes) + 1:02}"
        trials.run(name, candidate)
        share = workshop.cost.macs(dict(candidate.kept)) / dense_macs
        probes.append(Probe(share, trials.use(name, budget), name))
    fitting = best(probes, goal)
    return fitting if fitting is not None and fitting.name.startswith("trial") else None


def confirmed(trials: Trials, budget: Budget, probes: list[Probe], landing: Probe) -> bool:
    """Whether the proof of a candidate is in. A proof takes seconds, training does not, and moves no latency.

    When it was not, it is made now, and the probe gets the use that it shows: the search looks again.
    """
    if landing.name in trials.proven:
        return True
    trials.prove(landing.name, budget)
    use = trials.use(landing.name, budget)
    probes[:] = [replace(probe, use=use) if probe.name == landing.name else probe for probe in probes]
    return False


def _wider_or_narrower(
    space: Space,
    trials: Trials,
    budget: Budget,
    recipe: Candidate,
    probes: Sequence[Probe],
    goal: Zone,
) -> Candidate | None:
    """What uses the budget to the aim by the table; where that is built, to the zone's end; or None."""
    nearest, *others = sorted(probes, key=lambda probe: abs(probe.use - goal.aim))
    known = [_known(space, trials, budget, probe) for probe in (nearest, *others)]
    built = {trials.tested[probe.name].candidate for probe in probes}
    for aim in (goal.aim, goal.high):
        kept, _ = space.keep(limits(*known[0], aim, *known[1:2]))
        candidate = replace(recipe, kept=as_candidate_kept(kept))
        if candidate not in built:
            return candidate
    return None


def _known(space: Space, trials: Trials, budget: Budget, probe: Probe) -> Known:
    costs = space.costs(dict(trials.tested[probe.name].candidate.kept))
    return costs, _uses(trials, probe, budget)


def limits(
    costs: Mapping[str, float], uses: Mapping[str, float], aim: float, other: Known | None = None
) -> dict[str, float]:
    """What may be spent by the table, so that every line is used to the aim: as a model that was measured.

    costs: of that model by the table; uses: of the budget's lines by measuring it. other: a second model. Its
    line through both is followed in what parameters are only a part of: a file has a graph, memory has
    activations. Milliseconds by the table are all of a model's, so there the nearest one's ratio counts.
    """
    found: dict[str, float] = {}
    for line, use in uses.items():
        resource = RESOURCE[line]
        allowed = costs[resource] * aim / use
        if resource != LATENCY and other is not None:
            apart = other[0][resource] - costs[resource]
            slope = (other[1][line] - use) / apart if abs(apart) > SECANT * costs[resource] else 0.0
            if 0 < slope < use / costs[resource]:
                allowed = max(costs[resource] + (aim - use) / slope, SMALLEST * costs[resource])
        found[resource] = min(found.get(resource, allowed), allowed)
    return found


def _uses(trials: Trials, probe: Probe, budget: Budget) -> dict[str, float]:
    """Line by line; where a proof found more use than the search did, by so much more."""
    uses = trials.uses(probe.name, budget)
    worst = max(uses.values())
    return {line: use * probe.use / worst for line, use in uses.items()} if probe.use > worst else uses
