"""What our candidate is compared with: other choices of units, as fast as it, with the same recovery.

- *uniform*: every group keeps the same share of its units, as near as the legal steps of widths allow.
- *global L2*: all units of the network in one ranking by magnitude (`search.ranking`).

Both keep the best units of each group by L2. How much they keep is searched by measuring them in turn with
our candidate until they are as fast, by the secant of a fit without a table (`search.bracketing`). Then both
are reconstructed, trained, quantised and evaluated in the runtime as ours was.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch

from edgeprune.devices import Device, Feeds, Load
from edgeprune.make import Workshop, as_candidate_kept
from edgeprune.measure import Effort, measure
from edgeprune.records.trial import Candidate, Measurement
from edgeprune.search.bracketing import Probe, Zone, next_share
from edgeprune.search.ranking import Choice, Ranking, Widths, Work

SAME = Zone(low=0.99, aim=1.0, high=1.015)  # latency over ours that counts as equal
LEAST = 0.985  # a baseline that is faster than this is no fair comparison
BUILDS = 5
SESSIONS = 3  # of a comparison: one in a slow spell of the machine is off by several percent
T = TypeVar("T")
LONG = Effort(runs=256, seconds=1.0, interleaved=True)  # each


@dataclass(frozen=True)
class Uniform:
    """Widths of all groups taken down together, one legal step after another by the share it leaves."""

    choices: tuple[Choice, ...]
    work: Work
    floor: float = 0.1

    def keep(self, share: float) -> Widths:
        limit = share * self.work(self._widths(0))
        low, high = 0, len(self._steps)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self.work(self._widths(middle)) <= limit else (middle + 1, high)
        return self._widths(low)

    def smallest(self) -> Widths:
        return self._widths(len(self._steps))

    @cached_property
    def _steps(self) -> list[tuple[int, int]]:
        """(group, width after the step), the step that leaves the largest share first."""
        found: list[tuple[float, int, int]] = []
        for at, choice in enumerate(self.choices):
            units = len(choice.scores)
            multiple = choice.multiple if units >= 2 * choice.multiple else 1
            least = max(choice.least, int(np.ceil(self.floor * units)))
            found += [
                (-width / units, at, width) for width in range(multiple, units, multiple) if width >= least
            ]
        return [(at, width) for _, at, width in sorted(found)]

    def _widths(self, steps: int) -> Widths:
        widths = {at: len(choice.scores) for at, choice in enumerate(self.choices)} | dict(
            self._steps[:steps]
        )
        return {
            choice.name: tuple(np.sort(np.argsort(-choice.scores, kind="stable")[: widths[at]]).tolist())
            for at, choice in enumerate(self.choices)
        }


def allocators(workshop: Workshop, multiple: int) -> dict[str, Uniform | Ranking]:
    """workshop: one whose criterion is L2."""
    ranking = workshop.ranking(multiple)
    return {"uniform": Uniform(ranking.choices, ranking.work), "global L2": ranking}


@dataclass(frozen=True)
class Equal(Generic[T]):
    """What is as fast as ours, such as widths.

    ratio: measured latency over ours, in turn. builds: how many were measured to find it. reached: whether
    any of them was as fast; where widths move in steps, the next one that is not faster may be slower.
    """

    made: T
    ratio: float
    builds: int
    reached: bool = True


@dataclass(frozen=True)
class Ours:
    """What others are compared with on a device.

    percentile: of the latencies that are compared. share: of its latency that others are to have.
    sessions: of a comparison.
    """

    device: Device
    load: Load
    feeds: list[Feeds]
    percentile: int
    share: float = 1.0
    sessions: int = SESSIONS

    def ratio(self, other: Load) -> float:
        """Latency of `other` over the share of ours, in turn, in the session in which ours was quickest."""
        sessions = [
            measure(
                self.device, other, self.feeds, percentile=self.percentile, effort=LONG, reference=self.load
            )
            for _ in range(self.sessions)
        ]
        quickest = min(sessions, key=reference_ms)
        return exact_ms(quickest) / reference_ms(quickest) / self.share


def exact_ms(measured: Measurement) -> float:
    return _there(measured.latency.percentile_ms)


def reference_ms(measured: Measurement) -> float:
    return _there(measured.reference_ms)


def _there(value: float | None) -> float:
    if value is None:
        raise RuntimeError("what is measured in turn has its percentile and its reference")
    return value


def equally_fast(
    workshop: Workshop, allocator: Uniform | Ranking, recipe: Candidate, ours: Ours, start: float
) -> Equal[Widths]:
    """Search the share of work at which `allocator`, in the form of `recipe`, is as fast as `ours`.

    start: the share that ours keeps.
    """
    dense_macs = workshop.cost.macs({})

    def made(share: float) -> tuple[float, Widths]:
        kept = allocator.keep(share)
        return workshop.cost.macs(kept) / dense_macs, kept

    smallest = workshop.cost.macs(allocator.smallest()) / dense_macs
    return search(made, lambda kept: _ratio(workshop, kept, recipe, ours), smallest, start)


def search(
    made: Callable[[float], tuple[float, T]],
    ratio: Callable[[T], float],
    smallest: float,
    start: float,
    builds: int = BUILDS,
) -> Equal[T]:
    """Search what is as fast as ours among what `made` makes of a share of work.

    made: returns the share that is really kept, too, for widths move in steps. ratio: latency over ours.
    smallest: share that there is. start: that is measured first. builds: that are measured at most.
    """
    tried: dict[float, Equal[T]] = {}
    probes: list[Probe] = []
    wished: float | None = max(start, smallest)
    while wished is not None and len(tried) < builds:
        share, thing = made(wished)
        if share not in tried:
            tried[share] = Equal(thing, ratio(thing), len(tried) + 1)
            probes.append(Probe(share, tried[share].ratio))
        elif any(probe.share == wished for probe in probes):
            break
        else:  # what the wish rounds down to is known
            probes.append(Probe(wished, tried[share].ratio))
        wished = _next(probes, smallest)
    found = list(tried.values())
    fair = [each for each in found if each.ratio >= LEAST]
    best = min(fair, key=lambda each: each.ratio) if fair else max(found, key=lambda each: each.ratio)
    return replace(best, builds=len(found), reached=min(each.ratio for each in found) <= SAME.high)


def _next(probes: list[Probe], smallest: float) -> float | None:
    if all(probe.use < SAME.low for probe in probes):  # faster than ours: more must be kept
        widest = max(probes, key=lambda probe: probe.share)
        return min(1.0, widest.share * 1.02 * SAME.aim / widest.use) if widest.share < 1 else None
    return next_share(probes, smallest, SAME)


def _ratio(workshop: Workshop, kept: Widths, recipe: Candidate, ours: Ours) -> float:
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as folder:
        pruned, _ = workshop.prune(kept, "none")
        probe = tuple(torch.from_numpy(array) for array in ours.feeds[0].values())
        candidate = replace(recipe, kept=as_candidate_kept(kept))
        built = workshop.builder.build(candidate, pruned, Path(folder), probe)
        return ours.ratio(replace(ours.load, artefact=built.artefact))
