"""Float layers of an INT8 model: those that the device does not run quicker in INT8.

Both precisions are profiled in the runtime on the device, a minimum cut over the layers' times proposes a
mixture of precisions (`min_cut`), and the mixture's own profile shows what conversions cost, for the next
proposal. In the end all mixtures are timed end to end, each in turn with the float model, and the quickest
is chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from edgeprune.devices import Device, Feeds, Load
from edgeprune.errors import DeviceBusy
from edgeprune.files import scratch
from edgeprune.graph import onnxfile
from edgeprune.latency.layers import Parts, Shares
from edgeprune.latency.measured import PROFILE_RUNS, QUICK_PERCENTILE, Emit
from edgeprune.latency.min_cut import ALWAYS_FLOAT, crossed, slower_in_int8, total_ms
from edgeprune.quantize.dialects import Dialect
from edgeprune.records.trial import Candidate
from edgeprune.search.waiting import undisturbed

MOST_PROPOSALS = 3  # mixtures that are proposed at most
TURNS, TURN_SECONDS = 4, 0.4  # of a variant end to end, as many of the float model
LEAST_SAVING = 0.002  # share of a query's time that a layer must save in float: in INT8 it is smaller
ALIKE = 0.01  # share of the time below which two variants count as equally quick

Emitter = Callable[[Candidate], Emit]  # as `Builder.emitter`


@dataclass(frozen=True)
class Mixture:
    """Quickest INT8 variant of a recipe; the ledger's record.

    float_ms, int8_ms, ms: of a query in float, with all layers in INT8, and in this variant.
    """

    slow_layers: tuple[str, ...] = ()  # they stay float
    convolved: bool = False
    float_ms: float = 0.0
    int8_ms: float = 0.0
    ms: float = 0.0

    def of(self, candidate: Candidate) -> Candidate:
        """Candidate with the float layers and the products of this variant."""
        return replace(candidate, slow_layers=self.slow_layers, convolved=self.convolved)


@dataclass(frozen=True)
class Mixing:
    """Search for the quickest mixture of precisions on a device.

    load: how artefacts will be served; its own artefact is not used. exported: the float ONNX model.
    feeds: one query's inputs.
    """

    device: Device
    load: Load
    dialect: Dialect
    emitter: Emitter
    exported: onnx.ModelProto
    feeds: Feeds

    def quickest(self, recipe: Candidate, listen: Callable[[float], None] = lambda share: None) -> Mixture:
        """Quickest variant: the layers that stay float, and whether products are written as convolutions.

        Raises `DeviceError` when the device fails, is busy or its runtime has no profile, `NothingToQuantise`
        when nothing can be INT8.
        """
        parts = Parts(self.exported, self.dialect)
        with scratch() as place:
            in_float = self._profile(None, parts, place)
            ms: dict[Candidate, tuple[float, float]] = {}
            convolved = replace(recipe, convolved=True)
            if self.dialect.convolutions and self._differ(recipe, convolved, place):
                ms = {variant: self._timed(variant, place) for variant in (recipe, convolved)}
            base = _quickest(ms) if ms else recipe
            listen(0.4)
            for variant in self._proposed(base, parts, in_float, place):
                for each in (recipe, variant):
                    ms[each] = ms.get(each) or self._timed(each, place)
            if not ms:
                return Mixture()
            best = _quickest(ms)
            float_ms = float(np.median([times[0] for times in ms.values()]))

        def at(variant: Candidate) -> float:
            return float_ms * ms[variant][1] / ms[variant][0]

        return Mixture(best.slow_layers, best.convolved, float_ms, at(recipe), at(best))

    def _proposed(self, base: Candidate, parts: Parts, in_float: Shares, place: Path) -> Iterator[Candidate]:
        """Mixtures by the profiles of both precisions, then with the conversions of the last mixture."""
        in_int8 = self._profile(base, parts, place)
        times = parts.times(in_float, in_int8)
        least = LEAST_SAVING * sum(each.int8_ms for each in times.values())
        weighed = {
            part: replace(each, float_ms=each.float_ms + least * (part in parts.layers))
            for part, each in times.items()
        }
        ms_per_element = 0.0
        found: list[Candidate] = []
        while len(found) < MOST_PROPOSALS:
            floats = slower_in_int8(weighed, parts.values(in_float, in_int8, ms_per_element))
            layers = tuple(sorted(floats & set(parts.layers)))
            variant = replace(base, slow_layers=layers)
            if not 0 < len(layers) < len(parts.layers) or variant in found:
                break
            found.append(variant)
            yield variant
            by_part = parts.by_part(self._profile(variant, parts, place))
            expected = total_ms(times, parts.values(in_float, in_int8, 0.0), floats)
            beyond = sum(by_part.values()) - by_part.get(ALWAYS_FLOAT, 0.0) - expected
            elements = sum(value.ms for value in crossed(parts.values({}, {}, 1.0), floats))
            ms_per_element = max(ms_per_element, beyond / elements if elements else 0.0)

    def _profile(self, variant: Candidate | None, parts: Parts, place: Path) -> Shares:
        load = replace(self.load, artefact=self._artefact(variant, place), profile=True)
        with self.device.start(load) as session:
            return parts.shares(session.operators(self.feeds, runs=PROFILE_RUNS))

    def _timed(self, variant: Candidate, place: Path) -> tuple[float, float]:
        """Milliseconds of a query in float and in a variant, the two in turn."""
        loads = [replace(self.load, artefact=self._artefact(each, place)) for each in (None, variant)]
        times: tuple[list[float], list[float]] = ([], [])
        with self.device.start(loads[0]) as one, self.device.start(loads[1]) as other:
            for session in (one, other):
                session.warm_up(self.feeds, TURN_SECONDS / 2)
            for _ in range(TURNS):
                for session, seen in zip((one, other), times, strict=True):
                    seen += undisturbed(session.time(self.feeds, runs=1, seconds=TURN_SECONDS))
        if not all(times):
            raise DeviceBusy("Layers cannot be timed: other work took the device's time in every turn.")
        float_ms, variant_ms = (float(np.percentile(seen, QUICK_PERCENTILE)) for seen in times)
        return float_ms, variant_ms

    def _differ(self, one: Candidate, other: Candidate, place: Path) -> bool:
        return self._artefact(one, place).read_bytes() != self._artefact(other, place).read_bytes()

    def _artefact(self, variant: Candidate | None, place: Path) -> Path:
        if variant is None:
            return onnxfile.save(self.exported, place / "float.onnx")
        return onnxfile.save(self.emitter(variant)(self.exported), place / "model.onnx")


def _quickest(ms: dict[Candidate, tuple[float, float]]) -> Candidate:
    """Quickest variant, or one about as quick with more layers in INT8, which are smaller."""
    ratio = {variant: other / one for variant, (one, other) in ms.items()}
    least = min(ratio.values())
    close = [variant for variant in ms if ratio[variant] * (1 - ALIKE) <= least]
    return min(close, key=lambda variant: len(variant.slow_layers))
