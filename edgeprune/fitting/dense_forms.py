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
from edgeprune.records.trial import DENSE_INT8, Candidate, Measurement, limited_lines
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
    A variant that takes more of the budget than the float model is no start.
    """
    failed: list[str] = []
    useless: set[bool] = set()  # whether of dynamic ranges: their kernels are others than those of fixed ones
    try:
        mixture = Survey(trials).mixture(PLAIN) if trials.budget.timed else Mixture()
        for name, candidate in _in_turn(trials, list(_variants(trials, mixture))):
            dynamic = candidate.calibrator == DYNAMIC
            if dynamic in useless:
                continue
            tested = trials.run(name, candidate)
            if trials.allows(tested.metric):
                name = _without_slow_layers(trials, name)
            if not _pays(trials, name):
                useless.add(dynamic)
            elif trials.allows(trials.tested[name].metric):
                return name
            else:
                failed.append(name)
    except NothingToQuantise:
        return DENSE
    if not failed:
        return DENSE
    base = min(failed, key=lambda name: trials.direction.cost(trials.tested[name].metric))
    given = _given_back(trials, base)
    if given != DENSE and (trials.use(given) <= 1 or not _costly(trials, base, given)):
        return given
    trained = _trained(trials, base, rung)
    if trained and trials.allows(trials.tested[trained].metric) and _pays(trials, trained):
        return trained
    return given


def trained_for_int8(trials: Trials, name: str, rung: str) -> str:
    """Name of the trial to prove in place of `name`: trained on for INT8 when that alone broke the metric."""
    tested = trials.tested[name]
    broken = tested.candidate.precision == "int8" and not trials.allows(tested.metric)
    if not broken or not trials.allows(trials.float_metric(name)):
        return name
    trained = _trained(trials, name, rung, start=name)
    return (
        trained if trained and trials.direction.better(trials.tested[trained].metric, tested.metric) else name
    )


def _trained(trials: Trials, name: str, rung: str, *, start: str | None = None) -> str | None:
    """Name of the trial whose weights are trained for the INT8 variant `name`; None without training."""
    untrainable = trials.tested[name].candidate.calibrator == DYNAMIC  # there is no range to train for
    if not find_way(rung).trains or not trials.order.options.training.trains or untrainable:
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

    Where INT8 stands and latency alone is short, its products are faster than those of 4 bits, unless a query
    uses weights so rarely that reading them is most of its time.
    """
    workshop = trials.workshop
    if not workshop.dialect.blocks:
        return
    of_products = workshop.share_of_products >= PRODUCTS
    rarely_used = start == DENSE or workshop.uses_of_weights <= FEW
    if _roomy(trials, start) and not (of_products and rarely_used):
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
        if not trials.allows(tested.metric):
            name = _given_back(trials, name)
        if name != DENSE:
            yield name


def _without_slow_layers(trials: Trials, name: str) -> str:
    """Name of the variant that breaks less: `name`, or it with the layers in INT8 that only time left in
    float.

    It is tried where `name` breaks another line than latency, which such layers do not help to hold.
    """
    candidate = trials.tested[name].candidate
    if not candidate.slow_layers or _roomy(trials, name):
        return name
    whole = f"{name}-whole"
    tested = trials.run(whole, replace(candidate, slow_layers=()))
    better = trials.allows(tested.metric) and _standing(trials, whole) < _standing(trials, name)
    return whole if better else name


def _roomy(trials: Trials, name: str) -> bool:
    """Whether a trial holds every line of the budget but perhaps the latency."""
    lines = limited_lines(trials.tested[name].measurement, trials.budget)
    return all(value <= limit for line, (value, limit) in lines.items() if line != "latency_ms")


def _pays(trials: Trials, name: str) -> bool:
    """Whether a variant holds the lines of the budget, or is nearer to them than the dense model.

    A line that the budget does not have decides nothing.
    """
    return trials.use(name) <= 1 or _standing(trials, name) < _standing(trials, DENSE)


def _standing(trials: Trials, name: str) -> float:
    """Largest share of a budget line that a trial takes.

    Latency in proportion to the medians, each in times of the dense model that ran in turn: a burst of load
    would decide by the tail, a slow spell by when a trial was measured.
    """
    lines, dense = trials.uses(name), trials.uses(DENSE)
    if "latency_ms" in lines:
        own, whole = (_in_turn_with_dense(trials.tested[each].measurement) for each in (name, DENSE))
        lines["latency_ms"] = dense["latency_ms"] * own / whole
    return max(lines.values(), default=0.0)


def _in_turn_with_dense(measured: Measurement) -> float:
    """Median of a session in times of the dense model's milliseconds in it, or itself without these."""
    return measured.latency.p50_ms / (measured.reference_ms or 1.0)


def _costly(trials: Trials, base: str, given: str) -> bool:
    """Whether layers that went back to float cost much of what INT8 gained."""
    in_float, in_int8, mixed = (_standing(trials, name) for name in (DENSE, base, given))
    return mixed - in_int8 > COSTLY * (in_float - in_int8)


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
        return given if trials.allows(tested.metric) and _pays(trials, given) else None

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
