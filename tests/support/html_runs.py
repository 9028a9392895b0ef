"""Results of fits of every kind that a page must show, made by hand from one: their figures are synthetic."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from edgeprune.records.cpu_time import Waiting
from edgeprune.records.machine import Budget
from edgeprune.records.trial import (
    Breach,
    CascadeResult,
    DeviceState,
    DraftReport,
    Drop,
    FitResult,
    LayerFacts,
    LayerTimes,
    Measurement,
    Occasion,
    Report,
    TierResult,
    Training,
    Verdict,
)
from edgeprune.search.judge import summarise

NASTY = "<script>alert('&')</script> $x_1$ \"quoted\""
STATE = DeviceState(
    before=(("temperature", "41000"), ("throttled", "0")),
    during=(("temperature", "62000"), ("throttled", "1")),
    after=(("temperature", "58000"), ("throttled", "1")),
    moved=("throttled",),
)
WAITING = Waiting(seconds=10.0, cores=4, threads=2, ran_s=9.0, waited_s=0.4, busy_s=10.0, stolen_s=0.2)
OCCASION = Occasion(
    device="ssh://pi@board",
    machine="Cortex-A76, aarch64, 4 cores",
    date="2026-11-30T12:00:00+00:00",
    command="edgeprune fit task.py --target arm",
    versions=(("edgeprune", "0.1.0"), ("torch", "2.13.0")),
    seed=7,
)


def measured(like: Measurement, ms: float, seed: int = 0) -> Measurement:
    """Measurement with a whole distribution around `ms`, a device state and waiting."""
    runs = ms * np.random.default_rng(seed).lognormal(0.0, 0.08, 1000)
    return replace(
        like,
        latency=summarise(runs.tolist(), 90, 10.0),
        reference_ms=8.0 + 0.05 * seed,
        usual_ms=8.0,
        drift=0.01,
        waiting=WAITING,
        state=STATE,
    )


def facts(layer: str, **changes: Any) -> LayerFacts:
    """Facts about an INT8 convolution of 16 units at least, in a group of its own name."""
    plain = LayerFacts(
        layer=layer,
        operator="" if layer == "start" else "Conv",
        int8=True,
        numbers="int8",
        operators=2,
        converting_ms=0.01,
        macs=1_000_000,
        traffic=20_000,
        groups=() if layer == "start" else ((layer, 16),),
        frozen="",
    )
    return replace(plain, **changes)


def whole(result: FitResult, groups: int = 12) -> FitResult:
    """Fit with all that a page can show: wide network, branch that left, recovery, training, drafts."""
    names = [f"layer{at // 4}.{at % 4}.conv{1 + at % 2}" for at in range(groups)]
    dense = tuple((name, 32 * (1 + at // 4)) for at, name in enumerate(names))
    kept = tuple((name, units // 2 if at % 3 else units) for at, (name, units) in enumerate(dense))
    kept = (*kept[:-1], (names[-1], 0), (f"branch:{names[-1]}", 0))
    units = ((names[1], tuple(range(16))),)

    def told(report: Report, ms: float, seed: int, **changes: Any) -> Report:
        return replace(report, measurement=measured(report.measurement, ms, seed), **changes)

    baseline = told(result.baseline, 8.0, 0, kept=dense, metric=0.97)
    candidate = replace(
        result.chosen.candidate, kept=units, slow_layers=(names[0],), float_layers=(names[2],)
    )
    trial = told(result.chosen, 2.1, 2, name="trial-01", candidate=candidate, kept=kept, metric=0.91)
    chosen = replace(
        trial,
        name="final-01",
        metric=0.965,
        candidate=replace(candidate, recover="finetune"),
        recovered=(
            ("reconstruct", 1.8, 0.4, True),
            ("statistics", 0.4, 0.41, False),
            ("finetune", 0.4, 0.06, True),
        ),
        training=(Training("finetune", 3, 120, False, place="cpu (synthetic), float32"),),
        drop=Drop(0.005, -0.002, 0.012, 600, 0.95),
        verdict=Verdict("fits"),
    )
    int8 = told(result.trials[0], 4.0, 1, metric=0.968)
    return replace(
        result,
        baseline=baseline,
        chosen=chosen,
        verdict=chosen.verdict,
        trials=(baseline, int8, trial, chosen),
        frontier=(chosen, int8, baseline),
        budget=Budget(latency_ms=2.5, percentile=90, memory_mib=64.0, size_mib=1.0, max_drop=0.01),
        drafts=(DraftReport("draft-02", measured(trial.measurement, 1.7, 5)),),
        layers=(
            LayerTimes("dense", (("start", 0.1), *((name, 0.5 + 0.1 * at) for at, name in enumerate(names)))),
            LayerTimes(
                "final-01",
                (("start", 0.1), *((name, 0.1 + 0.02 * at) for at, name in enumerate(names[:-1]))),
                tuple(facts(name) for name in ("start", *names[:-1])),
                0.005,
            ),
        ),
        remarks=("no layer is left in float for its speed",),
        occasion=OCCASION,
        sources=(("latency_ms", "flag"),),
    )


def missed(result: FitResult) -> FitResult:
    """Fit that nothing fits: latency, size and metric are broken."""
    verdict = Verdict(
        "misses", (Breach("latency_ms", 4.2, 2.5), Breach("size_mib", 2.0, 1.0), Breach("metric", 0.9, 0.96))
    )
    found = whole(result)
    chosen = replace(found.trials[2], verdict=verdict, metric=0.9)
    chosen = replace(chosen, measurement=replace(measured(chosen.measurement, 4.0, 3), size_mib=2.0))
    return replace(found, chosen=chosen, verdict=verdict, trials=(*found.trials[:2], chosen), bundle=None)


def open_verdict(result: FitResult) -> FitResult:
    """Fit whose proof stayed open."""
    verdict = Verdict("inconclusive")
    found = whole(result)
    return replace(
        found,
        verdict=verdict,
        chosen=replace(found.chosen, verdict=verdict),
        unsettled="final-01 is not proven: other processes took 27 % of its time, in the last session.",
    )


def predicted(result: FitResult) -> FitResult:
    """Fit without a device."""

    def forecast(report: Report, ms: float) -> Report:
        latency = replace(
            report.measurement.latency,
            p50_ms=ms,
            p90_ms=ms,
            p99_ms=ms,
            max_ms=ms,
            bound_ms=None,
            runs=0,
            seconds=0.0,
            percentile_ms=None,
            quantiles_ms=(),
        )
        measurement = replace(
            report.measurement,
            latency=latency,
            assumptions=("a roofline",),
            waiting=None,
            drift=None,
            state=DeviceState((), (), (), ()),
            reference_ms=None,
            usual_ms=None,
        )
        return replace(report, measurement=measurement, verdict=Verdict("predicted"), drop=None)

    found = whole(result)
    return replace(
        found,
        verdict=Verdict("predicted"),
        baseline=forecast(found.baseline, 8.0),
        chosen=forecast(found.chosen, 2.0),
        trials=tuple(forecast(one, 8.0 / at) for at, one in enumerate(found.trials, 1)),
        frontier=(forecast(found.chosen, 2.0),),
        drafts=(),
        layers=(),
    )


def dense_alone(result: FitResult) -> FitResult:
    """Fit that the dense float model answers: no INT8, nothing pruned or recovered, memory alone limited."""
    dense = replace(result.baseline, verdict=Verdict("fits"), kept=(("conv1", 8),), recovered=())
    return replace(
        result,
        baseline=dense,
        chosen=dense,
        verdict=Verdict("fits"),
        trials=(dense,),
        frontier=(dense,),
        budget=Budget(latency_ms=None, memory_mib=64.0, max_drop=0.0),
    )


def tiers(result: FitResult) -> FitResult:
    """Fit with three budgets, the last of them missed, and a cascade of the other two."""
    found = whole(result)
    int8 = replace(found.trials[1], verdict=Verdict("fits"), kept=found.baseline.kept)
    small = replace(
        found.trials[2],
        name="trial-02",
        verdict=Verdict("misses", (Breach("latency_ms", 2.2, 1.2),)),
    )

    def tier(ms: float, chosen: Report) -> TierResult:
        return TierResult(
            name=f"{ms:g} ms",
            verdict=chosen.verdict,
            budget=replace(found.budget, latency_ms=ms),
            baseline=found.baseline,
            chosen=chosen,
            bundle=None,
            profile=found.profile,
        )

    all_tiers = (tier(5.0, int8), tier(2.5, found.chosen), tier(1.2, small))
    cascade = CascadeResult(
        tiers=("2.5 ms", "5 ms"),
        thresholds=(0.93,),
        calibrated_on=300,
        shares=(0.8, 0.2),
        metric=0.966,
        metric_alone=0.968,
        drop=Drop(0.002, -0.004, 0.008, 300, 0.95),
        cost_ms=2.9,
        cost_alone_ms=4.1,
        memory_mib=25.0,
    )
    return replace(
        found,
        verdict=small.verdict,
        chosen=small,
        budget=all_tiers[2].budget,
        trials=(*found.trials, small),
        tiers=all_tiers,
        cascade=cascade,
    )


def nasty(result: FitResult) -> FitResult:
    """Fit whose names of groups, layers, metric, sensors, folder and command are HTML and mathematics."""
    found = whole(result, groups=4)
    rename = {name: f"{NASTY}.{at}" for at, (name, _) in enumerate(found.baseline.kept)}

    def named(report: Report) -> Report:
        return replace(
            report,
            kept=tuple((rename.get(name, f"branch:{NASTY}"), units) for name, units in report.kept),
            candidate=replace(report.candidate, float_layers=(NASTY,)),
            measurement=replace(
                report.measurement, state=DeviceState(((NASTY, NASTY),), ((NASTY, "1"),), (), (NASTY,))
            ),
        )

    return replace(
        found,
        metric=NASTY,
        baseline=named(found.baseline),
        chosen=named(found.chosen),
        out=f"runs/{NASTY}",
        layers=tuple(replace(each, layers=((NASTY, 1.0), *each.layers)) for each in found.layers),
        remarks=(NASTY,),
        occasion=replace(OCCASION, command=f"edgeprune fit {NASTY}"),
    )


def many_groups(result: FitResult) -> FitResult:
    """Fit of a network with more groups than a picture can name."""
    return whole(result, groups=160)


def earlier(result: FitResult) -> FitResult:
    """Fit of an earlier version, which stored no quantiles, occasion, sensors or waiting."""
    return result


KINDS = (whole, missed, open_verdict, predicted, dense_alone, tiers, nasty, many_groups, earlier)
