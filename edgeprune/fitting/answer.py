"""Answer to each budget, and the one result about all of them."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

from edgeprune import __version__
from edgeprune.bundle.write import bundle_path, write_bundle
from edgeprune.errors import DeviceBusy, EdgepruneError
from edgeprune.files import write
from edgeprune.fitting.order import Order, timed_here
from edgeprune.fitting.tier_cascade import Cascaded, cascade, members
from edgeprune.fitting.trials.profiles import layer_times
from edgeprune.fitting.trials.runner import SETTLED, Trials
from edgeprune.fitting.trials.shorter_lengths import length_times
from edgeprune.records.bundle import CARRIED
from edgeprune.records.machine import Budget
from edgeprune.records.trial import (
    DraftReport,
    FitResult,
    Occasion,
    Pace,
    Report,
    TierResult,
    Verdict,
    left_ms,
)
from edgeprune.records.whole_query import WholeQueries
from edgeprune.search.frontier import frontier
from edgeprune.search.judge import unsettled
from edgeprune.tasks import PreparedTask

FAR_BETTER = 0.5  # of the dense model's metric: a gain that recovery seldom brings
FAR = 0.1  # a distance of outputs, in nats or as a share of their energy, that no metric should like
DOUBTFUL = 1.5  # times the budget, up to which a miss is proven and not taken from a search's short session
MADE_BY = ("torch", "onnx", "numpy")  # packages whose versions an answer tells, beside its runtime's
DECISIVE = ("misses", "inconclusive")  # a verdict of several tiers is the first of these that one of them has


@dataclass(frozen=True)
class Paced:
    """The ledger's record of the device's pace when a fit ended."""

    pace: Pace | None


@dataclass(frozen=True)
class Answer:
    """Answer to one budget. reports: of every trial so far, held against the budget."""

    tier: TierResult
    reports: tuple[Report, ...]
    trials: Trials


def answer(trials: Trials, found: str | None, stopped: str = "") -> Answer:
    """Answer to the budget of a runner. found: the trial that was proven; None when nothing was.

    stopped: sentence about what kept the search from its end: the answer is then open, and the best so far.
    Raises `EdgepruneError` for a miss beside which a trial stands that breaks no line of the budget.
    """
    reports = [trials.report(name) for name in trials.tested]
    chosen = next((r for r in reports if r.name == found), None) or _unproven(reports, trials)
    if stopped:
        seen = _best_seen(reports, trials)
        chosen = replace(seen, verdict=Verdict("inconclusive", seen.verdict.breaches))
    chosen = trials.with_drop(chosen)
    reports = [chosen if report.name == chosen.name else report for report in reports]
    _question(chosen, trials)
    if chosen.verdict.kind == "misses":
        _check_broken(reports)
    tier = TierResult(
        name=trials.order.name,
        verdict=chosen.verdict,
        budget=_as_left(trials.budget, chosen),
        baseline=reports[0],
        chosen=chosen,
        bundle=None,
        profile=trials.order.profile,
        sources=trials.order.sources,
        unsettled=stopped or _unsettled(chosen),
    )
    return Answer(tier, tuple(reports), trials)


def overlooked(trials: Trials) -> str | None:
    """Name of the first trial, least compressed first, that breaks no line and is proven to fit.

    A search passes over what would break a line at the machine's usual speed, and did not in its session: a
    proof tells. And it goes on from what was proven to what was trained of it, which may have lost. A proof
    tells, too, of the trial that comes nearest to a latency that it alone breaks, unless that is by far: no
    miss stands on a search's short session. Raises `DeviceBusy` when a proof stays open.
    """
    for name in trials.tested:
        found = trials.report(name).verdict
        if name in trials.proven and found.kind in SETTLED:
            return name
        if name not in trials.proven and not found.breaches and trials.settles(name):
            return name
    slow = [name for name in trials.tested if trials.broken(name) == {"latency_ms"}]
    nearest = min(slow, key=trials.use, default=None)
    if nearest is None or trials.use(nearest) > DOUBTFUL:
        return None
    # Twice, some time apart: a spell in which everything is slower shows in nothing but that it passes.
    if "inconclusive" in (trials.prove(nearest), trials.prove(nearest, again=True)):
        raise DeviceBusy(f"{nearest} comes nearest and was not proven to miss: {trials.unsettled(nearest)}.")
    return nearest if trials.report(nearest).verdict.kind in SETTLED else None


def conclude(answers: Sequence[Answer], began: datetime, remarks: Sequence[str]) -> FitResult:
    """Result of a fit without its bundles.

    answers: the loosest budget first. began: now, when the fit began. remarks: sentences that it told.
    """
    tiers = tuple(each.tier for each in answers)
    decided = answers[_deciding(tiers)]
    order, workshop = decided.trials.order, decided.trials.workshop
    reports = _gathered(answers, decided)
    several = len(answers) > 1
    together = _cascade(answers[-1].trials, tiers) if several else Cascaded(None, None)
    return FitResult(
        verdict=decided.tier.verdict,
        budget=decided.tier.budget,
        metric=workshop.task.metric,
        lower_is_better=workshop.task.lower_is_better,
        baseline=decided.tier.baseline,
        chosen=decided.tier.chosen,
        frontier=frontier(reports, workshop.task.direction),
        trials=reports,
        seconds=(datetime.now(timezone.utc) - began).total_seconds(),
        bundle=None,
        profile=order.profile,
        target=order.target,
        runtime=order.runtime,
        out=str(decided.trials.folder),
        tiers=tiers if several else (),
        unsettled=decided.tier.unsettled,
        cascade=together.result,
        no_cascade=together.reason,
        sources=decided.tier.sources,
        occasion=_occasion(order, began, reports),
        remarks=tuple(remarks),
        fixed_batch=bool(workshop.dense.fixed_batch),
        lengths=() if workshop.lengths is None else workshop.lengths.values,
        drafts=_unbuilt(answers),
    )


def pack(trials: Trials, result: FitResult) -> FitResult:
    """Result with the times of layers, and golden vectors and a bundle for every candidate that may ship.

    Where lengths vary, with the latencies at the shorter ones, too.
    """
    shown = [result.baseline.name, result.chosen.name, *(tier.chosen.name for tier in result.tiers)]
    result = replace(result, layers=layer_times(trials, shown), at_lengths=length_times(trials, shown))
    result = replace(result, whole=_whole_queries(trials, result))
    if not all(each.verdict.breaches for each in (result.tiers or (result,))):
        found = trials.once("pace", lambda: Paced(trials.device_side.pace()), Paced)
        result = replace(result, pace=found.pace)
        _carry(trials, result)
    if not result.tiers:
        return replace(result, bundle=_packed(trials, result, None))
    tiers = tuple(
        replace(tier, bundle=_packed(trials, result.of_tier(at), at))
        for at, tier in enumerate(result.tiers, 1)
    )
    return replace(result, tiers=tiers, bundle=tiers[_deciding(tiers)].bundle)


def _as_left(budget: Budget, chosen: Report) -> Budget:
    """Budget whose latency is what whole queries left to the chosen model, where they were proven."""
    left = left_ms(budget.whole_ms, chosen.measurement)
    return budget if left is None else replace(budget, latency_ms=left)


def _whole_queries(trials: Trials, result: FitResult) -> tuple[WholeQueries, ...]:
    """Whole queries of the dense model and of the chosen ones, where they can be timed here."""
    if trials.workshop.task.queries is None or not timed_here(trials.order):
        return ()
    shown = [result.baseline, result.chosen, *(tier.chosen for tier in result.tiers)]
    each = {report.name: report for report in shown}
    return tuple(report.measurement.whole or trials.whole(name) for name, report in each.items())


def _carry(trials: Trials, result: FitResult) -> None:
    """Write what the bundles carry in front of the artefact into the run folder."""
    task = trials.workshop.task
    if not isinstance(task, PreparedTask):
        return
    chosen = result.chosen
    contents = task.carry(result.runtime, Path(chosen.artefact).name, chosen.measurement.threads)
    files = {trials.folder / CARRIED / name: content for name, content in contents.items()}

    def written() -> int:
        for path, content in files.items():
            write(path, content)
        return len(files)

    if files:
        trials.once(CARRIED, written, int, files=list(files))


def closest(reports: Sequence[Report]) -> Report:
    """Report whose worst broken line is broken by the smallest share."""

    def worst(report: Report) -> float:
        return max(
            (b.excess / abs(b.limit) if b.limit else b.excess for b in report.verdict.breaches), default=0
        )

    broken = [report for report in reports if report.verdict.kind == "misses"]
    return min(broken or reports, key=worst)


def _occasion(order: Order, began: datetime, reports: Sequence[Report]) -> Occasion:
    predicts = order.forecast is not None
    places = (training.place for report in reports for training in report.training if training.place)
    return Occasion(
        device="none" if predicts else order.device.name,
        machine="" if predicts else order.device.machine().words,
        date=began.isoformat(timespec="seconds"),
        command=shlex.join([*_program(), *sys.argv[1:]]),
        trained_on="; ".join(dict.fromkeys(places)),
        versions=(
            ("edgeprune", __version__),
            ("Python", platform.python_version()),
            *((package, metadata.version(package)) for package in MADE_BY),
        ),
        seed=order.options.seed,
        project=order.options.project,
    )


def _program() -> list[str]:
    """Words by which this program was called."""
    name = Path(sys.argv[0]).name
    return ["python", "-m", "edgeprune"] if name == "__main__.py" else [name]


def _question(chosen: Report, trials: Trials) -> None:
    """Question a metric that got far better while the outputs went far from the dense model's."""
    name, dense = trials.workshop.task.metric, trials.dense.metric
    gained = -trials.direction.drop(dense, chosen.metric)
    if gained <= max(trials.budget.max_drop, FAR_BETTER * abs(dense)) or trials.distance(chosen.name) <= FAR:
        return
    trials.note(
        chosen.name,
        f"{name} of {chosen.name} is {chosen.metric:.4g}, far better than {dense:.4g} of the dense model, "
        f"although its outputs are far from that one's: {trials.direction.question}",
    )


def _check_broken(reports: Sequence[Report]) -> None:
    """Refuse to call a budget missed while a trial breaks no line of it: that would be a false answer."""
    whole = next((report.name for report in reports if not report.verdict.breaches), None)
    if whole is not None:
        raise EdgepruneError(
            f"Nothing was found to fit, and yet {whole} breaks no line of the budget.",
            "This is a fault of edgeprune's search: please report it with the run's ledger.jsonl.",
        )


def _unproven(reports: Sequence[Report], trials: Trials) -> Report:
    """Report to give when nothing is proven: of the last proof that stayed open, else the closest miss."""
    still_open = [r for r in reports if r.verdict.kind == "inconclusive" and r.name in trials.proven]
    return still_open[-1] if still_open else closest(reports)


def _best_seen(reports: Sequence[Report], trials: Trials) -> Report:
    """Report of the trial that breaks no line and is compressed least, else of the one of the least use.

    Of the latter, those that hold the metric come first.
    """
    whole = [report for report in reports if not report.verdict.breaches]
    holding = [report for report in reports if trials.allows(report.metric)]
    return whole[0] if whole else min(holding or reports, key=lambda report: trials.use(report.name))


def _unsettled(chosen: Report) -> str:
    """Sentence about why a verdict is open; empty where it is not."""
    if chosen.verdict.kind != "inconclusive":
        return ""
    why = unsettled(chosen.measurement)
    if why:
        return f"{chosen.name} is not proven: {why}, in the last session of its proof."
    return (
        f"{chosen.name} is not proven: its metric, measured again and again, lies on both sides of the limit."
    )


def _deciding(tiers: Sequence[TierResult]) -> int:
    """Place of the tier whose verdict is the result's.

    A miss stays a miss however often it is measured; an open proof may be settled by another fit.
    """
    kinds = [tier.verdict.kind for tier in tiers]
    return next((kinds.index(kind) for kind in DECISIVE if kind in kinds), 0)


def _unbuilt(answers: Sequence[Answer]) -> tuple[DraftReport, ...]:
    """Drafts that became no candidate; none where profiles differ: a draft is of one machine."""
    last = answers[-1].trials
    if any(each.trials.order.profile != last.order.profile for each in answers):
        return ()
    return last.drafts.unbuilt(record.candidate for record in last.tested.values())


def _gathered(answers: Sequence[Answer], decided: Answer) -> tuple[Report, ...]:
    """Reports of all trials, each once: by its proof, else against the budget that it was made for.

    Predictions for several machines are not compared with each other: there it is one machine's view of all.
    """
    last = answers[-1].trials
    if any(each.trials.order.profile != last.order.profile for each in answers) and last.order.forecast:
        view = decided.trials
        view.adopt(last)
        told = {report.name: report for report in decided.reports}
        return tuple(told.get(name) or view.report(name) for name in view.tested)
    found: dict[str, Report] = {}
    proven: set[str] = set()
    for each in answers:
        for report in each.reports:
            if report.name not in found or (report.name in each.trials.proven and report.name not in proven):
                found[report.name] = report
        proven |= each.trials.proven
    return tuple(found.values())


def _cascade(trials: Trials, tiers: Sequence[TierResult]) -> Cascaded:
    task, meanings = trials.workshop.task, trials.workshop.yardstick.meanings
    able, reason = members(task, tiers, meanings)
    if reason is not None:
        return Cascaded(None, reason)
    trials.tell("cascade", "asking all tiers about the same samples")
    ask, seed = trials.device_side.ask, trials.order.options.seed
    return trials.once(
        *("cascade", lambda: cascade(task, able, ask, seed, meanings), Cascaded),
        lasts=lambda found: trials.resumed_whole,
    )


def _packed(trials: Trials, result: FitResult, tier: int | None) -> str | None:
    if result.verdict.breaches:  # a miss, or what a search that was stopped had seen so far
        return None
    trials.device_side.write_golden(result.chosen.name)
    return str(write_bundle(result, trials.folder, bundle_path(trials.folder, tier)))
