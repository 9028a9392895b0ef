"""Landing on the budget by the latency table: allocate, draft, measure, correct the prediction, again.

What lands as a draft is built. A candidate may take a little more or less than its draft: drafts are
corrected by what was built so far, so that the next one lands where candidates do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import median

from edgeprune.fitting.space.space import BYTES, LATENCY, Space, WidthPlan
from edgeprune.fitting.trials.drafts import DRAFT
from edgeprune.fitting.trials.runner import TRIAL, Trials
from edgeprune.make import Workshop, as_candidate_kept
from edgeprune.records.machine import Budget
from edgeprune.records.trial import Candidate
from edgeprune.search.bracketing import Probe, Zone, best, halved, in_zone, landed, next_share

MOST_BUILDS = 5  # for one budget; with the one that is trained six
MOST_DRAFTS = 6  # before the next one is built
LEAST = 1e-9  # a share of the work that nothing is within: asks for the smallest candidate
APART = 0.02  # models whose bytes differ by less say nothing about what bytes cost
NEAR = 1.25  # times the use of a model: what lies further away says little about the slope at it
LEAST_SLOPE = 1 / 3  # of the proportional one: steps three times as long, at most
SMALLEST = 1e-3  # of a model's cost: a limit that nothing meets, where the rest alone is over the budget
RESOURCE = {"latency_ms": LATENCY, "memory_mib": BYTES, "size_mib": BYTES}  # what a budget line follows

Point = tuple[Mapping[str, float], Mapping[str, float]]  # costs by resource, uses by line


@dataclass(frozen=True)
class Landing:
    """What is asked, and of whom. recipe: the candidate without its widths."""

    workshop: Workshop
    space: Space
    trials: Trials
    budget: Budget
    recipe: Candidate

    def land(self, probes: list[Probe]) -> Probe | None:
        """Build what the allocation says fits until it does; the least compressed candidate that fits.

        probes: extended in place; they say how far the table is from the device.
        """
        while self.trials.builds < MOST_BUILDS:
            probes[:] = [self.refreshed(probe) for probe in probes]
            if landed(probes, self.goal):
                break
            candidate = self.next(probes)
            if candidate is None:
                break
            name = self.trials.next_name()
            self.trials.run(name, candidate)
            probes.append(self.probe(name))
        fitting = best(probes, self.goal)
        return fitting if fitting is not None and fitting.name.startswith(TRIAL) else None

    def at_a_step(self, name: str, use: float, probes: Sequence[Probe]) -> bool:
        """Whether a candidate that is proven below the zone keeps all that the whole budget allows.

        By the table, as it is corrected near this candidate: an allocation is the best within its limits, or
        proven to be near it, so nothing of more worth lies between.
        """
        if use >= self.goal.low:
            return False
        here = next(probe for probe in probes if probe.name == name)
        off = self._off(probes)
        tried = (*probes, *self._drafts(probes))
        others = [self._point(probe, off) for probe in tried if probe is not here]
        plan = self.space.keep(limits(*self._point(here, off), 1.0, others))
        return as_candidate_kept(plan.kept) == self._candidate(name).kept

    @cached_property
    def goal(self) -> Zone:
        return self.trials.zone()

    def probe(self, name: str, use: float | None = None) -> Probe:
        """use: of the budget, if not as the trial was measured."""
        kept = dict(self._candidate(name).kept)
        return Probe(
            self.workshop.cost.macs(kept) / self.workshop.cost.macs({}),
            self.trials.use(name, self.budget) if use is None else use,
            name,
            self.space.worth(kept, self._in_float(name)),
        )

    def refreshed(self, probe: Probe) -> Probe:
        """What is not proven is seen at the machine's usual speed, which every session tells more of."""
        return self.probe(probe.name, probe.use if probe.name in self.trials.proven else None)

    def next(self, probes: Sequence[Probe]) -> Candidate | None:
        """What to build: the draft that lands or comes nearest; None when what is built comes as near.

        What cannot be drafted is built as the table has it.
        """
        drafts = self._drafts(probes)
        for _ in range(MOST_DRAFTS):
            if landed(drafts, self.goal):
                break
            candidate = self._wider_or_narrower([*probes, *drafts])
            if candidate is None:
                break  # widths move in steps: nothing lies nearer
            if self.trials.draft(candidate) is None:
                return candidate
            drafts = self._drafts(probes)
        tried = [probe for probe in drafts if in_zone(probe, self.goal)] or [*probes, *drafts]
        found = best(tried, self.goal) or min(tried, key=lambda probe: probe.use)
        return self._candidate(found.name) if found.name.startswith(DRAFT) else None

    def _wider_or_narrower(self, probes: Sequence[Probe]) -> Candidate | None:
        """What uses the budget to the aim by the table; where that is tried, to an end of the zone; or None.

        A table of very short operators may see a least time where there is none, and a runtime may need more
        memory for INT8 than it saves. So that a miss is neither's mistake, the smallest candidate is tried
        before nothing is said to fit, in float, too.
        """
        ordered = sorted(probes, key=lambda probe: abs(probe.use - self.goal.aim))
        off = self._off(probes)
        here, *others = (self._point(probe, off) for probe in ordered)
        share = halved(probes, ordered[0], self.goal.aim)
        tried = {self._candidate(probe.name) for probe in probes}
        for aim in (self.goal.aim, self.goal.high, self.goal.low):
            plan = self.space.keep(limits(*here, aim, others, share))
            candidate = made(self.recipe, plan, self.space)
            if candidate not in tried:
                return candidate
        if any(probe.use <= 1 for probe in probes):
            return None
        smallest = made(self.recipe, self.space.by_work(LEAST), self.space)
        in_float = Candidate(smallest.kept, "float32", recover=self.recipe.recover)
        return next((each for each in (smallest, in_float) if each not in tried), None)

    def _drafts(self, probes: Sequence[Probe]) -> list[Probe]:
        """Drafts by this recipe of what is not built, with the use that each would have if it were."""
        built = {self._candidate(probe.name) for probe in probes}
        off = self._off(probes)
        drafted = {name: self._candidate(name) for name in self.trials.drafts.measured}
        return [
            self.probe(name, max(self._as_built(name, off).values()))
            for name, candidate in drafted.items()
            if candidate not in built and _alike(candidate, self.recipe)
        ]

    def _off(self, probes: Sequence[Probe]) -> dict[str, float]:
        """By how much candidates use more of a line than their drafts did."""
        pairs = [(_uses(self.trials, probe, self.budget), self._draft_of(probe.name)) for probe in probes]
        found = [(uses, self.trials.uses(draft, self.budget)) for uses, draft in pairs if draft is not None]
        lines = found[0][0] if found else ()
        return {line: median(built[line] / draft[line] for built, draft in found) for line in lines}

    def _draft_of(self, name: str) -> str | None:
        """What was measured of a candidate's shapes before it was built."""
        draft = self.trials.drafts.of(self._candidate(name))
        return draft if draft in self.trials.drafts.measured and draft != name else None

    def _as_built(self, draft: str, off: Mapping[str, float]) -> dict[str, float]:
        uses = self.trials.uses(draft, self.budget)
        return {line: use * off.get(line, 1.0) for line, use in uses.items()}

    def _point(self, probe: Probe, off: Mapping[str, float]) -> Point:
        costs = self.space.costs(dict(self._candidate(probe.name).kept), self._in_float(probe.name))
        if probe.name.startswith(DRAFT):
            return costs, self._as_built(probe.name, off)
        return costs, _uses(self.trials, probe, self.budget)

    def _in_float(self, name: str) -> tuple[str, ...]:
        """Layers of a trial or a draft that are not INT8."""
        if not name.startswith(DRAFT):
            return self.trials.tested[name].layers_float
        candidate, joint = self._candidate(name), self.space.joint
        if joint is not None and candidate.precision == "float32":
            return joint.layers
        return candidate.in_float

    def _candidate(self, name: str) -> Candidate:
        drafts = self.trials.drafts.known
        return drafts[name].candidate if name in drafts else self.trials.tested[name].candidate


def made(recipe: Candidate, plan: WidthPlan, space: Space) -> Candidate:
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


def confirmed(trials: Trials, budget: Budget, probes: list[Probe], landing: Probe) -> bool:
    """Whether a candidate is proven to land. A proof takes seconds, training minutes, and moves no latency.

    When there was no proof, it is made now, and the probe gets the use that it shows. Unless that lies in the
    zone, the search looks again: what has just fitted would not always do so.
    """
    if landing.name in trials.proven:
        return True
    trials.prove(landing.name, budget)
    use = trials.use(landing.name, budget)
    probes[:] = [replace(probe, use=use) if probe.name == landing.name else probe for probe in probes]
    goal = trials.zone()
    return goal.low <= use <= goal.high and trials.tested[landing.name].measurement.conclusive


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
    same = replace(
        candidate,
        kept=recipe.kept,
        float_layers=recipe.float_layers,
        engine_layers=recipe.engine_layers,
        slow_layers=recipe.slow_layers,
    )
    return same == recipe


def limits(
    costs: Mapping[str, float],
    uses: Mapping[str, float],
    aim: float,
    others: Sequence[Point] = (),
    share: float = 1.0,
) -> dict[str, float]:
    """What may be spent by the table, so that every line is used to the aim: as a model that was measured.

    costs: of that model by the table; uses: of the budget's lines by measuring it. others: more models.
    Latency is in proportion to the table's for one model; for several on one side of the aim it changes by
    less, if they say so; once models lie on both sides, the aim is between them, as if the one on the other
    side missed it by `share` of what it does. Memory and files have a part that no width changes, so a second
    model that differs in bytes gives them a line.
    """
    found: dict[str, float] = {}
    for line, use in uses.items():
        resource = RESOURCE[line]
        cost, points = costs[resource], [(c[resource], u[line]) for c, u in others]
        if resource == LATENCY:
            slope = _latency_slope(cost, use, points, aim, share)
        else:
            slope = _slope(cost, use, points, APART) or use / cost
        allowed = max(cost + (aim - use) / slope, SMALLEST * cost)
        found[resource] = min(found.get(resource, allowed), allowed)
    return found


def _latency_slope(
    cost: float, use: float, others: Sequence[tuple[float, float]], aim: float, share: float
) -> float:
    """Use per cost between a model and the aim, see `limits`."""
    proportional = use / cost
    beyond = [(c, aim + share * (u - aim)) for c, u in others if (u > aim) != (use > aim)]
    if beyond:
        return _slope(cost, use, beyond, 0.0) or proportional
    beside = [(c, u) for c, u in others if max(u / use, use / u) <= NEAR]
    found = _slope(cost, use, beside, APART) or proportional
    return min(max(found, LEAST_SLOPE * proportional), proportional)


def _slope(cost: float, use: float, others: Sequence[tuple[float, float]], least: float) -> float | None:
    """Use of a line per cost, by the model nearest in use; costs differ by more than the share `least`."""
    apart = [(c, u) for c, u in others if abs(c - cost) > least * cost]
    if not apart:
        return None
    other_cost, other_use = min(apart, key=lambda each: abs(each[1] - use))
    slope = (use - other_use) / (cost - other_cost)
    return slope if slope > 0 else None


def _uses(trials: Trials, probe: Probe, budget: Budget) -> dict[str, float]:
    """Line by line; where a proof found more use than the search did, by so much more."""
    uses = trials.uses(probe.name, budget)
    worst = max(uses.values())
    return {line: use * probe.use / worst for line, use in uses.items()} if probe.use > worst else uses


def _land(
    workshop: Workshop,
    space: Space,
    trials: Trials,
    budget: Budget,
    recipe: Candidate,
    probes: list[Probe],
) -> Probe | None:
    """Build and measure until a candidate uses nearly all of the budget; the least compressed that fits.

    recipe: the candidate without its widths. probes: extended in place.
    """
    dense_macs = workshop.cost.macs({})
    smallest = workshop.cost.macs(space.by_work(LEAST).kept) / dense_macs
    goal = trials.zone()
    built = {probe.name: probe for probe in reversed(probes)}  # the first of a name is the one measured
    while trials.builds < MOST_BUILDS and (wished := next_share(probes, smallest, goal)) is not None:
        plan = space.by_work(wished)
        share = workshop.cost.macs(plan.kept) / dense_macs
        same = next((probe for probe in built.values() if abs(share - probe.share) < 1e-9), None)
        if same is not None:
            # Widths move in steps. What the wish rounds down to is known; a wider step may lie above it.
            if any(probe.share == wished for probe in probes):
                break
            probes.append(replace(same, share=wished))
            continue
        name = trials.next_name()
        trials.run(name, made(recipe, plan, space))
        built[name] = Probe(share, trials.use(name, budget), name)
        probes.append(built[name])
    fitting = best(probes, goal)
    return fitting if fitting is not None and fitting.name.startswith("trial") else None


def _open(trials: Trials, budget: Budget, probes: Sequence[Probe]) -> Probe | None:
    """When nothing fits at the machine's usual speed: what a session saw within the budget. A proof tells."""
    seen = [
        probe
        for probe in probes
        if probe.name.startswith(TRIAL)
        and probe.name not in trials.proven
        and trials.seen_within(probe.name, budget)
    ]
    return min(seen, key=lambda probe: probe.use, default=None)
