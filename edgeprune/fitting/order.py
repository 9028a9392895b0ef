"""What was ordered: target, profiles and budgets, resolved and checked before anything runs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from edgeprune.devices import Device, Load, open_device
from edgeprune.errors import InputError
from edgeprune.fitting.budgets import Given, Wish, loads, wishes
from edgeprune.latency.forecast import Forecast, forecast_for
from edgeprune.make import Workshop
from edgeprune.records.codec import JSON, to_json
from edgeprune.records.machine import Budget, Profile, Target
from edgeprune.runtimes import TABLE as RUNTIMES
from edgeprune.runtimes import require_host
from edgeprune.shelf import load_profile, load_target

LOCAL = "local"


@dataclass(frozen=True)
class Order:
    """What one budget of a fit asks for: target, profile, the unresolved budget, and choices.

    name: of the tier that answers it, where there are several.
    forecast: predicts when no device is attached; `device` is then this host, which computes outputs only.
    """

    name: str
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


def facts(orders: Sequence[Order], workshop: Workshop) -> Mapping[str, JSON]:
    """All that the answer depends on, for the ledger: a run is resumed only with equal facts."""
    order, *others = orders
    asked: dict[str, JSON] = {"profile": to_json(order.profile), "budget": to_json(order.budget)}
    if others:
        asked = {
            f"budget {at}": {"profile": to_json(one.profile), "budget": to_json(one.budget)}
            for at, one in enumerate(orders, 1)
        }
    return {
        "model": _fingerprint(workshop),
        "target": to_json(order.target),
        **asked,
        "runtime": order.runtime,
        "device": order.device.name if order.forecast is None else "none",
        "criterion": order.criterion,
        "recover": order.recover,
        "epochs": order.epochs,
        "seed": order.seed,
    }


def place(
    *,
    target: str | Path,
    profile: str | Path | Sequence[str | Path] | None,
    budget: Mapping[str, Given],
    device: Device | str | None,
    runtime: str | None,
    criterion: str,
    recover: str | None,
    epochs: int,
    seed: int,
) -> tuple[tuple[Order, ...], list[str]]:
    """One order for each budget, names resolved to records, and sentences about what was changed in them.

    Raises `InputError` or `MissingExtraError` before anything is written.
    """
    platform = load_target(target)
    machines = [load_profile(each) for each in loads(profile, platform.profile)]
    chosen = runtime or platform.runtime
    if chosen not in RUNTIMES:
        raise InputError(
            f"Target {platform.name} serves with {chosen}, which this edgeprune cannot build for.",
            f"It builds for {', '.join(RUNTIMES)}: choose one with --runtime, or another target.",
        )
    asked, notes = wishes(machines, budget)
    where = device if device is not None else LOCAL
    opened = open_device(where) if isinstance(where, str) else where

    def order(wish: Wish) -> Order:
        predicted = device is None and wish.profile.name != LOCAL
        return Order(
            name=wish.name,
            target=platform,
            profile=wish.profile,
            budget=wish.budget,
            runtime=chosen,
            device=opened,
            criterion=criterion,
            recover=recover,
            epochs=epochs,
            seed=seed,
            forecast=forecast_for(wish.profile, chosen, platform.device) if predicted else None,
        )

    orders = tuple(order(wish) for wish in asked)
    _check_together(orders)
    require_host(chosen)  # exports are proven here, whatever the device has
    if epochs < 0:
        raise InputError(f"--epochs is {epochs}.", "Give 0 or more.")
    if orders[0].forecast is not None:
        return orders, notes
    machine, found = orders[0].profile, opened.machine().architecture
    if found != machine.architecture:
        raise InputError(
            f"Profile {machine.name} is {machine.architecture}, and {opened.name} is {found}.",
            "Measure on a machine of that kind, or give the profile of this one with --profile.",
        )
    return orders, notes


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


def _check_together(orders: Sequence[Order]) -> None:
    """One search makes artefacts of one kind; on a device, it measures them in one way."""
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
    """What all budgets of a fit must agree on."""
    found: list[tuple[str, object]] = [
        ("architecture", order.profile.architecture),
        ("batch", order.profile.batch),
        ("the latency", "measured" if order.forecast is None else "predicted"),
    ]
    if order.forecast is not None:
        return [*found, ("the GPU that TensorRT builds for", order.forecast.capability)]
    return [*found, ("threads", order.profile.threads), ("percentile", order.budget.percentile)]


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
