"""State of the device while it measured: sensors, waiting for CPUs, and its speed from trial to trial."""

from __future__ import annotations

from dataclasses import dataclass

from edgeprune.records.trial import DeviceState, FitResult, Measurement
from edgeprune.report.html.trade_off import leading
from edgeprune.search.waiting import Taken, taken


@dataclass(frozen=True)
class SensorReading:
    """One sensor around a session, as read. during: the reading farthest from `before`."""

    name: str
    before: str
    during: str
    after: str
    moved: bool


@dataclass(frozen=True)
class SessionWait:
    """Shares of a session's time that were taken from it, by whom; None where not counted."""

    name: str
    taken: Taken


@dataclass(frozen=True)
class MachineSpeed:
    """Milliseconds of the dense model, which ran in turn with a trial."""

    name: str
    reference_ms: float


def sensor_readings(state: DeviceState) -> tuple[SensorReading, ...]:
    """Sensors of a session by name, in the order in which they were read."""
    before, during, after = dict(state.before), dict(state.during), dict(state.after)
    return tuple(
        SensorReading(
            name,
            before.get(name, "not read"),
            during.get(name, "not read"),
            after.get(name, "not read"),
            name in state.moved,
        )
        for name in {**before, **during, **after}
    )


def session_waits(result: FitResult) -> tuple[SessionWait, ...]:
    """Waiting in the sessions of the dense model, its INT8 form and the chosen candidates, where counted."""
    return tuple(
        SessionWait(report.name, found)
        for report in leading(result)
        if (found := taken(report.measurement.waiting)) != taken(None)
    )


def machine_speeds(result: FitResult) -> tuple[MachineSpeed, ...]:
    """Speed of the machine in the session of each trial, in the order of the trials."""
    reports = {each.name: each for each in (result.baseline, *result.trials)}
    return tuple(
        MachineSpeed(name, ms)
        for name, report in reports.items()
        if (ms := report.measurement.reference_ms) is not None and not report.measurement.predicted
    )


def state_lines(measured: Measurement) -> tuple[str, ...]:
    """Sentences about the session of a candidate: drift, speed against the usual one, flags that moved."""
    found = []
    if measured.drift is not None:
        found.append(
            f"The reference, which ran in turn, changed its speed by {measured.drift:.1%} in the session."
        )
    if measured.reference_ms is not None and measured.usual_ms is not None:
        found.append(
            f"It took {measured.reference_ms:.4g} ms; {measured.usual_ms:.4g} ms were usual in the sessions "
            "before."
        )
    if measured.state.moved:
        found.append(f"Throttle flags moved: {', '.join(measured.state.moved)}.")
    if measured.set_aside:
        found.append(f"{measured.set_aside:.1%} of the runs waited for a CPU and do not count.")
    return tuple(found)
