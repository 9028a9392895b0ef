"""What was ordered: target, profile and budget, resolved and checked before anything runs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch

from edgeprune.devices import Device, Load, open_device
from edgeprune.errors import InputError
from edgeprune.fitting.forecast import Forecast, forecast_for
from edgeprune.make import Workshop
from edgeprune.records.codec import JSON, to_json
from edgeprune.records.machine import Budget, Profile, Target
from edgeprune.records.trial import Latency
from edgeprune.runtimes import TABLE as RUNTIMES
from edgeprune.runtimes import require_host
from edgeprune.shelf import load_profile, load_target

LOCAL = "local"


@dataclass(frozen=True)
class Order:
    """One fit's target, profile, unresolved budget, and choices.

    forecast: predicts when no device is attached; `device` is then this host, which computes outputs only.
    """

    target: Target
    profile: Profile
    budget: Budget
    runtime: str
    device: Device
    criterion: str
    recover: str | None
    epochs: int
    seed: int
    forecast: Forecast | None = None

    def facts(self, workshop: Workshop) -> Mapping[str, JSON]:
        """All that the answer depends on, for the ledger: a run is resumed only with equal facts."""
        return {
            "model": _fingerprint(workshop),
            "target": to_json(self.target),
            "profile": to_json(self.profile),
            "budget": to_json(self.budget),
            "runtime": self.runtime,
            "device": self.device.name if self.forecast is None else "none",
            "criterion": self.criterion,
            "recover": self.recover,
            "epochs": self.epochs,
            "seed": self.seed,
        }


def place(
    *,
    target: str | Path,
    profile: str | Path | None,
    budget: Mapping[str, float | None],
    device: Device | str | None,
    runtime: str | None,
    criterion: str,
    recover: str | None,
    epochs: int,
    seed: int,
) -> Order:
    """Resolve names to records. Raises `InputError` or `MissingExtraError` before anything is written."""
    platform = load_target(target)
    machine = load_profile(profile if profile is not None else platform.profile)
    chosen = runtime or platform.runtime
    if chosen not in RUNTIMES:
        raise InputError(
            f"Target {platform.name} serves with {chosen}, which this edgeprune cannot build for.",
            f"It builds for {', '.join(RUNTIMES)}: choose one with --runtime, or another target.",
        )
    forecast = None
    if device is None and machine.name != LOCAL:
        forecast = forecast_for(machine, chosen, platform.device)
    where = device if device is not None else LOCAL
    order = Order(
        target=platform,
        profile=machine,
        budget=_overridden(machine.budget, budget),
        runtime=chosen,
        device=open_device(where) if isinstance(where, str) else where,
        criterion=criterion,
        recover=recover,
        epochs=epochs,
        seed=seed,
        forecast=forecast,
    )
    require_host(chosen)  # exports are proven here, whatever the device has
    if epochs < 0:
        raise InputError(f"--epochs is {epochs}.", "Give 0 or more.")
    if forecast is not None:
        return order
    found = order.device.machine().architecture
    if found != machine.architecture:
        raise InputError(
            f"Profile {machine.name} is {machine.architecture}, and {order.device.name} is {found}.",
            "Measure on a machine of that kind, or give the profile of this one with --profile.",
        )
    return order


def served(order: Order, artefact: Path) -> Load:
    """How the device serves an artefact of this fit."""
    return Load(
        order.runtime,
        artefact,
        order.profile.threads,
        device=order.target.device,
        batch=order.profile.batch,
        memory_mib=order.budget.memory_mib,
    )


def _overridden(budget: Budget, flags: Mapping[str, float | None]) -> Budget:
    """Flags override the profile line by line; milliseconds replace a speed-up and vice versa."""
    given = {name: value for name, value in flags.items() if value is not None}
    if "latency_ms" in given and "speedup" in given:
        raise InputError("Both --latency-ms and --speedup were given.", "Give one of them.")
    for name, value in given.items():
        if not value > 0 and not (name == "max_drop" and value == 0):
            raise InputError(f"The budget's {name} is {value}.", "Give a positive number.")
    if "latency_ms" in given:
        budget = replace(budget, speedup=None)
    if "speedup" in given:
        budget = replace(budget, latency_ms=None)
    return replace(budget, **cast("Any", given))


def resolved(budget: Budget, dense: Latency) -> Budget:
    """A speed-up becomes milliseconds: the dense float model's percentile divided by it.

    The percentile itself and not its upper bound, which would make the budget the wider the less is known.
    """
    if budget.speedup is None:
        return budget
    known = {50: dense.p50_ms, 90: dense.p90_ms, 99: dense.p99_ms}
    dense_ms = known.get(budget.percentile, compared_ms(dense))
    return replace(budget, latency_ms=dense_ms / budget.speedup)


def compared_ms(latency: Latency) -> float:
    """What a budget's latency is compared with: the bound of the percentile."""
    return latency.max_ms if latency.bound_ms is None else latency.bound_ms


def _fingerprint(workshop: Workshop) -> str:
    """SHA-256 of the graph, the weights (earlier ones too), the example's shapes, the calibration data."""
    digest = hashlib.sha256()
    dense = workshop.dense
    digest.update(dense.module.code.encode())
    for weights in (dense.module.state_dict(), workshop.task.earlier or {}):
        for name, tensor in sorted(weights.items()):
            digest.update(name.encode())
            digest.update(_bytes(tensor))
    for batch in workshop.calibration:
        for tensor in batch:
            digest.update(repr(tuple(tensor.shape)).encode())
            digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
