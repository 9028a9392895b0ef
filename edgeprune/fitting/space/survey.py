"""What is learnt of the model on the device before candidates are chosen; each once in a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgeprune.fitting.space.sensing import sense, weighed_space
from edgeprune.fitting.space.space import FLOOR, Space
from edgeprune.fitting.space.timing import Timing
from edgeprune.fitting.trials.sessions import Bench
from edgeprune.latency.curves import LatencyTable
from edgeprune.latency.float_layers import Mixture
from edgeprune.ledger import Ledger
from edgeprune.pruning.sensitivity import Sensitivity
from edgeprune.records.trial import Candidate
from edgeprune.search.ranking import Choice


@dataclass(frozen=True)
class Survey:
    """tell: (what it belongs to, what is being done, how far it is)."""

    bench: Bench
    ledger: Ledger
    tell: Callable[[str, str, float | None], None]

    def mixture(self, recipe: Candidate) -> Mixture:
        """Which layers the device is no quicker at in INT8, and how products are written for it."""
        return self.ledger.once("mixture", lambda: self._timing().mixture(recipe), Mixture)

    def space(self, recipe: Candidate, choices: tuple[Choice, ...], layers: Sequence[str]) -> Space:
        """What a model may become; with a latency table measured now, where there can be one.

        recipe: the precision that candidates start from. layers: those that are INT8 in it.
        """
        workshop = self.bench.workshop

        def cutting(share: float) -> None:
            self.tell("sensitivity", "cutting groups alone", share)

        def sensed_now() -> Sensitivity:
            cutting(0.0)  # reading the calibration data first takes as long as cutting
            return sense(workshop, choices, FLOOR, cutting)

        sensed = self.ledger.once("sensitivity", sensed_now, Sensitivity)
        base = weighed_space(workshop, choices, sensed, layers)
        return self._timing().space(
            base, recipe, layers, lambda name, measure: self.ledger.once(name, measure, LatencyTable)
        )

    def _timing(self) -> Timing:
        order = self.bench.order
        return Timing(
            order,
            self.bench.workshop,
            self.bench.load("dense"),
            self.bench.feeds(self.bench.rows(order.profile.batch))[0],
            lambda doing, share: self.tell("table", doing, share),
        )
