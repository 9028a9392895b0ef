"""Landing on a budget: allocate widths, draft, measure, correct the prediction, and build what lands.

A built candidate may take a little more or less than its draft: drafts are corrected by what was built so
far, so that the next one lands where candidates do. Where latency is limited and has no table, widths follow
their share of the work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import median
from types import MappingProxyType

from edgeprune.fitting.space.space import BYTES, LATENCY, Space, WidthPlan
from edgeprune.fitting.space.survey import Survey
from edgeprune.fitting.trials.runner import Trials
from edgeprune.graph.coupling import Kept
from edgeprune.make import as_candidate_kept
from edgeprune.records.trial import Candidate
from edgeprune.search.bracketing import Probe, Zone, best, halved, in_zone, landed, next_share

MOST_BUILDS = 5  # for one budget; with the one that is trained six
MOST_DRAFTS = 6  # before the next one is built
LEAST_WORK = 1e-9  # a share of the work that no candidate is within: asks for the smallest one
APART = 0.02  # models whose bytes differ by less say nothing about what bytes cost
NEAR = 1.25  # times the use of a model: what lies further away says little about the slope at it
LEAST_SLOPE = 1 / 3  # of the proportional one: steps three times as long, at most
LEAST_SHARE = (
    1e-3  # of a model's cost: a limit that no candidate meets, where the rest alone is over the budget
)
RESOURCE = {"latency_ms": LATENCY, "memory_mib": BYTES, "size_mib": BYTES}  # what a budget line follows

NOTHING: Mapping[str, float] = MappingProxyType({})

Point = tuple[Mapping[str, float], Mapping[str, float]]  # costs by resource, uses by line


@dataclass(frozen=True)
class Landing:
    """Search for the candidate that uses nearly all of a budget. recipe: a candidate without its widths."""

    trials: Trials
    space: Space
    recipe: Candidate

    def land(self, probes: list[Probe]) -> Probe | None:
        """Build candidates until one lands on the budget; the least compressed one that fits, None if none
        does.

        When none fits at the machine's usual speed, the one whose session kept the budget: a proof tells.
        probes: extended in place; they say how far the prediction is from the device.
        """
        while self.trials.builds < MOST_BUILDS:
            candidate = self._next(probes)
            if candidate is None:
                break
            probes.append(self.probe(self.trials.build(candidate)))
        fitting = best(probes, self.goal)
        if fitting is not None and fitting.name in self.trials.candidates:
            return fitting
        return seen_within_budget(self.trials, probes)

    def allowed(self, probes: Sequence[Probe]) -> dict[str, float]:
        """Costs that candidates may have, as the measured model that is nearest to the budget tells."""
        nearest = min(probes, key=lambda probe: abs(probe.use - self.goal.aim))
        costs, uses = self._point(nearest, self._off(probes))
        return limits(costs, uses, self.goal.aim, fixed=self.trials.fixed(nearest.name))

    def at_a_step(self, name: str, use: float, probes: Sequence[Probe]) -> bool:
        """Whether a candidate that is proven below the zone keeps all that the whole budget allows.

        By the costs, as they are corrected near this candidate: an allocation is the best within its limits,
        or proven to be near it, so nothing of more value lies between.
        """
        if not self.by_cost or use >= self.goal.low:
            return False
        here = next(probe for probe in probes if probe.name == name)
        off = self._off(probes)
        tried = (*probes, *self._drafts(probes))
        others = [self._point(probe, off) for probe in tried if probe is not here]
        fixed = self.trials.fixed(name)
        plan = self.space.keep(limits(*self._point(here, off), 1.0, others, fixed=fixed))
        return as_candidate_kept(plan.kept) == self._candidate(name).kept

    @property
    def by_cost(self) -> bool:
        """Whether widths are chosen by what they cost of each line; else by their share of the work.

        Latency has a cost where there is a latency table, memory and size always.
        """
        return self.space.prediction is not None or not self.trials.budget.timed

    @cached_property
    def goal(self) -> Zone:
        return self.trials.zone()

    def probe(self, name: str, use: float | None = None) -> Probe:
        """Probe of a trial or draft. use: share of the budget, where it is not as measured."""
        kept = dict(self._candidate(name).kept)
        use = self.trials.use(name) if use is None else use
        value = self.space.value(kept, self._in_float(name)) if self.by_cost else 0.0
        return Probe(_share(self.trials, kept), use, name, value)

    def refreshed(self, probe: Probe) -> Probe:
        """Probe at the machine's usual speed as all sessions so far tell it, unless the trial is proven."""
        return self.probe(probe.name, probe.use if probe.name in self.trials.proven else None)

    def _next(self, probes: list[Probe]) -> Candidate | None:
        """Candidate to build next; None when one has landed, or nothing is left to learn."""
        if not self.by_cost:
            return self._next_by_work(probes)
        probes[:] = [self.refreshed(probe) for probe in probes]
        return None if landed(probes, self.goal) else self.next(probes)

    def _next_by_work(self, probes: list[Probe]) -> Candidate | None:
        """Candidate of the next share of the work to try; None when nothing is left to learn."""
        smallest = _share(self.trials, self.space.by_work(LEAST_WORK).kept)
        built = {probe.name: probe for probe in reversed(probes)}  # the first of a name is the measured one
        while (wished := next_share(probes, smallest, self.goal)) is not None:
            plan = self.space.by_work(wished)
            share = _share(self.trials, plan.kept)
            same = next((probe for probe in built.values() if abs(share - probe.share) < 1e-9), None)
            if same is None:
                return made(self.recipe, plan, self.space)
            if any(probe.share == wished for probe in probes):
                return None
            # Widths move in steps: the wish rounds down to a known candidate, and a wider step may lie above.
            probes.append(replace(same, share=wished))
        return None

    def next(self, probes: Sequence[Probe]) -> Candidate | None:
        """Candidate of the draft that lands or comes nearest; None when a built candidate comes as near.

        A candidate that cannot be drafted is built as the table has it.
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
        return self._candidate(found.name) if found.name in self.trials.drafts.known else None

    def _wider_or_narrower(self, probes: Sequence[Probe]) -> Candidate | None:
        """Candidate that uses the budget to the aim by the table, or to an end of the zone; None if all are
        tried.

        Before reporting a miss, the smallest candidate is tried in INT8 and in float: the table may
        overestimate short operators, and INT8 may need more memory than it saves.
        """
        ordered = sorted(probes, key=lambda probe: abs(probe.use - self.goal.aim))
        off = self._off(probes)
        here, *others = (self._point(probe, off) for probe in ordered)
        share = halved(probes, ordered[0], self.goal.aim)
        fixed = self.trials.fixed(ordered[0].name)
        tried = {self._candidate(probe.name) for probe in probes}
        for aim in (self.goal.aim, self.goal.high, self.goal.low):
            plan = self.space.keep(limits(*here, aim, others, share, fixed))
            candidate = made(self.recipe, plan, self.space)
            if candidate not in tried:
                return candidate
        if any(probe.use <= 1 for probe in probes):
            return None
        smallest = made(self.recipe, self.space.by_work(LEAST_WORK), self.space)
        in_float = Candidate(smallest.kept, "float32", recover=self.recipe.recover)
        return next((each for each in (smallest, in_float) if each not in tried), None)

    def _drafts(self, probes: Sequence[Probe]) -> list[Probe]:
        """Probes of drafts by this recipe whose candidates are not built, with the use that they would
        have."""
        built = {self._candidate(probe.name) for probe in probes}
        off = self._off(probes)
        drafted = {name: self._candidate(name) for name in self.trials.drafts.measured}
        return [
            self.probe(name, max(self._as_built(name, off).values()))
            for name, candidate in drafted.items()
            if candidate not in built and _alike(candidate, self.recipe)
        ]

    def _off(self, probes: Sequence[Probe]) -> dict[str, float]:
        """Factor by which candidates use more of a line than their drafts did."""
        pairs = [(_uses(self.trials, probe), self._draft_of(probe.name)) for probe in probes]
        found = [(uses, self.trials.uses(draft)) for uses, draft in pairs if draft is not None]
        lines = found[0][0] if found else ()
        return {line: median(built[line] / draft[line] for built, draft in found) for line in lines}

    def _draft_of(self, name: str) -> str | None:
        """Draft that was measured before a candidate was built."""
        draft = self.trials.drafts.of(self._candidate(name))
        return draft if draft in self.trials.drafts.measured and draft != name else None

    def _as_built(self, draft: str, off: Mapping[str, float]) -> dict[str, float]:
        uses = self.trials.uses(draft)
        return {line: use * off.get(line, 1.0) for line, use in uses.items()}

    def _point(self, probe: Probe, off: Mapping[str, float]) -> Point:
        costs = self.space.costs(dict(self._candidate(probe.name).kept), self._in_float(probe.name))
        if probe.name in self.trials.drafts.known:
            return costs, self._as_built(probe.name, off)
        return costs, _uses(self.trials, probe)

    def _in_float(self, name: str) -> tuple[str, ...]:
        """Layers of a trial or a draft that are not INT8."""
        if name not in self.trials.drafts.known:
            return self.trials.tested[name].layers_float
        candidate, precisions = self._candidate(name), self.space.precisions
        if precisions is not None and candidate.precision == "float32":
            return precisions.layers
        return candidate.in_float

    def _candidate(self, name: str) -> Candidate:
        drafts = self.trials.drafts.known
        return drafts[name].candidate if name in drafts else self.trials.tested[name].candidate


def space_of(trials: Trials, recipe: Candidate, layers: Sequence[str], probes: Sequence[Probe]) -> Space:
    """Search space of a budget, its errors held against whole networks where candidates have costs.

    recipe, layers: as in `Survey.space`. probes: models that were measured, one at least.
    """
    survey = Survey(trials)
    space = survey.space(recipe, layers)
    landing = Landing(trials, space, recipe)
    return survey.checked(space, landing.allowed(probes)) if landing.by_cost else space


def made(recipe: Candidate, plan: WidthPlan, space: Space) -> Candidate:
    """The recipe with planned widths and precisions; a float candidate when no layer of it is INT8."""
    kept = as_candidate_kept(plan.kept)
    if space.precisions is not None and set(space.precisions.layers) <= {*plan.float_layers, *plan.gone}:
        return Candidate(kept, "float32", recover=recipe.recover)
    left = {*recipe.float_layers, *plan.float_layers} - plan.gone
    return replace(
        recipe,
        kept=kept,
        float_layers=tuple(sorted(left)),
        engine_layers=tuple(sorted({*recipe.engine_layers} - plan.gone)),
        slow_layers=tuple(sorted({*recipe.slow_layers} - plan.gone)),
    )


def confirmed(trials: Trials, probes: list[Probe], landing: Probe) -> bool:
    """Whether a candidate is proven to land. A proof takes seconds, training minutes, and moves no latency.

    Without a proof so far, one is made now, and the probe gets the use that it shows. Unless that use lies in
    the zone, the search looks again: a candidate that has just fitted would not always do so.
    """
    if landing.name in trials.proven:
        return True
    trials.prove(landing.name)
    use = trials.use(landing.name)
    probes[:] = [replace(probe, use=use) if probe.name == landing.name else probe for probe in probes]
    goal = trials.zone()
    return goal.low <= use <= goal.high and trials.tested[landing.name].measurement.conclusive


def earlier_probes(trials: Trials, recipe: Candidate) -> list[Probe]:
    """Probes of candidates that larger budgets built by the same recipe; the nearest to this budget last."""
    probes = [
        Probe(_share(trials, dict(tested.candidate.kept)), trials.use(name), name)
        for name, tested in trials.candidates.items()
        if _alike(tested.candidate, recipe)
    ]
    return sorted(probes, key=lambda probe: -probe.use)


def seen_within_budget(trials: Trials, probes: Sequence[Probe]) -> Probe | None:
    """Probe of the candidate, not proven yet, whose session kept the budget with the least use."""
    seen = [
        probe
        for probe in probes
        if probe.name in trials.candidates
        and probe.name not in trials.proven
        and trials.seen_within(probe.name)
    ]
    return min(seen, key=lambda probe: probe.use, default=None)


def _share(trials: Trials, kept: Kept) -> float:
    """Share of the dense model's multiply-accumulates that a candidate keeps."""
    return trials.workshop.cost.macs(kept) / trials.workshop.cost.macs({})


def _alike(candidate: Candidate, recipe: Candidate) -> bool:
    """Whether a candidate differs from the recipe only in its widths and in which layers are float."""
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
    fixed: Mapping[str, float] = NOTHING,
) -> dict[str, float]:
    """Costs that an allocation may spend, so that every line is used to the aim as a measured model tells.

    costs: of that model by the table; uses: of the budget's lines by measuring it. others: more models.
    Latency is in proportion to the table's for one model; for several on one side of the aim it changes by
    less, if they say so; once models lie on both sides, the aim is between them, as if the one on the other
    side missed it by `share` of what it does. Memory and files have a part that no width changes, so a second
    model that differs in bytes gives them a line; until then that part is what is known of it (`fixed`, a
    use by line).
    """
    found: dict[str, float] = {}
    for line, use in uses.items():
        resource = RESOURCE[line]
        cost, points = costs[resource], [(c[resource], u[line]) for c, u in others]
        if resource == LATENCY:
            slope = _latency_slope(cost, use, points, aim, share)
        else:
            slope = _slope(cost, use, points, APART) or ((use - fixed.get(line, 0.0)) or use) / cost
        allowed = max(cost + (aim - use) / slope, LEAST_SHARE * cost)
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


def _uses(trials: Trials, probe: Probe) -> dict[str, float]:
    """Uses line by line; where a proof found more use than the search did, by so much more."""
    uses = trials.uses(probe.name)
    worst = max(uses.values())
    return {line: use * probe.use / worst for line, use in uses.items()} if probe.use > worst else uses
