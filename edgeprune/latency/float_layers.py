"""Which layers of a model stay float because the device is no quicker at them in INT8.

Both precisions are profiled in the runtime on the device, a minimum cut over the times of the layers proposes
a mixture (`search.mixture`), and its own profile shows what conversions cost, for the next proposal. At last
all of them are timed end to end, each in turn with the float model, and the quickest is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgeprune.devices import Device, Feeds, Load
from edgeprune.files import scratch
from edgeprune.graph import onnxfile
from edgeprune.latency.layers import Parts, Shares
from edgeprune.latency.min_cut import FLOAT, crossed, slower_in_int8, total_ms
from edgeprune.quantize.dialects import Dialect
from edgeprune.records.trial import Candidate

ROUNDS = 3  # mixtures that are proposed at most
RUNS = 12  # queries of a profile
BLOCKS, BLOCK_SECONDS = 4, 0.4  # of a form end to end, as many of the float model
QUICK = 25  # percentile of an end-to-end time: other load on the machine only adds
WORTH = 0.002  # share of a query's time that a layer must save in float: in INT8 it is smaller
GAIN = 0.01  # share of the time below which two forms count as equally quick

Emitter = Callable[[Candidate], Callable[[Path, Path], Path]]  # as `Builder.emitter`


@dataclass(frozen=True)
class Mixture:
    """The quickest form of a recipe; the ledger's record.

    float_ms, int8_ms, ms: of a query in float, with all layers in INT8, and in this form.
    """

    slow_layers: tuple[str, ...] = ()  # those that stay float
    convolved: bool = False
    float_ms: float = 0.0
    int8_ms: float = 0.0
    ms: float = 0.0

    def of(self, candidate: Candidate) -> Candidate:
        """`candidate` in this form."""
        return replace(candidate, slow_layers=self.slow_layers, convolved=self.convolved)


@dataclass(frozen=True)
class Mixing:
    """A device, and how artefacts are made for it.

    load: how they will be served; its artefact is not looked at. float_onnx: the model as exported.
    feeds: one query's inputs.
    """

    device: Device
    load: Load
    dialect: Dialect
    emitter: Emitter
    float_onnx: Path
    feeds: Feeds

    def quickest(self, recipe: Candidate, listen: Callable[[float], None] = lambda share: None) -> Mixture:
        """Measure which layers to leave in float, and whether products are convolved.

        Raises `DeviceError` when the device fails or its runtime has no profile, `NothingToQuantise` when
        nothing can be INT8.
        """
        parts = Parts(onnxfile.load(self.float_onnx), self.dialect)
        with scratch() as place:
            in_float = self._profile(None, parts, place)
            ms: dict[Candidate, tuple[float, float]] = {}
            convolved = replace(recipe, convolved=True)
            if self.dialect.convolutions and self._differ(recipe, convolved, place):
                ms = {form: self._timed(form, place) for form in (recipe, convolved)}
            base = _quickest(ms) if ms else recipe
            listen(0.4)
            for form in self._proposed(base, parts, in_float, place):
                for each in (recipe, form):
                    ms[each] = ms.get(each) or self._timed(each, place)
            if not ms:
                return Mixture()
            best = _quickest(ms)
            float_ms = float(np.median([times[0] for times in ms.values()]))

        def at(form: Candidate) -> float:
            return float_ms * ms[form][1] / ms[form][0]

        return Mixture(best.slow_layers, best.convolved, float_ms, at(recipe), at(best))

    def _proposed(self, base: Candidate, parts: Parts, in_float: Shares, place: Path) -> Iterator[Candidate]:
        """Mixtures by the profiles of both precisions, then with conversions as the last mixture has them."""
        in_int8 = self._profile(base, parts, place)
        times = parts.times(in_float, in_int8)
        least = WORTH * sum(each.int8_ms for each in times.values())
        priced = {
            part: replace(each, float_ms=each.float_ms + least * (part in parts.layers))
            for part, each in times.items()
        }
        ms_per_element = 0.0
        found: list[Candidate] = []
        while len(found) < ROUNDS:
            floats = slower_in_int8(priced, parts.values(in_float, in_int8, ms_per_element))
            layers = tuple(sorted(floats & set(parts.layers)))
            form = replace(base, slow_layers=layers)
            if not 0 < len(layers) < len(parts.layers) or form in found:
                break
            found.append(form)
            yield form
            by_part = parts.by_part(self._profile(form, parts, place))
            expected = total_ms(times, parts.values(in_float, in_int8, 0.0), floats)
            beyond = sum(by_part.values()) - by_part.get(FLOAT, 0.0) - expected
            elements = sum(value.ms for value in crossed(parts.values({}, {}, 1.0), floats))
            ms_per_element = max(ms_per_element, beyond / elements if elements else 0.0)

    def _profile(self, form: Candidate | None, parts: Parts, place: Path) -> Shares:
        load = replace(self.load, artefact=self._artefact(form, place), profile=True)
        with self.device.start(load) as session:
            return parts.shares(session.operators(self.feeds, runs=RUNS))

    def _timed(self, form: Candidate, place: Path) -> tuple[float, float]:
        """Milliseconds of a query in float and in a form, the two in turn."""
        loads = [replace(self.load, artefact=self._artefact(each, place)) for each in (None, form)]
        times: tuple[list[float], list[float]] = ([], [])
        with self.device.start(loads[0]) as one, self.device.start(loads[1]) as other:
            for session in (one, other):
                session.warm_up(self.feeds, BLOCK_SECONDS / 2)
            for _ in range(BLOCKS):
                for session, seen in zip((one, other), times, strict=True):
                    seen += session.time(self.feeds, runs=1, seconds=BLOCK_SECONDS)
        return float(np.percentile(times[0], QUICK)), float(np.percentile(times[1], QUICK))

    def _differ(self, one: Candidate, other: Candidate, place: Path) -> bool:
        return self._artefact(one, place).read_bytes() != self._artefact(other, place).read_bytes()

    def _artefact(self, form: Candidate | None, place: Path) -> Path:
        if form is None:
            return self.float_onnx
        return self.emitter(form)(self.float_onnx, place / "model.onnx")


def _quickest(ms: dict[Candidate, tuple[float, float]]) -> Candidate:
    """The quickest form, or one about as quick that has more layers in INT8, which are smaller."""
    ratio = {form: other / one for form, (one, other) in ms.items()}
    least = min(ratio.values())
    close = [form for form in ms if ratio[form] * (1 - GAIN) <= least]
    return min(close, key=lambda form: len(form.slow_layers))
