"""Bottlenecks of a finished fit: what holds the time of each layer of the chosen model, and what could give.

Only what a run recorded is told: its runtime's profile by layer, what each layer computes and moves, the
groups and freezes of its outputs, and the precision that it was given. A layer's time is that of its cause,
but for the conversions in it, which are counted together.

    launch       at least half of it is the runtime's fixed cost of so many operators
    width        its outputs could still be fewer
    float        they could not, and it is in float in an INT8 model
    frozen       they could not, for an operation needs them whole
    narrowest    they could not, for they are as few as is legal

Arithmetic and traffic are held against what a profile's figures promise of the runtime (`latency.roofline`),
or where a profile has none, against the layers of the same run that reach most.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from edgeprune.errors import InputError
from edgeprune.latency.roofline import roofline
from edgeprune.records.trial import FitResult, LayerFacts, LayerTimes, Report
from edgeprune.runtimes import find

Cause = Literal["width", "conversions", "float", "launch", "frozen", "narrowest", "outside", "unrecorded"]
NEXT = 0.1  # share of the latency that is asked for
HALF = 0.5  # share of a rate, or of a layer's time, from which that is what holds it
LEAST_LAYERS = 3  # of one number type, without which no rate is told from the run itself
OPEN: tuple[Cause, ...] = ("width", "conversions", "float")  # causes that another answer could lessen
_WITHOUT_INTEGERS = ("LSTM", "GRU", "RNN")  # operators of which ONNX has no form on integers


@dataclass(frozen=True)
class Rates:
    """Rates that layers are held against, per millisecond. source: sentence about where they come from."""

    macs: Mapping[str, float]  # by number type
    traffic: float | None  # bytes
    source: str


@dataclass(frozen=True)
class Bottleneck:
    """One layer of the chosen model, and the cause that holds its time.

    share: of the model's time. facts: sentences without a full stop, the cause's own among them.
    """

    layer: str
    ms: float
    share: float
    cause: Cause
    facts: tuple[str, ...]


@dataclass(frozen=True)
class CauseTime:
    """Time of all layers that one cause holds, the conversions in them aside."""

    cause: Cause
    ms: float
    layers: tuple[str, ...]  # those with most of it first


@dataclass(frozen=True)
class Bottlenecks:
    """Bottlenecks of one model.

    next_ms: NEXT of its median. layers, causes: those that take most time first; both empty where no layer
        was timed. lacks: sentences about what was not recorded.
    """

    trial: str
    p50_ms: float
    next_ms: float
    layers: tuple[Bottleneck, ...]
    causes: tuple[CauseTime, ...]
    rates: str  # sentence about the rates that layers are held against; empty without any
    lacks: tuple[str, ...]


def bottlenecks(result: FitResult) -> Bottlenecks:
    """Bottlenecks of the chosen model; of several budgets, of the one that decides the verdict."""
    chosen = result.chosen
    p50_ms = chosen.measurement.latency.p50_ms
    timed = next((each for each in result.layers if each.name == chosen.name), None)
    if timed is None:
        return Bottlenecks(chosen.name, p50_ms, NEXT * p50_ms, (), (), "", (_untimed(result),))
    rates = _rates(result)
    facts = {each.layer: each for each in timed.facts}
    whole = sum(ms for _, ms in timed.layers)
    layers = [
        _bottleneck(result, timed, rates, layer, ms, ms / whole, facts.get(layer))
        for layer, ms in timed.layers
    ]
    layers.sort(key=lambda each: each.ms, reverse=True)
    return Bottlenecks(
        chosen.name,
        p50_ms,
        NEXT * p50_ms,
        tuple(layers),
        _causes(layers, facts),
        rates.source if rates is not None else "",
        tuple(_lacking(timed, rates)),
    )


def _bottleneck(
    result: FitResult,
    timed: LayerTimes,
    rates: Rates | None,
    layer: str,
    ms: float,
    share: float,
    facts: LayerFacts | None,
) -> Bottleneck:
    if facts is None:
        return Bottleneck(layer, ms, share, "unrecorded", tuple(_in_float(layer, None, result.chosen)))
    if not facts.operator:
        return Bottleneck(layer, ms, share, "outside", tuple(_converting(facts)))
    free, widths = _widths(facts, result)
    launch = facts.operators * (timed.operator_ms or 0.0)
    in_float = tuple(_in_float(layer, facts, result.chosen))
    cause: Cause = "frozen" if facts.frozen or not facts.groups else "narrowest"
    if launch >= HALF * ms:
        cause = "launch"
    elif free:
        cause = "width"
    elif in_float:
        cause = "float"
    told = (*_bound(facts, ms, launch, rates), *in_float, *widths, *_converting(facts))
    return Bottleneck(layer, ms, share, cause, told)


def _widths(facts: LayerFacts, result: FitResult) -> tuple[bool, tuple[str, ...]]:
    """Whether a layer's outputs could be fewer, and sentences about them."""
    dense, kept = dict(result.baseline.kept), dict(result.chosen.kept)
    free, told = False, []
    for group, least in facts.groups:
        whole = dense.get(group, least)
        units = kept.get(group, whole)
        name = "" if group == facts.layer else f" of group {group}"
        free = free or units > least
        legal = f"narrowest {least}" if units > least else "as few as is legal"
        told.append(f"{units} of {whole} units{name}, {legal}")
    if facts.frozen:
        told.append(f"its outputs are frozen by {facts.frozen}")
    elif not facts.groups:
        told.append("its outputs are in no group that can be pruned")
    return free, tuple(told)


def _bound(facts: LayerFacts, ms: float, launch_ms: float, rates: Rates | None) -> Iterator[str]:
    """Sentence about what a layer's time is bound by, where that was recorded."""
    if launch_ms >= HALF * ms:
        plural = "operator" if facts.operators == 1 else "operators"
        yield f"launch-bound: {facts.operators} {plural}, of which the fixed cost is {launch_ms:.4f} ms"
        return
    if rates is None or facts.macs is None or facts.traffic is None or rates.traffic is None or ms <= 0:
        return
    peak = rates.macs.get(facts.numbers)
    if peak is None:
        return
    arithmetic, traffic = facts.macs / ms / peak, facts.traffic / ms / rates.traffic
    bound = "compute-bound" if arithmetic >= traffic else "memory-bound"
    if max(arithmetic, traffic) < HALF:
        bound = "below both rates"
    yield f"{bound}: {arithmetic:.0%} of the arithmetic, {traffic:.0%} of the traffic per ms"


def _in_float(layer: str, facts: LayerFacts | None, chosen: Report) -> Iterator[str]:
    """Sentence about a layer that is in float in an INT8 model, and why."""
    candidate = chosen.candidate
    if candidate.precision != "int8":
        return
    if layer in candidate.float_layers:
        yield "in float, for INT8 harmed the metric most here for its work"
    elif layer in candidate.slow_layers:
        yield "in float, for INT8 is no quicker here on this device"
    elif layer in candidate.engine_layers:
        yield "in float, for the engine runs it in float all the same"
    elif facts is not None and not facts.int8:
        if facts.operator in _WITHOUT_INTEGERS:
            yield f"in float, for ONNX has no {facts.operator} on integers"
        else:
            yield f"in float, for the INT8 dialect makes no integer {facts.operator} of it"


def _converting(facts: LayerFacts) -> Iterator[str]:
    if facts.converting_ms > 0:
        yield f"{facts.converting_ms:.4f} ms of it are conversions"


def _causes(layers: Sequence[Bottleneck], facts: Mapping[str, LayerFacts]) -> tuple[CauseTime, ...]:
    """Time by cause, most first. The conversions in all layers are a cause of their own."""
    times: dict[Cause, dict[str, float]] = defaultdict(dict)
    for each in layers:
        converting = facts[each.layer].converting_ms if each.layer in facts else 0.0
        if converting > 0:
            times["conversions"][each.layer] = converting
        if each.ms > converting:
            times[each.cause][each.layer] = each.ms - converting
    found = [
        CauseTime(cause, sum(ms.values()), tuple(sorted(ms, key=lambda layer: -ms[layer])))
        for cause, ms in times.items()
    ]
    return tuple(sorted(found, key=lambda each: each.ms, reverse=True))


def _rates(result: FitResult) -> Rates | None:
    """Rates of the profile's figures, else of the quickest layers of the run; None without either."""
    profile = result.profile
    try:
        roof = roofline(profile, find(result.runtime), result.target.device)
    except InputError:
        return _reached(result.layers)
    macs: dict[str, float] = {name: rate / 1e3 for name, rate in roof.macs.items()}
    source = f"Rates are those that {result.runtime} attains of the figures of profile {profile.name}."
    return Rates(macs, roof.bandwidth / 1e3, source)


def _reached(timed: Sequence[LayerTimes]) -> Rates | None:
    """Rates of the layers that reach most, of a number type that enough layers have."""
    by_type: dict[str, list[float]] = defaultdict(list)
    traffic: list[float] = []
    for times in timed:
        ms = dict(times.layers)
        for facts in times.facts:
            if ms.get(facts.layer, 0.0) > 0 and facts.macs and facts.traffic:
                by_type[facts.numbers].append(facts.macs / ms[facts.layer])
                traffic.append(facts.traffic / ms[facts.layer])
    macs = {name: max(found) for name, found in by_type.items() if len(found) >= LEAST_LAYERS}
    if not macs:
        return None
    told = " and ".join(f"{rate / 1e6:.3g} GMAC/s in {name}" for name, rate in macs.items())
    source = (
        f"Rates are those of the layers of this run that reach most, {told}, and {max(traffic) / 1e6:.3g} "
        "GB/s: the profile states no figures of this machine."
    )
    return Rates(macs, max(traffic), source)


def _lacking(timed: LayerTimes, rates: Rates | None) -> Iterator[str]:
    """Sentences about what is not known of a model whose layers were timed, and how to get it."""
    if not timed.facts:
        yield (
            "An earlier version timed the layers and recorded nothing else about them: the same command with "
            "--resume does."
        )
        return
    if timed.operator_ms is None:
        yield (
            "The machine was too restless to tell the runtime's fixed cost of an operator: no layer is "
            "called launch-bound."
        )
    if all(each.macs is None for each in timed.facts):
        yield (
            "What the layers compute depends on the data or on a query's length: none is called "
            "compute-bound or memory-bound."
        )
    elif rates is None:
        yield (
            f"Fewer than {LEAST_LAYERS} layers have one number type and the profile states no figures, so no "
            "layer is called compute-bound or memory-bound: a profile of your own with clock_max and "
            "memory_bandwidth tells."
        )


def _untimed(result: FitResult) -> str:
    """Sentence about a run in which no layer was timed, and how to get its times."""
    if result.chosen.measurement.predicted:
        return "Latency was predicted, so no layer was timed: fit with --device, and the device tells."
    if not result.budget.timed:
        return (
            "Latency was not limited, so no layer was timed: ask with --latency-ms or --speedup and another "
            "--out."
        )
    if find(result.runtime).builds_engine or not result.chosen.artefact.endswith(".onnx"):
        return (
            f"Layers are timed where the runtime runs an ONNX file, and {result.runtime} runs a form of its "
            "own: with --runtime onnxruntime and another --out they are told as that runtime runs them."
        )
    return (
        "The layers were not timed, by an earlier version or since the device had no time for it: the same "
        "command with --resume times them."
    )
