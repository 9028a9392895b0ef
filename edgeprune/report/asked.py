"""Sentences about what a fit was asked, of whom and by what, and about budgets that bind nothing."""

from __future__ import annotations

from collections.abc import Mapping

from edgeprune.records.machine import Budget
from edgeprune.records.trial import FitResult, Line, ProjectUse, limited_lines
from edgeprune.search.error_bar import open_lines

# Line of a budget -> its name, its unit, and the flags that set it.
LINES: Mapping[Line, tuple[str, str, str]] = {
    "latency_ms": ("latency", "ms", "--latency-ms or --speedup"),
    "memory_mib": ("peak memory", "MiB", "--memory-mib"),
    "size_mib": ("file size", "MiB", "--size-mib"),
}
_RELATIVE = {"latency_ms": "speedup", "max_drop": "max_drop_percent"}


def asked_lines(result: FitResult) -> list[str]:
    """Sentences about the budgets and their sources, the machine, the runtime, the time and the command."""
    tiers = [result.of_tier(at) for at in range(1, len(result.tiers) + 1)] or [result]
    lines = [f"asked: {budget_words(one)}" for one in tiers]
    measured, occasion = result.chosen.measurement, result.occasion
    where = "predicted, without a device" if measured.predicted else "on this device"
    if occasion is not None and not measured.predicted:
        where = f"on {occasion.device} ({occasion.machine})"
    profiles = ", ".join(dict.fromkeys(one.profile.name for one in tiers))
    threads = f"{measured.threads} thread{'s' * (measured.threads != 1)}"
    when = "" if occasion is None else f", {occasion.date}"
    lines.append(
        f"of: target {result.target.name}, profile {profiles}, {where}; {measured.runtime}, {threads}, "
        f"batch {measured.batch}{' (fixed)' * result.fixed_batch}{_length(result)}; "
        f"{result.seconds:.0f} s{when}"
    )
    if occasion is None:
        return lines
    trained = [f"trained on: {occasion.trained_on}"] if occasion.trained_on else []
    used = [] if occasion.project is None else [f"with: {project_words(occasion.project)}"]
    return [*lines, *trained, f"by: {occasion.command}", *used]


def _length(result: FitResult) -> str:
    """Length of sequences that was measured, where they vary."""
    if not result.lengths:
        return ""
    *others, longest = result.lengths
    return f", length {longest} (also served: {', '.join(map(str, others))})"


def length_lines(result: FitResult) -> list[str]:
    """Sentences about the latencies at the shorter lengths, which no budget limits."""
    timed = {(each.name, each.length): each.latency for each in result.at_lengths}
    lines = []
    for length in reversed(result.lengths[:-1]):
        latency, dense = (timed.get((one.name, length)) for one in (result.chosen, result.baseline))
        if latency is None:
            continue
        beside = "" if dense is None else f" (dense: {dense.p50_ms:.3f} and {dense.p90_ms:.3f})"
        lines.append(
            f"at length {length}: p50 {latency.p50_ms:.3f} and p90 {latency.p90_ms:.3f} ms{beside}; the "
            f"budget is about length {result.lengths[-1]}"
        )
    return lines


def project_words(use: ProjectUse) -> str:
    """Project file with what was taken from it and what was set aside, and for which flag."""
    taken = ", ".join(f"{key} = {value}" for key, value in use.keys) or "nothing taken"
    aside = "".join(f"; {key} set aside for {flag}" for key, flag in use.set_aside)
    return f"{use.file} ({taken}{aside})"


def budget_words(result: FitResult) -> str:
    """Lines of a resolved budget in words, each with who said it."""
    budget = result.budget
    words = []
    if budget.latency_ms is not None:
        times = "" if budget.speedup is None else f", {budget.speedup:g}x the dense model's speed"
        limit = f"latency of {budget.latency_ms:.4g} ms{times}"
        if budget.whole_ms is not None:
            limit = (
                f"latency of {budget.whole_ms:.4g} ms of whole queries, which leave {budget.latency_ms:.4g} "
                "ms to the model"
            )
        words.append(f"p{budget.percentile} {limit}{said(result, 'latency_ms')}")
    for line in ("memory_mib", "size_mib"):
        limit = getattr(budget, line)
        if limit is not None:
            name, unit, _ = LINES[line]
            words.append(f"{name} of {limit:.4g} {unit}{said(result, line)}")
    drop = f"{result.metric} at most {largest_drop(budget)} {'above' if result.lower_is_better else 'below'}"
    return ", ".join([*words, f"{drop} the dense model's{said(result, 'max_drop')}"])


def said(result: FitResult, line: str) -> str:
    """Source of a budget line, in brackets; nothing in what earlier versions wrote."""
    sources = dict(result.sources)
    spelling = next((each for each in (_RELATIVE.get(line, line), line) if each in sources), None)
    if spelling is None:
        return ""
    flag = "--max-drop" if line == "max_drop" else f"--{spelling.replace('_', '-')}"
    used = None if result.occasion is None else result.occasion.project
    file = "project file" if used is None else used.file
    told = {"flag": flag, "project": file, "profile": f"profile {result.profile.name}"}
    return f" ({told.get(sources[spelling], sources[spelling])})"


def largest_drop(budget: Budget) -> str:
    """Largest drop as it was asked, with what it comes to."""
    percent = budget.max_drop_percent
    return f"{budget.max_drop:g}" if percent is None else f"{percent:g}%, {budget.max_drop:.4g}"


def error_bar_lines(result: FitResult) -> list[str]:
    """Sentences about the error bar of a prediction, and about limits that lie within it."""
    measured = result.chosen.measurement
    if measured.error_bar is None:
        return []
    low, high = measured.error_bar.latency_ms
    lines = [
        f"p50 is predicted to be {measured.latency.p50_ms:.3g} ms, and lies between {low:.3g} and "
        f"{high:.3g} ms if that is as far off as predictions were seen to be (docs/predicted.md)"
    ]
    for line, ((low, high), limit) in open_lines(measured, result.budget).items():
        name, unit, _ = LINES[line]
        may = "miss" if result.verdict.kind == "predicted" else "fit"
        lines.append(
            f"it may {may}: {name} of {low:.3g} to {high:.3g} {unit}, and the budget is {limit:.4g} {unit}; "
            "measure it with --device"
        )
    return lines


def unbound(result: FitResult) -> str | None:
    """Sentence about a budget that the dense model holds, so that nothing binds; None where a line does."""
    budget, chosen = result.budget, result.chosen
    lines = limited_lines(chosen.measurement, budget)
    if chosen.name != result.baseline.name or result.verdict.kind not in ("fits", "predicted") or not lines:
        return None
    line = max(lines, key=lambda each: lines[each][0] / lines[each][1])
    value, limit = lines[line]
    name, unit, flags = LINES[line]
    if line == "latency_ms":
        name = "p50" if chosen.measurement.predicted else f"the bound of p{budget.percentile}"
    share = f"{value / limit:.1%}"
    return (
        f"{name} is {share} of the budget of {limit:.4g} {unit}{said(result, line)}: nothing binds; "
        f"ask with {flags}"
    )
