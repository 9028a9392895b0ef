"""End-to-end check of an allocation: what the sum of errors says is held against whole cut networks.

The errors of groups and branches cut alone do not add up exactly, and not even in the same order (EvoPress,
Sieberling et al. 2024): what one layer makes up for, another may have lost too. So the errors are weighed
anew, by a factor each, under which the allocator finds another allocation of the same predicted cost. Each is
cut, solved for and compared with the dense model's outputs. First come factors of all branches against all
widths, then factors of single decisions, drawn at random around the best so far. The best count only where
they do no harm beside these limits, too: a search corrects its limits by what it measures. The answer is a
function of the seed and the arguments, without a clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from edgeprune.fitting.space.space import Space, WidthPlan
from edgeprune.graph.coupling import Kept
from edgeprune.pruning.sensitivity import Sensitivity

Units = tuple[tuple[str, tuple[int, ...]], ...]  # kept units, as a key

EXCHANGE = (0.25, 4.0, 16.0)  # factors of all branches that are tried first
SPREAD = 0.7  # standard deviation of a drawn factor's logarithm
GAIN = 0.9  # of the error: the best of many on few rows owes smaller gains to chance
LEFT_OVER = 0.02  # share of the limits that an allocation may use less than the one without factors
DRAWN = 0.4  # share of the decisions whose factors are drawn anew
SHIFTS = (0.85, 1.15)  # times the limits, at which factors must do no harm: a search corrects its limits


@dataclass(frozen=True)
class Reweighing:
    """Factors of errors by group and branch, and the errors of whole networks; the ledger's record.

    before, after: of the allocation without factors, and with them. tried: allocations that were compared.
    """

    factors: tuple[tuple[str, float], ...]
    before: float
    after: float
    tried: int


def reweighed(
    space: Space,
    limits: Mapping[str, float],
    error: Callable[[Kept], float],
    tries: int,
    seed: int,
    listen: Callable[[float], None] = lambda share: None,
) -> Reweighing:
    """Factors under which the allocation within `limits` has the least error of the whole network.

    error: of the outputs of a model that keeps these units. tries: allocations that are compared at most,
    the one without factors and those beside the limits included. listen: hears the share that is done.
    """
    best: dict[str, float] = {}
    usual = _use(space.keep(limits), limits)
    known: dict[Units, float] = {}

    def seen(kept: Kept) -> float:
        """Error of the network that keeps these units, each compared once."""
        key = _key(kept)
        if key not in known:
            known[key] = error(kept)
            listen(min(len(known) / tries, 1.0))
        return known[key]

    def tried(factors: Mapping[str, float]) -> float | None:
        """Error with these factors; None for an allocation that was compared, or leaves room."""
        plan = with_factors(space, factors).keep(limits)
        if _key(plan.kept) in known or (known and _use(plan, limits) < usual - LEFT_OVER):
            return None
        return seen(plan.kept)

    def holds(factors: Mapping[str, float]) -> bool:
        """Whether factors are no worse than none at limits somewhat smaller and larger."""
        changed = with_factors(space, factors)
        for shift in SHIFTS:
            beside = {name: shift * limit for name, limit in limits.items()}
            if seen(changed.keep(beside).kept) > seen(space.keep(beside).kept):
                return False
        return True

    least = before = tried(best) or 0.0
    for factors in _proposals(space, best, seed, tries):
        if len(known) >= tries - 2 * len(SHIFTS) or before == 0:
            break
        found = tried(factors)
        if found is not None and found < least:
            least = found
            best.clear()
            best.update(factors)
    if not best or least > GAIN * before or not holds(best):
        return Reweighing((), before, before, len(known))
    return Reweighing(tuple(sorted(best.items())), before, least, len(known))


def _key(kept: Kept) -> Units:
    return tuple(sorted((name, tuple(units)) for name, units in kept.items()))


def _use(plan: WidthPlan, limits: Mapping[str, float]) -> float:
    """Largest share of a limit that a plan uses."""
    return max(plan.allocation.costs.get(name, 0.0) / limit for name, limit in limits.items())


def with_factors(space: Space, factors: Mapping[str, float]) -> Space:
    """The space with errors times factors; those that are not named stay."""
    sensed = space.sensitivity
    if sensed is None or not factors:
        return space
    groups = tuple(
        (name, tuple((width, error * factors.get(name, 1.0)) for width, error in points))
        for name, points in sensed.groups
    )
    branches = tuple((name, error * factors.get(name, 1.0)) for name, error in sensed.branches)
    return replace(space, sensitivity=Sensitivity(groups, branches))


def _proposals(space: Space, best: Mapping[str, float], seed: int, tries: int) -> Iterator[dict[str, float]]:
    """Factors to try: of all branches, then of single decisions around `best`, which the caller betters."""
    sensed = space.sensitivity
    if sensed is None:
        return
    branches = [name for name, _ in sensed.branches]
    if branches:
        for factor in EXCHANGE:
            yield dict.fromkeys(branches, factor)
    names = [*(name for name, _ in sensed.groups), *branches]
    draw = np.random.default_rng(seed & 0xFFFFFFFF)  # numpy takes no negative seed
    for _ in range(4 * tries):  # many factors lead to allocations that are known already
        chosen = draw.random(len(names)) < DRAWN
        drawn = np.exp(SPREAD * draw.standard_normal(len(names)))
        yield {
            name: best.get(name, 1.0) * (float(factor) if new else 1.0)
            for name, new, factor in zip(names, chosen, drawn, strict=True)
        }
