"""Validation of a bundle on a device: the proof of `fit`, repeated from the bundle alone.

    (1) to (6)  the bundle itself: see `bundle.read`
    (7)  The device answers and has the bundle's runtime; another version than the claim's is reported.
    (8)  The golden inputs, served as the budget asks (threads, batch), give the golden outputs within the
         manifest's tolerance. So the device computes the model that was evaluated, and the metric of the
         manifest's claim is carried over: there is no data set in a bundle. TensorRT first builds its engine
         on the device, within the memory budget; one that runs an INT8 layer in float, or does not tell, is
         refused here.
    (9)  Peak memory and file size are within the budget.
    (10) The early-stopping bound of the budget's percentile is within the latency budget, in a proof as
         `fit` makes it. A session that drifted, throttled or waited for other processes is repeated; when it
         never settles, the answer is "inconclusive", and why, and not a number. The bundle's tiny model,
         timed beside it, tells a device that is slower from a model that is slower: on the machine of the
         claim a budget that a slower day breaks is "inconclusive", too.

So a bundle that was predicted without a device becomes one that fits or misses.

Needs numpy on the host, and on the device the runtime: no torch, no onnx.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from edgeprune.bundle import Verified, open_bundle
from edgeprune.bundle.golden import Golden, serve, worst_difference
from edgeprune.bundle.pace import pace_feeds
from edgeprune.devices import Device, Load, Machine, described, open_device
from edgeprune.errors import DeviceError, DeviceLost, InputError
from edgeprune.measure import PROOF, Effort, Progress, Proof, pace_ms, prove
from edgeprune.records.bundle import PACE, Check, Claim, Manifest, Validation
from edgeprune.records.direction import Direction
from edgeprune.records.machine import Budget, Target
from edgeprune.records.progress import Event, Listen
from edgeprune.records.trial import Measurement, Verdict, VerdictKind
from edgeprune.runtimes import TABLE
from edgeprune.search.agreement import relative_error
from edgeprune.search.judge import USUAL_SPEED, judge, unsettled
from edgeprune.shelf import load_target, names

_log = logging.getLogger(__name__)

TITLES = {
    7: "the device has the runtime",
    8: "golden outputs agree",
    9: "memory and size within the budget",
    10: "latency within the budget",
}


def validate(
    bundle: str | Path,
    device: Device | str | None = None,
    *,
    lab: str | Path | None = None,
    target: str | Path | None = None,
    signers: str | Path | None = None,
    effort: Effort = PROOF,
    listen: Listen = lambda event: None,
) -> Validation:
    """Verify a bundle and repeat its proof on a device.

    device: an opened device, an address ("local", "ssh://user@host:port") or a name in the file `lab`; None
        is this machine.
    target: the validator's own target, a name on the shelf or a .toml file, whose sensors and throttle flags
        are read; None takes the one that the shelf has under the bundle's target name. What the bundle names
        is compared with it, never read or run.
    signers: an `allowed_signers` file (ssh-keygen), one of whose keys must have signed the bundle.
    effort: the least queries and seconds that a session times; by default as many as a proof of `fit`.
    listen: is called with an `Event` after each block of queries.
    Raises `BundleError` when the bundle is refused, `InputError` when there is no such device; failures of
    the device are checks of the answer.
    """
    opened = _opened(device, None if lab is None else Path(lab))
    own = None if target is None else load_target(target)
    with open_bundle(Path(bundle), signers=None if signers is None else Path(signers)) as verified:
        return validate_on(opened, verified, own, effort=effort, listen=listen)


def _opened(device: Device | str | None, lab: Path | None) -> Device:
    if isinstance(device, str):
        return open_device(device, lab=lab)
    if lab is not None:
        raise InputError(f"{lab} was given without the name of a device in it.", "Give device=NAME as well.")
    return open_device("local") if device is None else device


def validate_on(
    device: Device,
    verified: Verified,
    target: Target | None = None,
    *,
    effort: Effort = PROOF,
    listen: Listen = lambda event: None,
) -> Validation:
    """Checks (7) to (10) of a bundle that passed (1) to (6); one opened bundle serves many devices.

    target: the validator's own, see `validate`.
    """
    began, since = datetime.now(timezone.utc), time.monotonic()
    manifest, golden, reachable = verified.manifest, verified.golden, True
    load = _served(manifest, verified.folder)
    own = _own_target(manifest) if target is None else target
    checks = list(verified.checks)
    machine: Machine | None = None
    measurement: Measurement | None = None
    verdict: Verdict | None = None
    try:
        machine = device.machine()
        checks.append(_check_runtime(manifest, device.name, machine))  # (7)
        if checks[-1].outcome == "passed":
            checks.append(_check_golden(manifest, device, load, golden))  # (8)
        if checks[-1].outcome == "passed":
            proof, claim = _proof(manifest, own, device, load, golden, effort, listen), manifest.claim
            measurement = _as_claimed(proof.measurement, claim)
            verdict = judge(
                *(measurement, claim.metric, claim.baseline_metric, manifest.budget),
                direction=Direction(claim.lower_is_better),
            )
            checks.append(_check_room(verdict, measurement, manifest.budget))  # (9)
            latency = _check_latency(measurement, claim.measurement, manifest.budget, proof.tried)
            paces = _Paces.of(verified, device, load, machine, measurement)
            latency, verdict = _paced(latency, verdict, paces)
            checks.append(replace(latency, detail=latency.detail + _unlike(manifest, own)))  # (10)
    except DeviceError as error:
        number = checks[-1].number + 1
        checks.append(Check(number, TITLES[number], "failed", error.what, error.hint))
        reachable = machine is not None or not isinstance(error, DeviceLost)
    checks += _skipped(checks[-1].number)
    for check in checks:
        _log.info("%r, check (%d) %s: %r", device.name, check.number, check.outcome, check.detail)
    return Validation(
        device=device.name,
        model=manifest.model,
        checks=tuple(checks),
        verdict=verdict,
        measurement=measurement,
        metric_name=manifest.claim.metric_name,
        metric=manifest.claim.metric,
        lower_is_better=manifest.claim.lower_is_better,
        budget=manifest.budget,
        machine="" if machine is None else machine.words,
        reachable=reachable,
        began=began.isoformat(timespec="seconds"),
        seconds=time.monotonic() - since,
    )


def _served(manifest: Manifest, folder: Path) -> Load:
    """Load of the bundle's artefact, as its manifest says."""
    return Load(
        *(manifest.runtime, folder / manifest.artefact, manifest.threads),
        device=manifest.device,
        batch=manifest.batch,
        memory_mib=manifest.budget.memory_mib,
        outputs=manifest.outputs,
    )


def _own_target(manifest: Manifest) -> Target | None:
    """The validator's target of the bundle's name; None when the shelf has none of that name."""
    return load_target(manifest.target) if manifest.target in names("targets") else None


def _unlike(manifest: Manifest, own: Target | None) -> str:
    """Sentence about readings that the bundle names and the validator's own target does not."""
    if own is None:
        return "; this machine has no target of the bundle's name, so only every device's own state was read"
    if {*manifest.sensors, *manifest.throttle} == {*own.sensors, *own.throttle}:
        return ""
    return f"; the bundle names other sensors than target {own.name}, whose sensors were read"


def _check_runtime(manifest: Manifest, name: str, machine: Machine) -> Check:
    version = dict(machine.runtimes).get(manifest.runtime)
    if version is None:
        row = TABLE.get(manifest.runtime)
        hint = (
            f"On the device, run: {row.pip}" if row else "Upgrade edgeprune: it does not know this runtime."
        )
        return Check(7, TITLES[7], "failed", f"{name} has no {manifest.runtime}.", hint)
    here, claim = f"{manifest.runtime} {version}", manifest.claim.measurement
    notes = [here if here == claim.runtime else f"{here}; the claim was measured with {claim.runtime}"]
    if claim.predicted:
        notes = [f"{here}; the claim was predicted, without a device"]
    if machine.cores < manifest.threads:
        notes.append(f"{machine.cores} cores for {manifest.threads} threads")
    return Check(7, TITLES[7], "passed", "; ".join(notes))


def _check_golden(manifest: Manifest, device: Device, load: Load, golden: Golden) -> Check:
    with device.start(load) as session:
        served = serve(session, golden, manifest.batch)
    name, worst = worst_difference(served, golden.outputs)
    told = f"{name} differs by {worst:.2g} of its largest value, {manifest.tolerance:g} is allowed"
    if golden.reference:
        names = list(golden.reference)
        error = relative_error([served[each] for each in names], [golden.reference[each] for each in names])
        told += f"; relative error {error:.2%} to the fake-quantised model in torch"
    if not worst <= manifest.tolerance:
        return Check(
            8,
            TITLES[8],
            "failed",
            told,
            "This machine does not compute the model that was evaluated: an x86 without VNNI saturates in "
            "INT8, another runtime version may round elsewhere. Fit for this machine, or use that version.",
        )
    claim = manifest.claim
    told = f"{told}; so {claim.metric_name} {claim.metric:.4g} is carried over"
    if claim.arithmetic == "exact":
        told = f"{told} (computed without a device, in exact arithmetic)"
    return Check(8, TITLES[8], "passed", told)


def _proof(
    manifest: Manifest,
    own: Target | None,
    device: Device,
    load: Load,
    golden: Golden,
    effort: Effort,
    listen: Listen,
) -> Proof:
    def tell(progress: Progress) -> None:
        listen(Event(device.name, f"proof, p50 {progress.p50_ms:.3g} ms", progress.share))

    return prove(
        device,
        load,
        list(golden.feeds(manifest.batch, longest=True)),
        percentile=manifest.budget.percentile,
        effort=effort,
        latency_ms=manifest.budget.latency_ms,
        sensors=() if own is None else own.sensors,
        throttle=() if own is None else own.throttle,
        listen=tell,
    )


def _as_claimed(measured: Measurement, claim: Claim) -> Measurement:
    """Measurement in the claim's terms: earlier versions limited the memory that the model adds."""
    return replace(measured, process_mib=None) if claim.measurement.process_mib is None else measured


@dataclass(frozen=True)
class _Paces:
    """Times then and now: how many times as long as at the claim the tiny model takes, and the model itself.

    device: None without one that can be compared. same: whether this is the machine of the claim.
    """

    device: float | None
    model: float
    same: bool

    @classmethod
    def of(
        cls, verified: Verified, device: Device, load: Load, machine: Machine, measurement: Measurement
    ) -> _Paces:
        then, claimed = verified.manifest.pace, verified.manifest.claim.measurement
        model = measurement.latency.p50_ms / claimed.latency.p50_ms
        if then is None:
            return cls(None, model, False)
        tiny = replace(load, artefact=verified.folder / PACE, outputs=())
        now_ms = pace_ms(device, tiny, pace_feeds())
        return cls(None if now_ms is None else now_ms / then.ms, model, then.machine == described(machine))

    @property
    def words(self) -> str:
        """Sentence about which of both is slower; empty when neither is, or it is not known."""
        if self.device is None or max(self.device, self.model) <= USUAL_SPEED:
            return ""
        day = "today" if self.same else "than the claim's"
        if self.device <= USUAL_SPEED:
            return f"the device is as quick as at the claim: the model is slower, {self.model:.2f} times"
        told = (
            f"the device is slower {day}: a tiny model takes {self.device:.2f} times as long as at the claim"
        )
        own = self.model / self.device
        return f"{told}, and this model {self.model:.2f} times" + (
            ", so it is slower itself" if own > USUAL_SPEED else ""
        )


def _paced(latency: Check, verdict: Verdict, paces: _Paces) -> tuple[Check, Verdict]:
    """Check and verdict with what the tiny model tells: a slower day of the claim's machine is no miss."""
    told = replace(latency, detail="; ".join(filter(None, (latency.detail, paces.words))))
    slower_day = paces.same and paces.device is not None and paces.device > USUAL_SPEED
    own = paces.device is not None and paces.model / paces.device > USUAL_SPEED
    lines = {breach.line for breach in verdict.breaches}
    if latency.outcome != "failed" or not slower_day or own:
        return told, verdict
    rest = tuple(breach for breach in verdict.breaches if breach.line != "latency_ms")
    kind: VerdictKind = "misses" if rest else "inconclusive"
    return replace(told, outcome="inconclusive", hint=_QUIET), Verdict(kind, rest) if lines else verdict


def _check_room(verdict: Verdict, measurement: Measurement, budget: Budget) -> Check:
    broken = any(breach.line in ("memory_mib", "size_mib") for breach in verdict.breaches)
    whole = measurement.process_mib is not None
    what = "peak memory" if whole else "peak memory above the runtime's own, as the bundle claims it,"
    memory = _against(what, measurement.memory_mib, budget.memory_mib, "MiB")
    if whole:
        memory = f"{memory}, of which the model adds {measurement.added_mib:.4g} MiB"
    size = _against("file size", measurement.size_mib, budget.size_mib, "MiB")
    return Check(9, TITLES[9], "failed" if broken else "passed", f"{memory}; {size}")


def _check_latency(
    measurement: Measurement, claimed: Measurement, budget: Budget, tried: Sequence[Measurement]
) -> Check:
    latency = measurement.latency
    shown = f"p{latency.percentile} bound"
    told = f"p50 {latency.p50_ms:.3g}, p90 {latency.p90_ms:.3g}, p99 {latency.p99_ms:.3g} ms"
    told = f"{told} in {latency.runs} runs"
    if claimed.predicted:
        told = f"{told}; {claimed.latency.p50_ms:.3g} ms was predicted"
        if claimed.error_bar is not None:
            told = "{}, {:.3g} to {:.3g} by its error bar".format(told, *claimed.error_bar.latency_ms)
    if latency.bound_ms is not None:
        told = f"{_against(shown, latency.bound_ms, budget.latency_ms, 'ms')}; {told}"
    if budget.latency_ms is None:
        return Check(10, TITLES[10], "passed", told)
    if latency.bound_ms is None or not measurement.conclusive:
        return Check(
            10,
            TITLES[10],
            "inconclusive",
            f"{unsettled(measurement)}, in the last of {len(tried)} sessions; {told}",
            _QUIET,
        )
    return Check(10, TITLES[10], "passed" if latency.bound_ms <= budget.latency_ms else "failed", told)


_QUIET = "Stop what else runs on the device, fix its clocks and power mode, let it cool, and validate again."


def _against(what: str, value: float, limit: float | None, unit: str) -> str:
    return f"{what} {value:.4g} {unit}" + (f" of {limit:.4g} allowed" if limit is not None else "")


def _skipped(last: int) -> tuple[Check, ...]:
    return tuple(
        Check(number, TITLES[number], "skipped", f"check {last} did not pass")
        for number in TITLES
        if number > last
    )
