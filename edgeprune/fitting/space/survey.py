"""Survey of the model on its device, before candidates are chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeprune.fitting.space.reweighing import Reweighing, reweighed, with_factors
from edgeprune.fitting.space.sensing import OutputError, sense, weighed_space
from edgeprune.fitting.space.space import FLOOR, Space
from edgeprune.fitting.space.timing import Timing
from edgeprune.fitting.trials.runner import Trials
from edgeprune.fitting.trials.sessions import DENSE
from edgeprune.latency.curves import LatencyTable
from edgeprune.latency.float_layers import Mixture
from edgeprune.pruning.sensitivity import Sensitivity
from edgeprune.records.trial import Candidate

ALLOCATIONS = 24  # that are compared end to end for a budget
COMPARING = "comparing allocations as whole networks"


@dataclass(frozen=True)
class Survey:
    """Measurements and scores of the whole model that a search starts from, each made once in a run."""

    trials: Trials

    def mixture(self, recipe: Candidate) -> Mixture:
        """Layers that the device is no quicker at in INT8, and how products are written for it."""
        return self.trials.once("mixture", lambda: self._timing().mixture(recipe), Mixture)

    def space(self, recipe: Candidate, layers: Sequence[str]) -> Space:
        """Search space of candidates; with a latency table, measured now, where there can be one and latency
        is limited.

        recipe: the precision that candidates start from. layers: those that are INT8 in it.
        """
        trials, workshop = self.trials, self.trials.workshop
        choices = workshop.ranking(trials.order.target.channel_multiple).choices

        def cutting(share: float) -> None:
            trials.tell("sensitivity", "cutting groups alone", share)

        def sensed_now() -> Sensitivity:
            cutting(0.0)  # reading the calibration data first takes as long as cutting
            return sense(workshop, choices, FLOOR, cutting)

        sensed = trials.once("sensitivity", sensed_now, Sensitivity)
        base = weighed_space(workshop, choices, sensed, layers)
        if not trials.budget.timed:
            return base
        return self._timing().space(
            base, recipe, layers, lambda name, measure: trials.once(name, measure, LatencyTable)
        )

    def checked(self, space: Space, limits: Mapping[str, float]) -> Space:
        """The space, its errors weighed anew by whole cut networks whose costs are within `limits`."""
        trials, workshop = self.trials, self.trials.workshop

        def compared() -> Reweighing:
            trials.tell("choice", COMPARING, 0.0)
            errors = OutputError(workshop, ALLOCATIONS)
            return reweighed(
                *(space, limits, errors.of, errors.models, workshop.seed),
                lambda share: trials.tell("choice", COMPARING, share),
            )

        found = trials.once(trials.of_budget("choice"), compared, Reweighing)
        return with_factors(space, dict(found.factors))

    def _timing(self) -> Timing:
        trials, side = self.trials, self.trials.device_side
        return Timing(
            trials.order,
            trials.workshop,
            side.load(DENSE),
            side.feeds(side.rows(trials.order.profile.batch))[0],
            lambda doing, share: trials.tell("table", doing, share),
        )
