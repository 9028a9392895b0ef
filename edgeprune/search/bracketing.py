"""Where to build next, so that the measured cost lands just inside the budget.

Pure: from the shares of work tried so far and how much of the budget each used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from edgeprune.records.trial import Latency

LANDING = 0.97  # on a steady device, a candidate that uses this much of its budget is close enough
SMALLEST_STEP = 0.004  # shares of work closer than this are the same candidate for practical purposes


@dataclass(frozen=True)
class Probe:
    """One build: the share of the dense work that it keeps, and the share of the budget that it uses.

    `use` is the largest of measured / allowed over latency, memory and size; above 1 it does not fit.
    `worth` is what the allocation that chose it has most of; all the same where widths follow the work alone.
    """

    share: float
    use: float
    name: str = ""
    value: float = 0.0


@dataclass(frozen=True)
class Zone:
    """Uses of the budget that are close enough to stop at. `aim` is the one to try for."""

    low: float
    aim: float
    high: float


def zone(speeds: Sequence[float]) -> Zone:
    """Where to land on a device on which one model took so many milliseconds, session by session.

    A steady device gets the top 3 % of the budget. One whose sessions usually differ by some percent would
    break tomorrow a budget that was met exactly today, so it leaves twice that free.
    """
    usual = median(speeds) if speeds else 1.0
    noise = 2 * median(abs(ms / usual - 1) for ms in speeds) if speeds else 0.0
    aim = min((1 + LANDING) / 2, 1 / (1 + noise))
    return Zone(low=aim - (1 - LANDING) / 2, aim=aim, high=(2 + aim) / 3)


def expected_proof_ms(latency: Latency, runs: int, seconds: float) -> float:
    """The bound in milliseconds that a proof of so many runs and seconds will find, as a search tells.

    A bound lies above its percentile by as many ranks as chance may move it, a share of the runs that falls
    with their root: with 128 runs it is near the p96, with the 662 of a proof near the p93.
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
    """What is worth most, or keeps most, of what fits with the zone's margin; else what fits most easily."""
    fitting = [probe for probe in probes if probe.use <= goal.high]
    if fitting:
        return max(fitting, key=lambda probe: (probe.value, probe.share))
    return min((probe for probe in probes if probe.use <= 1), key=lambda probe: probe.use, default=None)


def next_share(probes: Sequence[Probe], smallest: float, goal: Zone) -> float | None:
    """The share of work to try next, or None when nothing is left to learn.

    smallest: the least share that any legal candidate keeps.
    Cost over work is close to a line with an intercept (launch overhead, layers that were not cut), so
    the step is a secant between the two probes that bracket the aim, held inside the bracket (`halved`).
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
        # Cost has an intercept that the first guess cannot know: go a little further, to get a bracket.
        guess = min(guess, over.share - 0.05)
        return max(smallest, guess)
    if over.share - under.share <= SMALLEST_STEP:
        return None
    below = (aim - under.use) * halved(probes, over, aim)
    above = (over.use - aim) * halved(probes, under, aim)
    width = over.share - under.share
    return under.share + width * min(max(below / (below + above), 0.05), 0.95)


def halved(probes: Sequence[Probe], here: Probe, aim: float) -> float:
    """The share at which the other end of a bracket counts when the last probes lie on the side of `here`.

    Costs are curved, and a secant would creep along the curve: so the end that stays counts half with every
    further probe on the other side ("Illinois", Dowell and Jarratt 1971).
    """
    if (probes[-1].use > aim) != (here.use > aim):
        return 1.0
    return float(0.5 ** (_streak(probes, aim) - 1))


def _streak(probes: Sequence[Probe], aim: float) -> int:
    """How many of the last probes lie on the same side of the aim."""
    sides = [probe.use > aim for probe in reversed(probes)]
    return next((length for length, side in enumerate(sides) if side != sides[0]), len(sides))


def _secant(one: Probe, other: Probe, aim: float) -> float:
    if one.use == other.use:
        return (one.share + other.share) / 2
    return one.share + (aim - one.use) * (other.share - one.share) / (other.use - one.use)
