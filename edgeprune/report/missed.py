"""Sentences about a budget that nothing meets: what came nearest, what training did, what would be met."""

from __future__ import annotations

from edgeprune.options import FitOptions
from edgeprune.records.trial import FitResult, Report, limited_lines
from edgeprune.recover.ways import TABLE as RECOVERY_WAYS
from edgeprune.report.asked import LINES
from edgeprune.report.figures import score
from edgeprune.search.best_of_lines import BestOfLine, best_of_lines
from edgeprune.search.feasible import feasible, nearer_draft

DRAFT = "by its shapes alone"
MORE = 4  # times the epochs, where a training had not ended


def is_trained(report: Report) -> bool:
    """Whether a candidate went through a rung that trains."""
    rungs = [RECOVERY_WAYS.get(rung) for rung, *_ in report.recovered]
    return report.candidate.qat or any(way is not None and way.trains for way in rungs)


def untrained(report: Report) -> str:
    """Words about a pruned candidate that was not trained; none about others."""
    return ", not trained" if report.candidate.kept and not is_trained(report) else ""


def bests(result: FitResult) -> tuple[BestOfLine, ...]:
    """Best of each line of the budget, of all trials."""
    reports = list({one.name: one for one in (result.baseline, *result.trials, result.chosen)}.values())
    return best_of_lines(reports, result.budget, result.direction, result.baseline.metric, result.drafts)


def best_words(result: FitResult) -> str:
    told = []
    for best in bests(result):
        if best.line == "metric":
            figure = f"{result.metric} {score(best.value, result)}"
        else:
            name, unit, _ = LINES[best.line]
            figure = f"{name} {best.value:.4g} {unit}"
        whose = f"{best.draft}, {DRAFT}" if best.draft else f"{best.report.name}{untrained(best.report)}"
        told.append(f"{figure} ({whose})")
    return ", ".join(told)


def training_lines(result: FitResult) -> list[str]:
    """Sentence about the training of a candidate that broke the metric's line, and what to try."""
    chosen = result.chosen
    broken = {breach.line for breach in result.verdict.breaches}
    if "metric" not in broken:
        return []
    if untrained(chosen) and len(broken) > 1:
        return ["  it was not trained: that comes once a candidate holds all lines but the metric's"]
    if not chosen.training:
        ways = [way.name for way in RECOVERY_WAYS.values() if way.trains]
        hint = f"try --recover {' or '.join(ways[:2])}, --epochs {FitOptions().epochs} or more"
        return [f"  it was not trained: {hint}"] if untrained(chosen) else []
    last = chosen.training[-1]
    if last.falling is None:
        return [
            f"  it was trained by Task.trainer ({last.steps} batches): whether more helps, that loop knows"
        ]
    steps = f"{last.epochs} epoch{'s' * (last.epochs != 1)}, {last.steps} step{'s' * (last.steps != 1)}"
    if last.falling:
        return [
            f"  it was trained ({last.rung}) for {steps}, and its error was still falling: try --epochs "
            f"{MORE * last.epochs}"
        ]
    return [
        f"  it was trained ({last.rung}) for {steps}, and its error fell no more: more --epochs promise "
        "little, more training data or a wider budget more"
    ]


def within_reach(result: FitResult) -> list[str]:
    """Line about the budget that the smallest candidate would meet, when no candidate fits this one."""
    found = feasible(result.trials, result.budget, result.drafts)
    if found is None:
        return []
    whose = "" if result.budget.whole_ms is None else " of the model alone"
    lines = [
        f"{label}{whose if line == 'latency_ms' else ''} {limit:.4g} {unit}"
        for line, (label, unit, _) in LINES.items()
        if (limit := getattr(found.budget, line)) is not None
    ]
    drafted = f" {DRAFT}," if any(found.name == draft.name for draft in result.drafts) else ""
    return [f"  the smallest candidate, {found.name},{drafted} would fit a budget of {', '.join(lines)}"]


def draft_lines(result: FitResult) -> list[str]:
    """Sentence about a draft that comes nearer to the limits of time and room than the closest candidate."""
    found = nearer_draft(result.chosen, result.budget, result.drafts)
    if found is None:
        return []
    figures = [
        f"{LINES[line][0]} {value:.4g} of {limit:.4g} {LINES[line][1]}"
        for line, (value, limit) in limited_lines(found.measurement, result.budget).items()
    ]
    return [
        f"  {found.name}, {DRAFT}, comes nearer: {', '.join(figures)}; it was not built, so nobody knows its "
        f"{result.metric}"
    ]
