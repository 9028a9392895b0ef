"""Latency table's part in a fit: from an order and a model to a search space with costs in milliseconds.

A table is a help, never a condition: without one (no profile in the runtime, a model whose file cannot be
resized, a device that fails at it) the reason is told, and widths are chosen by their share of the work.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from edgeprune.devices import Feeds, Load
from edgeprune.errors import DeviceBusy, DeviceLost, EdgepruneError, NothingToQuantise
from edgeprune.fitting.order import Order
from edgeprune.fitting.space.precisions import mixed_designs, precision_choice, quicker_in_float
from edgeprune.fitting.space.space import Space
from edgeprune.graph.branch_contents import branch_nodes
from edgeprune.graph.resize import Resizable, Widths
from edgeprune.latency.cache import Key, cached
from edgeprune.latency.curves import LatencyTable, Row, Whole
from edgeprune.latency.float_layers import Mixing, Mixture
from edgeprune.latency.measured import designs, measure_table, prediction
from edgeprune.latency.operators import Nodes
from edgeprune.make import Workshop
from edgeprune.quantize.dynamic import DYNAMIC
from edgeprune.records.trial import Candidate
from edgeprune.runtimes import find

Once = Callable[[str, Callable[[], LatencyTable]], LatencyTable]
FLOAT = Candidate((), "float32")
DOING = "measuring operators"
MIXING = "timing layers in float and INT8"


@dataclass(frozen=True)
class Timing:
    """Measurement of latency tables on the order's device.

    load: how artefacts are served; of any one. feeds: one query's inputs.
    tell: hears of progress (what is done, share).
    """

    order: Order
    workshop: Workshop
    load: Load
    feeds: Feeds
    tell: Callable[[str, float | None], None]

    def model(self) -> Resizable | None:
        """Model's ONNX file at any widths; None, and a sentence, when it cannot be resized."""
        if not self._can_time:
            return None
        self.tell(DOING, 0.0)
        try:
            return self.workshop.resizable
        except EdgepruneError as error:
            self._none(error)
            return None

    def mixture(self, recipe: Candidate) -> Mixture:
        """Layers that stay float because they are slower in INT8; none, and a sentence, if none was timed.

        Raises `DeviceError` when the device is gone, `NothingToQuantise` when nothing can be INT8.
        """
        if not self._can_time:
            return Mixture()
        self.tell(MIXING, 0.0)
        try:
            workshop = self.workshop
            mixing = Mixing(
                self.order.device,
                self.load,
                workshop.dialect,
                workshop.builder.emitter,
                workshop.builder.exported(workshop.dense),
                self.feeds,
            )
            return mixing.quickest(recipe, lambda share: self.tell(MIXING, share))
        except (DeviceBusy, DeviceLost, NothingToQuantise):
            raise
        except EdgepruneError as error:
            self.order.device.machine()
            self._say(f"no layer is left in float for its speed, they could not be timed: {error.what}")
            return Mixture()

    def table(
        self, model: Resizable, recipe: Candidate, wanted: Sequence[Widths] | None = None
    ) -> LatencyTable:
        """Table, measured or from the cache; without rows, and with a sentence, when measuring fails.

        Raises `DeviceError` when the device is gone: then nothing is decided, and the run can be resumed.
        """
        shown = self._wanted if wanted is None else wanted
        return self._cached(self._key(model, recipe, shown), lambda: self._measured(model, recipe, shown))

    def _cached(self, key: Key, measure: Callable[[], LatencyTable]) -> LatencyTable:
        try:
            return cached(key, measure, self._say)
        except (DeviceBusy, DeviceLost):
            raise  # it may be back in a moment: a look at it would not show that it was gone
        except EdgepruneError as error:
            self.order.device.machine()
            self._none(error)
            return LatencyTable(())

    def space(self, base: Space, recipe: Candidate, layers: Sequence[str], once: Once) -> Space:
        """Search space `base` with the costs of a latency table; unchanged, and a sentence, without a table.

        recipe: the precision that candidates start from. layers: those that are INT8 in it; with a table of
        float beside theirs, each may be either. once: records a table by its name.
        """
        model = self.model()
        if model is None:
            return base
        table = once(f"table-{recipe.precision}", lambda: self.table(model, recipe))
        if not table.rows:
            return base
        held = branch_nodes(model.model, self.workshop.dense.module, self.workshop.coupling.branches)
        integer = prediction(model, table)
        space = replace(base, prediction=integer, branch_nodes=held)
        if recipe.precision != "int8" or not layers:
            return space
        # At the widest and the narrowest first: where float saves nothing, no candidate would have any.
        ends = [self._wanted[0], min(self._wanted, key=lambda widths: sum(widths.values()))]
        some = once("table-float32-ends", lambda: self.table(model, FLOAT, ends)).at(table.reference_ms)
        if not quicker_in_float(some, table, precision_choice(integer, integer, model, layers).owners):
            return space
        rest = [widths for widths in self._wanted if widths not in ends]
        plain = once("table-float32", lambda: self.table(model, FLOAT, rest)).at(table.reference_ms)
        if not plain.rows:
            return space
        plain = some.joined(plain)
        choice = precision_choice(prediction(model, plain), integer, model, layers)
        mixed = once("table-mixed", lambda: self._mixed(model, recipe, choice.layers)).at(table.reference_ms)
        return replace(space, precisions=choice.learnt(mixed.wholes))

    @property
    def _can_time(self) -> bool:
        """Whether there is a device to measure on, and its engines are timed operator by operator."""
        return self.order.forecast is None and not find(self.order.runtime).builds_engine

    @cached_property
    def _wanted(self) -> Sequence[Widths]:
        return designs(self.workshop.coupling, self.order.target.channel_multiple)

    def _measured(self, model: Resizable, recipe: Candidate, wanted: Sequence[Widths]) -> LatencyTable:
        return measure_table(
            self.order.device,
            self.load,
            model,
            self.workshop.builder.emitter(recipe),
            self.feeds,
            wanted,
            lambda share: self.tell(DOING, share),
        )

    def _mixed(self, model: Resizable, recipe: Candidate, layers: Sequence[str]) -> LatencyTable:
        """Designs in which layers of both precisions take turns, end to end."""
        designed = mixed_designs(layers, self._wanted)

        def measured() -> LatencyTable:
            rows: list[Row] = []
            wholes: list[Whole] = []
            for widths, left in designed:
                candidate = replace(recipe, float_layers=tuple(sorted({*recipe.float_layers, *left})))
                timed = self._measured(model, candidate, [widths]).at(1.0)
                rows += timed.rows
                wholes += [replace(whole, float_layers=left) for whole in timed.wholes]
            return LatencyTable(tuple(rows), tuple(wholes))

        return self._cached(self._key(model, recipe, designed), measured)

    def _key(self, model: Resizable, recipe: Candidate, shown: object) -> Key:
        machine, profile = self.order.device.machine(), self.order.profile
        version = dict(machine.runtimes).get(self.order.runtime, "unknown")
        form = (recipe.calibrator == DYNAMIC, recipe.in_float, recipe.convolved)
        all_shown = (sorted(Nodes(model).nodes.items()), shown, form, self.load.device)
        return Key(
            device=f"{self.order.device.name}: {machine.processor}, {machine.system}",
            runtime=f"{self.order.runtime} {version}",
            precision=recipe.precision,
            threads=profile.threads,
            batch=profile.batch,
            model=hashlib.sha256(repr(all_shown).encode()).hexdigest(),
        )

    def _say(self, sentence: str) -> None:
        self.tell(sentence, None)

    def _none(self, error: EdgepruneError) -> None:
        self._say(f"no latency table, so widths are chosen by their share of the work: {error.what}")
