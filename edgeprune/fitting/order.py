"""Orders of a fit: target, profile and budget of each answer, resolved and checked before anything runs."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from edgeprune.devices import Device, Load, open_device
from edgeprune.errors import InputError
from edgeprune.fitting.budgets import RequestedBudget, check_drop, profile_names, requested_budgets
from edgeprune.graph.capture import Captured, told_fixed
from edgeprune.latency.forecast import Forecast, forecast_for
from edgeprune.ledger import Ledger, Noted
from edgeprune.make import Workshop
from edgeprune.options import FitOptions
from edgeprune.quantize.dialects import check_dialect
from edgeprune.records.machine import Budget, Profile, Target
from edgeprune.records.progress import Event, Listen
from edgeprune.records.task import Task
from edgeprune.recover.workers import check_processes
from edgeprune.runtimes import AUTO, find, require_host
from edgeprune.shelf import Shelved, load_target, shelved
from edgeprune.tasks import call_evaluate

LOCAL = "local"
EVALUATION, EPOCHS = "evaluation", "epochs"  # in the resume key
SAME_SCORE = (
    1e-5  # relative: sums of single precision in another order, as another number of threads adds them
)


@dataclass(frozen=True)
class Order:
    """One budget to answer, on one machine.

    name: the tier's, where a fit has several budgets. budget: as asked for, relative lines not resolved.
    sources: who said each line of it: "flag", "project", "profile" or "default".
    forecast: predicts latency when no device is attached; `device` is then this host, which computes outputs
        only.
    """

    name: str
    options: FitOptions
    target: Target
    profile: Profile
    budget: Budget
    runtime: str
    device: Device
    forecast: Forecast | None = None
    sources: tuple[tuple[str, str], ...] = ()


def resolve_orders(options: FitOptions) -> tuple[tuple[Order, ...], list[str]]:
    """One order for each budget, and sentences about budgets that were given twice or out of order.

    Raises `InputError` or `MissingExtraError` before anything is written.
    """
    check_processes(options.training)
    runtime = None if options.runtime is None else find(options.runtime)
    machines = [shelved(name) for name in profile_names(options.profile)]
    target = _target(options, machines)
    machines = [_asked(one, options) for one in machines or [shelved(target.profile)]]
    if runtime is not None and runtime.name != target.runtime:
        target = replace(target, runtime=runtime.name, dialect=AUTO, device=runtime.device)
    for one in machines:
        check_dialect(target, one.profile.architecture)
    requested, notes = requested_budgets(
        [one.profile for one in machines], options.budget, options.project_lines
    )
    here = {one.profile for one in machines if one.here}
    place = LOCAL if options.device is None else options.device
    device = open_device(place) if isinstance(place, str) else place

    def order(one: RequestedBudget) -> Order:
        predicted = options.device is None and one.profile not in here
        forecast = forecast_for(one.profile, target.runtime, target.device) if predicted else None
        budget = replace(one.budget, whole_ms=one.budget.latency_ms) if options.whole else one.budget
        return Order(
            one.name, options, target, one.profile, budget, target.runtime, device, forecast, one.sources
        )

    orders = tuple(order(one) for one in requested)
    _check_together(orders)
    for made in orders if options.whole else ():
        _check_whole(made)
    require_host(target.runtime)  # exports are proven here, whatever the device has
    if orders[0].forecast is None:
        _check_architecture(orders[0])
    return orders, [*notes, *_told(orders)]


def _target(options: FitOptions, machines: Sequence[Shelved]) -> Target:
    """The target that was asked for, else the one that the profiles bring, else this machine's.

    Raises `InputError` where they contradict each other.
    """
    brought = {one.profile.name: one.target for one in machines}
    if options.target is None:
        if len(set(brought.values())) > 1:
            told = ", ".join(f"{name} with {target or 'none of its own'}" for name, target in brought.items())
            raise InputError(
                f"The profiles are of different targets: {told}.",
                "Run fit once for each of them, or give one --target for all.",
            )
        return load_target(next(iter(brought.values()), None) or LOCAL)
    target = load_target(options.target)
    for name, other in brought.items():
        if other is None or options.runtime is not None:
            continue
        own = load_target(other)
        if own.runtime != target.runtime:
            raise InputError(
                f"Profile {name} is served with {own.runtime} (target {own.name}), and target {target.name} "
                f"serves with {target.runtime}.",
                f"Leave --target out, or say --runtime {target.runtime} to serve with it there.",
            )
    return target


def _asked(machine: Shelved, options: FitOptions) -> Shelved:
    """Profile with the rows of a query and the threads that were asked for."""
    profile = machine.profile
    profile = replace(
        profile,
        batch=profile.batch if options.batch is None else options.batch,
        threads=profile.threads if options.threads is None else options.threads,
    )
    return replace(machine, profile=profile)


def _told(orders: Sequence[Order]) -> Iterator[str]:
    """Sentences about what was asked that may not be what was meant."""
    first = orders[0]
    if first.forecast is None:
        cores = first.device.machine().cores
        if first.profile.threads > cores:
            yield f"{first.profile.threads} threads will serve on {cores} cores of {first.device.name}."
    for order in orders:
        budget = order.budget
        if not budget.timed and budget.memory_mib is None and budget.size_mib is None:
            yield (
                f"Nothing limits latency, memory or size on {order.profile.name}, so the dense model is the "
                "answer; ask with --latency-ms, --speedup, --memory-mib or --size-mib."
            )


def told_rows(task: Task, order: Order, dense: Captured) -> tuple[str, ...]:
    """Sentence about a batch that is fixed, or about an example of more rows than are timed."""
    if dense.fixed_batch:
        return (told_fixed(dense, task.example),)
    example = task.example
    values = example.values() if isinstance(example, Mapping) else example
    tensor = example if isinstance(example, torch.Tensor) else next(iter(values))
    rows, timed = len(tensor), order.profile.batch
    if rows <= timed:
        return ()
    return (
        f"Task.example has {rows} rows, and a query of {timed} is timed; ask with --batch {rows} for the "
        f"latency of {rows} rows at once.",
    )


def drop_notes(orders: Sequence[Order], task: Task, score: float) -> list[str]:
    """Sentences of `check_drop` about the orders. score: of the dense model. Raises `InputError`."""
    notes = [check_drop(order.budget, dict(order.sources), task.metric, score) for order in orders]
    return list(dict.fromkeys(note for note in notes if note is not None))


def resume_key(
    orders: Sequence[Order],
    workshop: Workshop,
    score: float | None = None,
    *,
    moves: bool = False,
) -> Mapping[str, object]:
    """Everything that measurements depend on: a run is resumed only with an equal key.

    score: of the dense model, as `evaluate` gives it now; `check_evaluation` compares it. moves: whether the
    calibration data are others in each pass, as of a loader that shuffles: they are then no part of the key.
    How trials recover is only noted: each tells it itself, and is done again where another way is asked for.
    A new entry is a record with a default for each field: in a ledger without it, these are what counts.
    """
    order, *others = orders
    options = order.options
    asked: dict[str, object] = _compared(order)
    if others:
        asked = {f"budget {number}": _compared(one) for number, one in enumerate(orders, 1)}
    return {
        "model": _fingerprint(workshop, () if moves else workshop.calibration),
        "target": order.target,
        **asked,
        "runtime": order.runtime,
        "device": order.device.name if order.forecast is None else "none",
        "criterion": workshop.criterion.key,
        "recover": Noted(options.recover),
        EPOCHS: Noted(options.epochs),
        "minutes": Noted(options.minutes),
        "seed": options.seed,
        "metric": workshop.task.direction,
        "outputs": workshop.yardstick.outputs.words,
        EVALUATION: Noted(score),
    }


def _compared(order: Order) -> dict[str, object]:
    """Machine and budget of an order; who said the budget changes no answer."""
    return {"profile": replace(order.profile, unsaid=()), "budget": order.budget}


def check_evaluation(ledger: Ledger, score: float, task: Task, workshop: Workshop, listen: Listen) -> None:
    """Refuse to resume a run with an evaluation that scores the dense model otherwise than when it began.

    An evaluation that gives another score now, when it is asked again, is random: one draw says nothing about
    another, so it is told and not compared. A run of an earlier version has no score to compare with.
    Raises `InputError`.
    """
    then = ledger.noted(EVALUATION).value
    if not isinstance(then, float) or _same(then, score):
        return
    again = call_evaluate(task, workshop.predict)
    if _same(score, again):
        raise InputError(
            f"evaluate gives the dense model {score:.6g} now, and gave {then:.6g} when the run began.",
            "Resume with the evaluation and the data that the run began with, or choose another --out.",
        )
    told = f"evaluate gave the dense model {score:.6g}, then {again:.6g}: it is random, and was not compared"
    listen(Event("dense", f"{told} with the one that the run began with", lasting=True))


def _same(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=SAME_SCORE, abs_tol=SAME_SCORE**2)


def served(order: Order, artefact: Path) -> Load:
    """Load of an artefact, as the device serves it."""
    return Load(
        order.runtime,
        artefact,
        order.profile.threads,
        device=order.target.device,
        batch=order.profile.batch,
        memory_mib=order.budget.memory_mib,
    )


def _check_architecture(order: Order) -> None:
    machine, found = order.profile, order.device.machine().architecture
    if found != machine.architecture:
        raise InputError(
            f"Profile {machine.name} is {machine.architecture}, and {order.device.name} is {found}.",
            "Measure on a machine of that kind, or give the profile of this one with --profile.",
        )


def _check_whole(order: Order) -> None:
    """Refuse a budget of whole queries without milliseconds, or with a model that is served elsewhere."""
    if order.budget.whole_ms is None:
        raise InputError(
            "--whole limits the milliseconds of whole queries, and "
            + ("a speed-up is the model's." if order.budget.timed else "no latency is limited."),
            "Give --latency-ms as well.",
        )
    if not timed_here(order):
        raise InputError(
            "--whole adds what comes before and after the model on this machine, and the model is "
            + ("predicted." if order.forecast is not None else f"on {order.device.name}."),
            "Leave --whole out, and ask for what the model may take with --latency-ms.",
        )


def timed_here(order: Order) -> bool:
    """Whether the model is served on this machine, so that the user's parts can be timed with it."""
    return order.forecast is None and order.device.name == LOCAL


def _check_together(orders: Sequence[Order]) -> None:
    """Refuse orders that differ in how artefacts are made or measured: one search answers them all."""
    first = orders[0]
    for other in orders[1:]:
        pairs = zip(_shared(first), _shared(other), strict=False)
        differing = next(
            ((what, one, another) for (what, one), (_, another) in pairs if one != another), None
        )
        if differing is not None:
            what, one, another = differing
            raise InputError(
                f"Profiles {first.profile.name} and {other.profile.name} cannot be answered by one search: "
                f"{what} is {one} in the first and {another} in the second.",
                "Run fit once for each of them, each with its own --out.",
            )


def _shared(order: Order) -> list[tuple[str, object]]:
    """Facts that all budgets of a fit must agree on."""
    found: list[tuple[str, object]] = [
        ("architecture", order.profile.architecture),
        ("batch", order.profile.batch),
        ("the latency", "measured" if order.forecast is None else "predicted"),
    ]
    if order.forecast is not None:
        return [*found, ("the GPU that TensorRT builds for", order.forecast.capability)]
    return [*found, ("threads", order.profile.threads), ("percentile", order.budget.percentile)]


def _fingerprint(workshop: Workshop, calibration: Iterable[tuple[torch.Tensor, ...]]) -> str:
    """SHA-256 of the graph, the weights (earlier ones too), the example's shapes, the calibration data."""
    digest = hashlib.sha256()
    dense = workshop.dense
    digest.update(dense.module.code.encode())
    if workshop.lengths is not None:
        digest.update(repr(workshop.lengths).encode())
    for weights in (dense.module.state_dict(), workshop.task.earlier or {}):
        for name, tensor in sorted(weights.items()):
            digest.update(name.encode())
            digest.update(_bytes(tensor))
    for batch in calibration:
        for tensor in batch:
            digest.update(repr(tuple(tensor.shape)).encode())
            digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
