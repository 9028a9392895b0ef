"""Profiles of finished trials on the device, layer by layer: evidence for the report, never a condition."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

from edgeprune.errors import EdgepruneError
from edgeprune.fitting.order import served
from edgeprune.fitting.space.space import FLOOR
from edgeprune.fitting.trials.runner import Trials
from edgeprune.graph import onnxfile
from edgeprune.graph.coupling import Coupling
from edgeprune.graph.fx import module_name
from edgeprune.latency.layer_profile import (
    LayerOperators,
    layer_kernels,
    layer_nodes,
    layer_operators,
)
from edgeprune.latency.measured import PROFILE_RUNS
from edgeprune.latency.operator_cost import operator_ms
from edgeprune.records.trial import LayerFacts, LayerTimes
from edgeprune.runtimes import find
from edgeprune.search.ranking import narrowest_width, width_step

_log = logging.getLogger(__name__)


def layer_times(trials: Trials, names: Iterable[str]) -> tuple[LayerTimes, ...]:
    """Times of the layers of trials and facts about them, where a device runs an ONNX file and tells.

    Where latency is not limited there are none. Each is recorded once. What fails is logged, and its trial
    left out; what an earlier version recorded without facts is timed again when the run is resumed.
    """
    order = trials.order
    if order.forecast is not None or not trials.budget.timed or find(order.runtime).builds_engine:
        return ()
    found = []
    for name in dict.fromkeys(names):
        if trials.device_side.artefact(name).suffix == ".onnx":
            work = partial(_profiled, trials, name)
            found.append(trials.once(f"{name}-layers", work, LayerTimes, lasts=_lasts))
    return tuple(each for each in found if each.layers)


def _lasts(times: LayerTimes) -> bool:
    """Whether a record is kept by a resumed run: with facts, or of a profile that failed."""
    return bool(times.facts) or not times.layers


def _profiled(trials: Trials, name: str) -> LayerTimes:
    """Profile of one trial, its sum scaled to the median of the trial's queries; empty where it fails."""
    side, order = trials.device_side, trials.order
    trials.tell(name, "timing its layers")
    try:
        with order.device.start(replace(side.load(name), profile=True)) as session:
            operators = session.operators(side.feeds(side.rows(order.profile.batch))[0], runs=PROFILE_RUNS)
    except EdgepruneError as error:
        _log.info("%s: its layers are not timed: %s", name, error.what)
        return LayerTimes(name, ())
    profile = layer_operators(onnxfile.load(side.artefact(name)), operators)
    whole = sum(each.ms for each in profile.values())
    if whole <= 0:
        return LayerTimes(name, ())
    scale = trials.tested[name].measurement.latency.p50_ms / whole
    layers = tuple((layer, scale * each.ms) for layer, each in profile.items())
    return LayerTimes(name, layers, tuple(_facts(trials, name, profile, scale)), _operator_ms(trials, name))


def _operator_ms(trials: Trials, name: str) -> float | None:
    """Fixed cost of an operator on the device; None where it failed or was not told apart."""
    order = trials.order
    try:
        return operator_ms(order.device, served(order, trials.device_side.artefact(name)))
    except EdgepruneError as error:
        _log.info("the fixed cost of an operator is not known: %s", error.what)
        return None


def _facts(
    trials: Trials, name: str, profile: Mapping[str, LayerOperators], scale: float
) -> Iterator[LayerFacts]:
    """Facts about the profiled layers of a trial. scale: from milliseconds of the profile to those told."""
    artefact, order = trials.device_side.artefact(name), trials.order
    kernels = layer_kernels(artefact, order.profile.batch, trials.device_side.lengths[0])
    nodes = layer_nodes(onnxfile.load(artefact))
    outputs = layer_outputs(trials.workshop.coupling, order.target.channel_multiple)
    integers = frozenset(trials.tested[name].layers_int8)
    for layer, each in profile.items():
        launches = kernels.get(layer, [])
        heaviest = max(launches, key=lambda launch: launch.macs, default=None)
        output = outputs.get(layer, LayerOutputs((), ""))
        yield LayerFacts(
            layer=layer,
            operator=nodes.get(layer, ""),
            int8=layer in integers,
            numbers="float32" if heaviest is None else heaviest.numbers,
            operators=each.operators,
            converting_ms=scale * each.converting_ms,
            macs=sum(launch.macs for launch in launches) if kernels else None,
            traffic=sum(launch.traffic for launch in launches) if kernels else None,
            groups=output.groups,
            frozen=output.frozen,
        )


@dataclass(frozen=True)
class LayerOutputs:
    """Outputs of one layer: the groups that they belong to with their narrowest widths, or why they stay."""

    groups: tuple[tuple[str, int], ...]
    frozen: str


def layer_outputs(coupling: Coupling, channel_multiple: int) -> dict[str, LayerOutputs]:
    """Outputs by layer, of each layer with a parameter that has any. Layers are named by their module."""
    groups: dict[str, dict[str, int]] = defaultdict(dict)
    for group in coupling.groups:
        step = width_step(group.units, channel_multiple)
        least = narrowest_width(group.units, step, group.least, FLOOR)
        for axis in group.axes:
            if axis.role == "out":
                groups[module_name(axis.parameter)][group.name] = least
    frozen: dict[str, str] = {}
    for each in coupling.frozen_outputs:
        by = each.op if each.node in (each.op, each.name) else f"{each.op} ({each.node})"
        frozen.setdefault(module_name(each.name), f"{by}: {each.reason}")
    return {
        layer: LayerOutputs(tuple(groups[layer].items()), "" if groups[layer] else frozen.get(layer, ""))
        for layer in {**groups, **frozen}
    }
