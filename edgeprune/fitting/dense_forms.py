"""INT8 variant of the dense model that everything else starts from.

Layers that the device is no quicker at in INT8 stay float in all variants (`latency.float_layers`). The
metric, measured in the runtime on the device, decides the rest: which calibrator, 8-bit or 7-bit weights,
channels equalised or not, and which further layers go back to float. Variants are compared on a subset, and
evaluated in full in that order (`search.shortlist`) until one holds the metric. Where all of them lose too
much, or too many layers would go back, the weights are trained for the INT8 variant.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from edgeprune.detect import saturates
from edgeprune.errors import NothingToQuantise
from edgeprune.fitting.space.survey import Survey
from edgeprune.fitting.trials.runner import Trials
from edgeprune.fitting.trials.sessions import DENSE
from edgeprune.latency.float_layers import Mixture
from edgeprune.quantize.dynamic import DYNAMIC
from edgeprune.records.machine import Precision
from edgeprune.records.trial import DENSE_INT8, Candidate, limited_lines
from edgeprune.recover.ladder import QAT
from edgeprune.recover.ways import find_way
from edgeprune.search.shortlist import shortlist

# Suffix of a variant's name, its calibrator, whether channels are equalised first.
VARIANTS = (
    ("", "minmax", False),
    ("-mse", "mse", False),
    ("-equalised", "minmax", True),
    ("-percentile", "percentile", False),
)
PLAIN = Candidate((), "int8", "minmax")
PRODUCTS = 0.5  # share of the work from which variants that only matrix products have are tried
FEW = 4  # uses of a weight in a query up to which reading it is most of its time
# Layers in float that cost more than this share of what INT8 gains: training may do without them.
COSTLY = 0.25


def dense_int8(trials: Trials, rung: str) -> str:
    """Name of the trial that pruning starts from: the first INT8 variant that holds the metric, or "dense".

    rung: the recovery way, which may train.
    INT8 that is slower or larger than the float model is not shipped.
    """
    failed: list[str] = []
    try:
        mixture = Survey(trials).mixture(PLAIN)
        for name, candidate in _in_turn(trials, list(_variants(trials, mixture))):
            tested = trials.run(name, candidate)
            if not _pays(trials, name):
                return DENSE
            if tested.metric >= trials.floor:
                return name
            failed.append(name)
    except NothingToQuantise:
        return DENSE
    base = max(failed, key=lambda name: trials.tested[name].metric)
    given = _given_back(trials, base)
    if given != DENSE and not _costly(trials, base, given):
        return given
    trained = _trained(trials, base, rung)
    if trained and trials.tested[trained].metric >= trials.floor and _pays(trials, trained):
        return trained
    return given


def trained_for_int8(trials: Trials, name: str, rung: str) -> str:
    """Name of the trial to prove in place of `name`: trained on for INT8 when that alone broke the metric."""
    tested = trials.tested[name]
    broken = tested.candidate.precision == "int8" and tested.metric < trials.floor
    if not broken or trials.float_metric(name) < trials.floor:
        return name
    trained = _trained(trials, name, rung, start=name)
    return trained if trained and trials.tested[trained].metric > tested.metric else name


def _trained(trials: Trials, name: str, rung: str, *, start: str | None = None) -> str | None:
    """Name of the trial whose weights are trained for the INT8 variant `name`; None without training."""
    untrainable = trials.tested[name].candidate.calibrator == DYNAMIC  # there is no range to train for
    if not find_way(rung).trains or trials.order.options.epochs == 0 or untrainable:
        return None
    trained = f"{name}-{QAT}"
    candidate = replace(trials.tested[name].candidate, recover=rung, qat=True)
    trials.run(trained, candidate, kind="trained", start=start)
    return trained


def _variants(trials: Trials, mixture: Mixture) -> Iterator[tuple[str, Candidate]]:
    """INT8 variants by name, the simplest first; where 8-bit weights saturate, each with 7 bits too."""
    workshop = trials.workshop
    narrow = (False, True) if saturates(trials.order.profile.isa) else (False,)
    dynamic = workshop.dialect.dynamic and workshop.share_of_products >= PRODUCTS
    mixed = DENSE_INT8 + "-mixed" * bool(mixture.slow_layers)
    for words, calibrator, equalised in VARIANTS:
        for reduce_range in narrow:
            variant = Candidate((), "int8", calibrator, reduce_range=reduce_range, equalised=equalised)
            yield mixed + words + "-7bit" * reduce_range, mixture.of(variant)
    for reduce_range in narrow * dynamic:  # other kernels: what was timed says nothing of them
        yield (
            DENSE_INT8 + "-dynamic" + "-7bit" * reduce_range,
            Candidate((), "int8", DYNAMIC, reduce_range=reduce_range),
        )


def _in_turn(trials: Trials, variants: Sequence[tuple[str, Candidate]]) -> Iterator[tuple[str, Candidate]]:
    """Variants that deserve a full evaluation, the most promising first.

    The simplest one goes ahead of all comparison when INT8 does no harm to it on the subset.
    """
    harmless = trials.screen(*variants[0]).error <= trials.subset.slack
    if harmless:
        yield variants[0]
    errors = [trials.screen(name, candidate).error for name, candidate in variants]
    for at in shortlist(errors, trials.subset.slack):
        if at or not harmless:
            yield variants[at]


def light_variants(trials: Trials, start: str) -> Iterator[str]:
    """Names of weight-only variants of the dense model that hold the metric, to try when `start` does not
    fit.

    Where INT8 stands, its products are faster and its file is as small as with 8-bit weights alone: then 4
    bits remain, if room is short, or a query uses weights so rarely that reading them is most of its time.
    """
    workshop = trials.workshop
    if not workshop.dialect.blocks or workshop.share_of_products < PRODUCTS:
        return
    measured = trials.tested[start].measurement
    lines = limited_lines(measured, trials.budget)
    roomy = all(value <= limit for line, (value, limit) in lines.items() if line != "latency_ms")
    if start != DENSE and roomy and workshop.uses_of_weights > FEW:
        return
    precisions: tuple[Precision, ...] = (
        ("int8-weights", "int4-weights") if start == DENSE else ("int4-weights",)
    )
    for precision in precisions:
        name, candidate = f"dense-{precision}", Candidate((), precision)
        try:
            trials.screen(name, candidate)
        except NothingToQuantise:
            return
        tested = trials.run(name, candidate)
        if not _pays(trials, name):
            continue
        if tested.metric < trials.floor:
            name = _given_back(trials, name)
        if name != DENSE:
            yield name


def _pays(trials: Trials, name: str) -> bool:
    """Whether a variant is smaller than the dense model and, unless only its weights are integers, faster.

    Medians: a burst of load would decide by its tail.
    """
    tested, dense = trials.tested[name], trials.dense.measurement
    faster = tested.measurement.latency.p50_ms < dense.latency.p50_ms
    return tested.measurement.size_mib < dense.size_mib and (faster or tested.candidate.precision != "int8")


def _costly(trials: Trials, base: str, given: str) -> bool:
    """Whether layers that went back to float cost much of what INT8 gained."""
    float_ms, int8_ms, given_ms = (
        trials.tested[name].measurement.latency.p50_ms for name in (DENSE, base, given)
    )
    return given_ms - int8_ms > COSTLY * (float_ms - int8_ms)


def _given_back(trials: Trials, name: str) -> str:
    """Name of the variant with the fewest layers given back to float that holds the metric, or "dense".

    Layers that buy most accuracy for their work go first.
    The number of layers doubles until the metric holds, then halves back to the fewest that do.
    """
    base = trials.tested[name].candidate
    hopeless = trials.screened[name].error + trials.subset.slack
    ranked = trials.workshop.fragile_layers(base, trials.tested[name].layers_int8)

    def holds(count: int) -> str | None:
        given = f"{name}-float{count}"
        candidate = replace(base, float_layers=tuple(sorted(ranked[:count])))
        if trials.screen(given, candidate).error > hopeless:  # worse than with all in INT8
            return None
        tested = trials.run(given, candidate)
        return given if tested.metric >= trials.floor and _pays(trials, given) else None

    count, found = 1, None
    while found is None and count <= len(ranked) // 2:
        found = holds(count)
        count *= 2
    if found is None:
        return DENSE
    enough, few = count // 2, count // 4
    while enough - few > 1:
        middle = (enough + few) // 2
        better = holds(middle)
        enough, few, found = (middle, few, better) if better else (enough, middle, found)
    return found
