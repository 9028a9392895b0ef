"""Bracketing search for the share of work whose measured cost lands just inside the budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from edgeprune.records.trial import Latency

LANDING = 0.97  # on a steady device, a candidate that uses this share of its budget is close enough
SMALLEST_STEP = 0.004  # shares of work closer than this give the same candidate


@dataclass(frozen=True)
class Probe:
    """One candidate that was built or drafted.

    share: of the dense model's work. use: the largest of measured / limit over latency, memory and size;
    above 1 the candidate does not fit. value: the allocation's objective value; the same for all where
    widths follow the work alone.
    """

    share: float
    use: float
    name: str = ""
    value: float = 0.0


@dataclass(frozen=True)
class Zone:
    """Uses of the budget at which a search stops; `aim` is the use to try for."""

    low: float
    aim: float
    high: float


def zone(speeds: Sequence[float]) -> Zone:
    """Zone for a device on which one model took these milliseconds, session by session.

    A steady device gets the top 3 % of the budget. Where sessions usually differ by some percent, a budget
    that was met exactly today would be broken tomorrow, so twice that is left free.
    """
    usual = median(speeds) if speeds else 1.0
    noise = 2 * median(abs(ms / usual - 1) for ms in speeds) if speeds else 0.0
    aim = min((1 + LANDING) / 2, 1 / (1 + noise))
    return Zone(low=aim - (1 - LANDING) / 2, aim=aim, high=(2 + aim) / 3)


def expected_proof_ms(latency: Latency, runs: int, seconds: float) -> float:
    """Bound in milliseconds that a proof will find, predicted from a short session.

    A bound lies above its percentile by as many ranks as chance may move the percentile, a share of the runs
    that falls with their root: with 128 runs it is near the p96, with the 662 of a proof near the p93.
    runs, seconds: at least what the proof will take.
    """
    if latency.bound_ms is None:
        return latency.max_ms
    if latency.percentile_ms is None or not latency.runs:
        return latency.bound_ms
    proof_runs = max(runs, 1e3 * seconds / latency.p50_ms)
    chance_ms = latency.bound_ms - latency.percentile_ms
    return latency.percentile_ms + chance_ms * min(1.0, math.sqrt(latency.runs / proof_runs))


def in_zone(probe: Probe, goal: Zone) -> bool:
    return goal.low <= probe.use <= goal.high


def landed(probes: Sequence[Probe], goal: Zone) -> bool:
    return any(in_zone(probe, goal) for probe in probes)


def best(probes: Sequence[Probe], goal: Zone) -> Probe | None:
    """Probe of the most value, then share, that fits with the zone's margin; else that of the least use."""
    fitting = [probe for probe in probes if probe.use <= goal.high]
    if fitting:
        return max(fitting, key=lambda probe: (probe.value, probe.share))
    return min((probe for probe in probes if probe.use <= 1), key=lambda probe: probe.use, default=None)


def next_share(probes: Sequence[Probe], smallest: float, goal: Zone) -> float | None:
    """Share of work to try next; None when nothing is left to learn.

    smallest: the least share that any legal candidate keeps.
    Cost over work is close to a line with an intercept (launch overhead, layers that were not cut), so the
    step is a secant between the two probes that bracket the aim, kept inside the bracket (`halved`).
    """
    if landed(probes, goal):
        return None
    aim = goal.aim
    over = min((p for p in probes if p.use > aim), key=lambda p: p.share, default=None)
    under = max((p for p in probes if p.use <= aim), key=lambda p: p.share, default=None)
    if over is None:  # everything fits, the whole model included
        return None
    if under is None:
        if over.share <= smallest + SMALLEST_STEP:
            return None
        if len([p for p in probes if p.use > aim]) == 1:
            guess = over.share * aim / over.use
        else:
            nearest = sorted(probes, key=lambda p: p.share)
            guess = _secant(nearest[0], nearest[1], aim)
        # The first guess does not know the cost's intercept: a little further makes a bracket.
        guess = min(guess, over.share - 0.05)
        return max(smallest, guess)
    if over.share - under.share <= SMALLEST_STEP:
        return None
    below = (aim - under.use) * halved(probes, over, aim)
    above = (over.use - aim) * halved(probes, under, aim)
    width = over.share - under.share
    return under.share + width * min(max(below / (below + above), 0.05), 0.95)


def halved(probes: Sequence[Probe], here: Probe, aim: float) -> float:
    """Weight of the other end of a bracket when the last probes lie on the side of `here`.

    Costs are curved, and a secant would creep along the curve: so the end that stays counts half with every
    further probe on the other side ("Illinois", Dowell and Jarratt 1971).
    """
    if (probes[-1].use > aim) != (here.use > aim):
        return 1.0
    return float(0.5 ** (_streak(probes, aim) - 1))


def _streak(probes: Sequence[Probe], aim: float) -> int:
    """Number of last probes on the same side of the aim."""
    sides = [probe.use > aim for probe in reversed(probes)]
    return next((length for length, side in enumerate(sides) if side != sides[0]), len(sides))


def _secant(one: Probe, other: Probe, aim: float) -> float:
    if one.use == other.use:
        return (one.share + other.share) / 2
    return one.share + (aim - one.use) * (other.share - one.share) / (other.use - one.use)
