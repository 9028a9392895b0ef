"""Candidates, their measurements and verdicts, and the result of a fit."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from edgeprune.records.brief import Brief
from edgeprune.records.cpu_time import Waiting
from edgeprune.records.direction import Direction
from edgeprune.records.machine import Budget, Precision, Profile, Target
from edgeprune.records.whole_query import WholeQueries

DENSE_INT8 = "dense-int8"  # beginning of the names of trials of the dense model in INT8
LEAST_LEFT = 1e-3  # of a budget of whole queries: what a model has whose queries take all of it without it

VerdictKind = Literal["fits", "predicted", "misses", "inconclusive"]


@dataclass(frozen=True)
class Latency:
    """Distribution of single-query latency; in a prediction (0 runs) all figures are the predicted one.

    `bound_ms` is the early-stopping upper bound of `percentile` at 99 % confidence (MLPerf Inference
    rules, "early stopping"), in the slowest third of the session when its reference drifted; it is None
    when the runs are too few for one.

    quantiles_ms: [101], the percentiles 0 to 100 of the runs that count, for drawing; empty in a prediction
        and in what earlier versions wrote.
    """

    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    percentile: int
    bound_ms: float | None
    runs: int
    seconds: float
    percentile_ms: float | None = None  # `percentile` itself; None in what earlier versions wrote
    quantiles_ms: tuple[float, ...] = ()


@dataclass(frozen=True, repr=False)
class DeviceState(Brief):
    """Sensors and throttle counters of a device around a session; each entry is (name, text as read)."""

    before: tuple[tuple[str, str], ...]
    during: tuple[tuple[str, str], ...]  # the reading farthest from `before`, per name
    after: tuple[tuple[str, str], ...]
    moved: tuple[str, ...]  # throttle counters and flags that changed: they mark the run


@dataclass(frozen=True)
class ErrorBar:
    """Error bar of a prediction: the ends of each figure, if it is as far off as others were seen to be."""

    latency_ms: tuple[float, float]
    memory_mib: tuple[float, float]


@dataclass(frozen=True, repr=False)
class Measurement(Brief):
    """Latency, memory and size of one artefact on one device, measured in a fresh process or predicted."""

    latency: Latency
    # Peak memory that the model adds to an empty runner with the runtime imported.
    added_mib: float = field(metadata={"earlier": ("memory_mib",)})
    size_mib: float  # the artefact's files on disk
    artefact_sha256: str
    runtime: str  # name and version, e.g. "onnxruntime 1.32.0"
    threads: int
    batch: int
    drift: float | None  # relative change of the interleaved reference, None when there was none
    conclusive: bool  # False when a throttle flag moved, or when the session was disturbed and its slowest
    # third was not within the budget's latency (`search.judge.session_bound` has the rule, `unsettled` why)
    state: DeviceState
    reference_ms: float | None = None  # of the interleaved reference, the machine's speed just then: its
    # median, or the percentile that is bounded where that is lower
    usual_ms: float | None = None  # of the reference, as other sessions had told it before this one
    # Of the dense model that ran in turn, in a proof: the percentile that the artefact's bound is about, and
    # its lower bound at the same confidence.
    dense_percentile_ms: float | None = None
    dense_low_ms: float | None = None
    waiting: Waiting | None = None  # while the artefact was timed; None in what earlier versions wrote
    set_aside: float = 0.0  # share of the artefact's runs that waited for a CPU and do not count, in a search
    assumptions: tuple[str, ...] = ()  # of a prediction of latency and memory; empty when they were measured
    error_bar: ErrorBar | None = None  # of a prediction; None in what earlier versions wrote
    # Peak memory of the process that serves, the runtime included; None in what earlier versions wrote.
    process_mib: float | None = None
    whole: WholeQueries | None = None  # of a proof whose budget is of whole queries

    @property
    def memory_mib(self) -> float:
        """Peak memory that a budget limits: the process's, as a person sees it.

        A record of an earlier version knows only what the model added, and its budget was about that.
        """
        return self.added_mib if self.process_mib is None else self.process_mib

    @property
    def predicted(self) -> bool:
        return bool(self.assumptions)


@dataclass(frozen=True, repr=False)
class Candidate(Brief):
    """Full recipe of a compressed model, replayable on the original weights."""

    kept: tuple[tuple[str, tuple[int, ...]], ...]  # group name -> indices of the units kept, ascending
    precision: Precision
    calibrator: str | None = None  # of quantize.calibrate.TABLE, or "dynamic"; None for a float artefact
    float_layers: tuple[str, ...] = ()  # layers that stay float in an INT8 artefact, for the metric
    engine_layers: tuple[str, ...] = ()  # layers that the engine ran in float all the same
    slow_layers: tuple[str, ...] = ()  # layers that stay float because INT8 makes them no faster
    reduce_range: bool = False  # 7-bit weights: exact on x86 machines without VNNI
    equalised: bool = False  # channels rescaled first: equalisation, and smoothing behind norms
    recover: str = "none"  # a rung of the recovery ladder, or one that trains
    qat: bool = False  # then trained with simulated INT8, with labels unless `recover` is "distill"
    convolved: bool = False  # integer products written as 1x1 convolutions, which the device runs faster
    # The trial of a larger budget whose trained weights were offered as a start.
    warm_start: str | None = field(default=None, metadata={"earlier": ("after",)})

    @property
    def in_float(self) -> tuple[str, ...]:
        """All layers that stay float in an INT8 artefact."""
        return tuple(sorted({*self.float_layers, *self.engine_layers, *self.slow_layers}))


Line = Literal["latency_ms", "memory_mib", "size_mib", "metric"]


@dataclass(frozen=True)
class Breach:
    """Budget line that a candidate breaks: `value` was measured where `limit` is allowed."""

    line: Line
    value: float
    limit: float

    @property
    def excess(self) -> float:
        """Distance from the limit, in the line's own unit, as a positive number."""
        return abs(self.value - self.limit)


@dataclass(frozen=True)
class Drop:
    """Drop of a metric against the baseline, estimated sample by sample; negative where it got better.

    low, high: two-sided confidence interval.
    p: of the hypothesis that nothing was lost or gained (McNemar, exact); None when samples are not
        right or wrong.
    """

    value: float
    low: float
    high: float
    samples: int
    confidence: float
    p: float | None = None

    def exceeds(self, allowed: float) -> bool:
        """Whether even the low end of the confidence interval is above `allowed`."""
        return self.low > allowed


@dataclass(frozen=True)
class Verdict:
    """The judgement of a measurement and a metric against a budget, with every line that broke."""

    kind: VerdictKind
    breaches: tuple[Breach, ...] = ()


@dataclass(frozen=True)
class Training:
    """Training of a candidate by one rung of the recovery ladder.

    epochs: begun. steps: of the optimiser, in all epochs.
    falling: whether its loss still fell at the end, beyond the scatter of its steps; None where the task's
        own loop trained, and nobody knows.
    averaged: whether the weights are an average over its steps. stopped: before its epochs or its time were
        over, since the held-back error fell no more. learning_rate: the highest one.
    place: device and number type of its products; empty for a loop of the task's own and in what earlier
        versions wrote.
    """

    rung: str
    epochs: int
    steps: int
    falling: bool | None
    averaged: bool = False
    stopped: bool = False
    place: str = ""
    learning_rate: float | None = None


@dataclass(frozen=True)
class ProjectUse:
    """Use of a project file by a fit: the file, what was taken from it, and what was not.

    keys: the name and the value, as TOML has it, of each option that the file gave. set_aside: the name of
    each key that did not count, and the flag that excludes it.
    """

    file: str
    keys: tuple[tuple[str, str], ...] = ()
    set_aside: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Occasion:
    """Occasion of a fit: where it measured, when it began, by which command and with which project file.

    device: name or address; "none" where it predicted. machine: the device in words.
    versions: of what made the answer, by name. Empty, and without a seed, in what earlier versions wrote.
    """

    device: str
    machine: str
    date: str  # UTC, ISO 8601
    command: str  # as a shell takes it
    trained_on: str = ""  # places of all trainings, in words; empty without any
    versions: tuple[tuple[str, str], ...] = ()
    seed: int | None = None
    project: ProjectUse | None = None  # None where no project file gave anything


@dataclass(frozen=True, repr=False)
class Report(Brief):
    """Candidate with its metric, measurement and verdict: `baseline` and `chosen` of `--json`."""

    name: str  # "dense", "dense-int8", "trial-03", ...
    candidate: Candidate
    metric: float
    measurement: Measurement
    params: int
    macs: int
    kept: tuple[tuple[str, int], ...]  # width per group
    layers_int8: int  # in a weight-only precision: those whose weights are integers
    layers_float: int
    recovered: tuple[tuple[str, float, float, bool], ...]  # rung, held-back error before, after, kept?
    artefact: str  # path below the run folder
    verdict: Verdict
    drop: Drop | None = None  # of the chosen candidate, where samples are scored one by one: evidence only
    training: tuple[Training, ...] = ()
    layers_recurrent: int = 0  # of `layers_float`: LSTM and GRU, of which ONNX has no form on integers


@dataclass(frozen=True)
class Pace:
    """Median milliseconds of a tiny model on a device (`bundle.pace`), and the machine that it was."""

    ms: float
    machine: str


@dataclass(frozen=True)
class LayerFacts:
    """Facts about one layer of a trial that say what holds its time.

    operators, converting_ms: of the runtime's own, those that run behind it among them; `converting_ms` is of
        those that only change a number type or a layout. macs, traffic: multiply-accumulates, and bytes of
        activations and weights, of one query; None where they depend on the data.
    groups: those whose units are the layer's outputs, each with its narrowest legal width.
    frozen: sentence about the operation that needs its outputs whole; empty where none does.
    """

    layer: str
    operator: str  # of ONNX; empty for what comes before the first layer
    int8: bool
    numbers: str  # the type at whose rate it multiplies: "float32", "float16", "int8"
    operators: int
    converting_ms: float
    macs: int | None
    traffic: int | None
    groups: tuple[tuple[str, int], ...]
    frozen: str


@dataclass(frozen=True)
class LayerTimes:
    """Milliseconds of a trial's layers from its runtime's profile, whose sum is scaled to the trial's median.

    layers: (layer, milliseconds) from input to output, each with what the runtime runs behind it; "start" is
        what comes before the first layer.
    facts: of the same layers; empty in what earlier versions wrote.
    """

    name: str  # of the trial
    layers: tuple[tuple[str, float], ...]
    facts: tuple[LayerFacts, ...] = ()
    # One more of the smallest operators in a query, on the device; None where that was not told apart.
    operator_ms: float | None = None


@dataclass(frozen=True)
class LengthTimes:
    """Latency of a trial at a length of sequences that is not the longest; None where it was disturbed.

    name: of the trial.
    """

    name: str
    length: int
    latency: Latency | None


@dataclass(frozen=True)
class DraftReport:
    """Candidate that was measured by its shapes alone and not built: it has no metric."""

    name: str
    measurement: Measurement


@dataclass(frozen=True, repr=False)
class TierResult(Brief):
    """Result for one of several budgets: the fields of a `FitResult` that depend on the budget."""

    name: str  # "20 ms", "2x", or the profile's name
    verdict: Verdict
    budget: Budget
    baseline: Report
    chosen: Report
    bundle: str | None
    profile: Profile
    sources: tuple[tuple[str, str], ...] = ()  # as a FitResult's
    unsettled: str = ""  # sentence about why the verdict is inconclusive


@dataclass(frozen=True)
class CascadeResult:
    """Cascade of the tiers: the smallest model answers where it is confident, the next one where it is not.

    Thresholds are calibrated on some samples of the evaluation; all other figures are of the rest.
    thresholds: [tiers - 1], the least confidence that ends a request; None: that tier ends none.
    cost_ms: mean over requests of the medians of all tiers that were asked; cost_alone_ms: of the largest.
    """

    tiers: tuple[str, ...]  # names of tiers, the smallest first
    thresholds: tuple[float | None, ...]
    calibrated_on: int  # samples
    shares: tuple[float, ...]  # of the requests, per tier that answers them
    metric: float
    metric_alone: float  # of the largest tier, on the same samples
    drop: Drop  # from `metric_alone` to `metric`
    cost_ms: float
    cost_alone_ms: float
    memory_mib: float  # of all tiers, loaded side by side

    @property
    def saving(self) -> float:
        """Share of the largest tier's cost that is saved; negative when the cascade costs more."""
        return 1 - self.cost_ms / self.cost_alone_ms


@dataclass(frozen=True, repr=False)
class FitResult(Brief):
    """Result of one fit; `verdict`, `budget` and `chosen` belong to the same candidate.

    With several budgets, all fields that depend on one are those of the budget that decides the verdict: the
    largest that misses, else the largest that stayed inconclusive, else the largest. `tiers` has all budgets,
    the largest first.
    """

    verdict: Verdict
    budget: Budget  # resolved: `latency_ms` in milliseconds
    metric: str  # its name
    baseline: Report
    chosen: Report
    frontier: tuple[Report, ...]
    trials: tuple[Report, ...]  # of several budgets, each held against the one that it was made for
    seconds: float
    bundle: str | None  # path of the bundle, None when nothing fits
    profile: Profile
    target: Target
    runtime: str
    out: str
    tiers: tuple[TierResult, ...] = ()  # empty when there was one budget
    cascade: CascadeResult | None = None
    unsettled: str = ""  # sentence about why the verdict is inconclusive
    pace: Pace | None = (
        None  # of the device when the fit ended; None where it was not, or could not be, measured
    )
    no_cascade: str | None = None  # of several budgets: why there is no cascade
    lower_is_better: bool = False  # of the metric
    # Who said a line of the budget: "flag", "project" for the project file, "profile" or "default".
    sources: tuple[tuple[str, str], ...] = ()
    occasion: Occasion | None = None  # None in what earlier versions wrote
    remarks: tuple[str, ...] = ()  # sentences for people that the fit told on its way
    fixed_batch: bool = False  # the model takes one row a query, and no other batch
    drafts: tuple[DraftReport, ...] = ()  # those of which no candidate was built
    layers: tuple[LayerTimes, ...] = ()  # of the dense model and the chosen candidates, where they were timed
    lengths: tuple[int, ...] = ()  # of sequences, ascending: measurements are of the longest; () where one
    at_lengths: tuple[LengthTimes, ...] = ()  # of the dense model and the chosen candidates, where it fits
    whole: tuple[WholeQueries, ...] = ()  # of the same, where the task has parts beside the model

    @property
    def direction(self) -> Direction:
        """Direction in which the metric is better."""
        return Direction(self.lower_is_better)

    def of_tier(self, tier: int) -> FitResult:
        """Result of the `tier`-th budget alone, counted from 1."""
        one = self.tiers[tier - 1]
        return replace(
            self,
            verdict=one.verdict,
            budget=one.budget,
            baseline=one.baseline,
            chosen=one.chosen,
            bundle=one.bundle,
            profile=one.profile,
            sources=one.sources,
            tiers=(),
            unsettled=one.unsettled,
            cascade=None,
            no_cascade=None,
        )


def percentile_ms(latency: Latency) -> float:
    """Latency at the percentile itself; its upper bound where only that is known."""
    return compared_ms(latency) if latency.percentile_ms is None else latency.percentile_ms


def compared_ms(latency: Latency) -> float:
    """Latency that is held against a budget: the upper bound of its percentile, else the slowest run."""
    return latency.max_ms if latency.bound_ms is None else latency.bound_ms


def speed_up(baseline: Measurement, measured: Measurement) -> float:
    """Speed-up at the percentile of the measurement, the dense model as it ran in turn where it did.

    baseline: of the dense model, for what was searched or predicted.
    """
    dense_ms = measured.dense_percentile_ms
    return (percentile_ms(baseline.latency) if dense_ms is None else dense_ms) / percentile_ms(
        measured.latency
    )


def allowed_ms(
    latency_ms: float | None,
    speedup: float | None,
    dense_low_ms: float | None,
    reference_ms: float | None,
    usual_ms: float | None,
) -> float | None:
    """Latency that a session allows: the budget's; of a speed-up what the dense model took there, divided.

    latency_ms: of the budget; a speed-up is in it at the dense model's usual speed. dense_low_ms: as in a
    `Measurement`; None leaves the budget's. The dense model counts as no slower than usual, at the machine's
    speed in the session (`reference_ms` against `usual_ms`): what disturbs it alone speeds nothing up.
    """
    if latency_ms is None or speedup is None or dense_low_ms is None:
        return latency_ms
    slower = max(1.0, reference_ms / usual_ms) if reference_ms and usual_ms else 1.0
    return min(dense_low_ms / speedup, latency_ms * slower)


def left_ms(whole_ms: float | None, measured: Measurement) -> float | None:
    """Latency that whole queries left to the model in a proof; None where they were not timed or limited.

    whole_ms: of the budget. It is less by what the bound of whole queries is above the model's own bound, so
    the latter is within what is left exactly where both bounds are within `whole_ms`.
    """
    if whole_ms is None or measured.whole is None or measured.whole.bound_ms is None:
        return None
    beside_ms = max(0.0, measured.whole.bound_ms - compared_ms(measured.latency))
    return max(whole_ms - beside_ms, LEAST_LEFT * whole_ms)


def limited_lines(measured: Measurement, budget: Budget) -> dict[Line, tuple[float, float]]:
    """Budget lines of a measurement that bind, each with what was measured and its limit.

    A proof of a speed-up is held against the dense model in its own session (`allowed_ms`), one of whole
    queries against what they left to the model (`left_ms`).
    """
    session = (measured.dense_low_ms, measured.reference_ms, measured.usual_ms)
    left = left_ms(budget.whole_ms, measured)
    latency_ms = allowed_ms(budget.latency_ms, budget.speedup, *session) if left is None else left
    lines: dict[Line, tuple[float, float | None]] = {
        "latency_ms": (compared_ms(measured.latency), latency_ms),
        "memory_mib": (measured.memory_mib, budget.memory_mib),
        "size_mib": (measured.size_mib, budget.size_mib),
    }
    return {line: (value, limit) for line, (value, limit) in lines.items() if limit is not None}
