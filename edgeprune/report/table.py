"""Tables and sentences about a fit's result, which `edgeprune fit` and `edgeprune report` print."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from edgeprune.records.trial import DENSE_INT8, Breach, Drop, FitResult, Report, speed_up
from edgeprune.report.asked import (
    LINES,
    asked_lines,
    error_bar_lines,
    largest_drop,
    length_lines,
    unbound,
)
from edgeprune.report.figures import counted, milliseconds, score
from edgeprune.report.missed import best_words, draft_lines, training_lines, untrained, within_reach
from edgeprune.report.parts_table import whole_lines
from edgeprune.search.error_bar import open_lines

# What `chosen` is where it does not answer the budget: alone, and behind a tier's name.
_ROLES = {"misses": "closest", "inconclusive": "best so far"}
_OPEN = {"misses": ", missed", "inconclusive": ", not settled"}


def table(result: FitResult) -> Table:
    """Table with a row each for the dense model, the dense model in INT8 and every chosen candidate."""
    if not result.tiers:
        return _table(result, [(_role(result, report), report) for report in _leading(result)])
    rows = [] if _machines(result) else [(_role(result, one), one) for one in _leading(result, [])]
    for tier in result.tiers:
        if _machines(result):
            rows.append((f"{tier.name}: dense", tier.baseline))
        rows.append((f"{tier.name}{_OPEN.get(tier.verdict.kind, '')}: {tier.chosen.name}", tier.chosen))
    return _table(result, rows)


def frontier_table(result: FitResult) -> Table:
    """Table of the non-dominated candidates; for one budget numbered as `bundle --tier N` counts them."""
    titles = [
        one.name if result.tiers else f"tier {at}: {one.name}" for at, one in enumerate(result.frontier, 1)
    ]
    return _table(result, list(zip(titles, result.frontier, strict=True)))


def trials_table(result: FitResult) -> Table:
    """Table of all trials, in order, each with its own verdict."""
    return _table(result, [(f"{report.name}: {report.verdict.kind}", report) for report in result.trials])


def verdict_lines(result: FitResult) -> list[str]:
    """Sentences about the verdict: the broken budget lines and by how much, the gain, the bundle."""
    results = [result.of_tier(at) for at in range(1, len(result.tiers) + 1)]
    if not results:
        return [*_verdict(result), *_assumptions([result]), *asked_lines(result), *_packed(result)]
    lines = [_overall(result)]
    for at, (tier, one) in enumerate(zip(result.tiers, results, strict=True), 1):
        first, *rest = _verdict(one)
        lines += [f"tier {at}, {tier.name}: {first}", *rest, *(f"  {line}" for line in _packed(one))]
    return [*lines, *_assumptions(results), *cascade_lines(result), *asked_lines(result)]


def cascade_lines(result: FitResult) -> list[str]:
    """Sentences about the cascade of the tiers, or about the reason for having none."""
    found = result.cascade
    if found is None:
        return [f"no cascade: {result.no_cascade}"] if result.no_cascade else []
    alone = found.tiers[-1]
    metric, metric_alone = (score(each, result) for each in (found.metric, found.metric_alone))
    shares = [f"{name} answers {share:.0%}" for name, share in zip(found.tiers, found.shares, strict=True)]
    ends = [
        f"{name} none" if least is None else f"{name} from {least:.4f}"
        for name, least in zip(found.tiers, found.thresholds, strict=False)
    ]
    less = f"{abs(found.saving):.0%} {'less' if found.saving >= 0 else 'more'} than"
    return [
        f"cascade: {', '.join(shares)} of the requests",
        f"  {found.cost_ms:.3f} ms a request on average, {less} the {found.cost_alone_ms:.3f} ms of {alone} "
        f"alone; {found.memory_mib:.1f} MiB for all tiers",
        f"  {result.metric} {metric}, {metric_alone} with {alone} alone; {_sure(found.drop, result)}",
        f"  ends a request at this confidence: {', '.join(ends)}; calibrated on {found.calibrated_on} other "
        "samples",
    ]


def _overall(result: FitResult) -> str:
    kind = result.verdict.kind
    names = [tier.name for tier in result.tiers if tier.verdict.kind == kind]
    what = {
        "fits": f"all {len(names)} budgets are met",
        "predicted": f"all {len(names)} budgets should be met; no device was attached to prove it",
        "inconclusive": f"not settled for {', '.join(names)}",
        "misses": f"nothing fits {', '.join(names)}",
    }[kind]
    return f"{kind}: {what}."


def _verdict(result: FitResult) -> list[str]:
    chosen, kind = result.chosen, result.verdict.kind
    predicted = chosen.measurement.predicted
    may = "may" if open_lines(chosen.measurement, result.budget) else "should"
    lines = {
        "fits": [f"fits: {chosen.name} is proven inside its budget on this device."],
        "predicted": [f"predicted: {chosen.name} {may} fit; no device was attached to prove it."],
        "inconclusive": [
            f"inconclusive: {result.unsettled or f'{chosen.name} is not proven.'}",
            f"  Best so far: {chosen.name}. Stop what else runs on the device and go on: the same command",
            "  with --resume.",
        ],
        "misses": [
            f"misses: nothing {'is predicted to fit' if predicted else 'fits'}. Closest is "
            f"{chosen.name}{untrained(chosen)}:"
        ],
    }[kind]
    lines += [f"  {_broken(breach, result)}" for breach in result.verdict.breaches]
    if kind == "misses":
        lines += [
            *(f"  {line}" for line in error_bar_lines(result)),
            *draft_lines(result),
            *training_lines(result),
            f"  best of each line: {best_words(result)}",
            *within_reach(result),
        ]
    if kind in ("fits", "predicted"):
        lines.append(f"  {_gained(result)}")
        lines += [f"  {line}" for line in (*length_lines(result), *error_bar_lines(result))]
        lines += [f"  {line}" for line in whole_lines(result)]
        if (told := unbound(result)) is not None:
            lines.append(f"  {told}")
        if chosen.drop is not None:
            lines.append(f"  {_sure(chosen.drop, result)}")
    if chosen.candidate.slow_layers:
        slow = ", ".join(chosen.candidate.slow_layers)
        lines.append(f"  left in float, where this device is no quicker in INT8: {slow}")
    if chosen.candidate.float_layers:
        given_back = ", ".join(chosen.candidate.float_layers)
        lines.append(
            f"  given back to float, where INT8 harmed {result.metric} most for its work: {given_back}"
        )
    if chosen.candidate.engine_layers:
        in_float = ", ".join(chosen.candidate.engine_layers)
        lines.append(f"  given back to float, where the engine ran INT8 in float all the same: {in_float}")
    if chosen.candidate.qat:
        lines.append(f"  trained for INT8, which harmed {result.metric} too much without")
    return lines


def _assumptions(results: Sequence[FitResult]) -> list[str]:
    """Lines about the assumptions of predictions, each once."""
    found = dict.fromkeys(line for one in results for line in one.chosen.measurement.assumptions)
    return ["assumptions:", *(f"  {line}" for line in found)] if found else []


def _packed(result: FitResult) -> list[str]:
    lines = [] if result.bundle is None else [f"bundle: {result.bundle}"]
    if result.verdict.kind == "predicted":
        lines.append(f"prove it: edgeprune validate {result.bundle} --device ssh://USER@DEVICE")
    return lines


def _machines(result: FitResult) -> bool:
    """Whether the tiers are predictions for several machines, so that each has a dense model of its own."""
    return result.chosen.measurement.predicted and len({tier.profile.name for tier in result.tiers}) > 1


def _leading(result: FitResult, chosen: Sequence[Report] | None = None) -> list[Report]:
    """Reports of the dense model, the last of the dense model in INT8, and the chosen candidates."""
    int8 = [trial for trial in result.trials if trial.name.startswith(DENSE_INT8)]
    found = [result.baseline, *int8[-1:], *([result.chosen] if chosen is None else chosen)]
    return list({report.name: report for report in found}.values())


def _role(result: FitResult, report: Report) -> str:
    role = report.name
    if report.name == result.baseline.name:
        role = "dense"
    elif report.name.startswith(DENSE_INT8):
        role = report.name.replace(DENSE_INT8, "dense INT8", 1)
    if report.name != result.chosen.name or result.tiers:
        return role
    return f"{_ROLES.get(result.verdict.kind, 'chosen')}: {role}"


def _table(result: FitResult, rows: Iterable[tuple[str, Report]]) -> Table:
    bound = f"p{result.budget.percentile} bound"
    columns = (result.metric, "p50", "p90", "p99", bound, "memory", "size", "params", "MACs", "INT8")
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    made.add_column("")
    for column in columns:
        made.add_column(escape(column), justify="right", no_wrap=True)
    for title, report in rows:
        latency = report.measurement.latency
        spread = (latency.p90_ms, latency.p99_ms, latency.bound_ms) if latency.runs else (None, None, None)
        made.add_row(
            escape(title),
            score(report.metric, result),
            *(milliseconds(value) for value in (latency.p50_ms, *spread)),
            f"{report.measurement.memory_mib:.1f} (+{report.measurement.added_mib:.1f})",
            f"{report.measurement.size_mib:.3f}",
            counted(report.params),
            counted(report.macs),
            f"{report.layers_int8}/{report.layers_int8 + report.layers_float}",
        )
    batch = result.chosen.measurement.batch
    query = f" of a query of {batch} rows" if batch > 1 else ""
    query += f" at length {result.lengths[-1]}" if result.lengths else ""
    made.caption = (
        f"latencies{query} in ms, memory (+ what the model adds) and size in MiB, "
        "INT8: layers in INT8 of all layers with weights"
    )
    if recurrent := result.chosen.layers_recurrent:
        made.caption += (
            f"; {recurrent} are LSTM or GRU, which stay float: ONNX has no form of them on integers"
        )
    if result.chosen.measurement.predicted:
        made.caption = f"latency and memory are predicted, not measured; {made.caption}"
    return made


def _sure(drop: Drop, result: FitResult) -> str:
    low, high = sorted(result.direction.change(end) for end in (drop.low, drop.high))
    return (
        f"compared sample by sample ({drop.samples}), {result.metric} changed by "
        f"{score(low, result, '+')} to {score(high, result, '+')} with {drop.confidence:.0%} confidence"
    )


def _gained(result: FitResult) -> str:
    dense, chosen = result.baseline, result.chosen
    measured, latency = chosen.measurement, chosen.measurement.latency
    speed = f"{speed_up(dense.measurement, measured):.2f}x the speed of the dense model"
    if not measured.predicted:
        speed += f" at p{latency.percentile}"
    if measured.dense_low_ms is not None and latency.bound_ms is not None:
        speed += f" (at least {measured.dense_low_ms / latency.bound_ms:.2f}x)"
    size = chosen.measurement.size_mib / dense.measurement.size_mib
    change = score(chosen.metric - dense.metric, result, "+")
    return f"{speed}, {size:.0%} of its size, {result.metric} {change}"


def _broken(breach: Breach, result: FitResult) -> str:
    if breach.line == "metric":
        side = "above the ceiling" if result.lower_is_better else "below the floor"
        return (
            f"{result.metric} is {score(breach.value, result)}, {score(breach.excess, result)} {side} of "
            f"{score(breach.limit, result)} (dense {score(result.baseline.metric, result)}, "
            f"max_drop {largest_drop(result.budget)})"
        )
    name, unit, _ = LINES[breach.line]
    name = f"p{result.budget.percentile} {name}" if breach.line == "latency_ms" else name
    more = f" ({breach.excess / breach.limit:.1%})" if breach.limit > 0 else ""
    beside = ""
    if breach.line == "latency_ms" and result.budget.whole_ms is not None:
        beside = f", which is what whole queries leave of {result.budget.whole_ms:.4g} ms"
    if breach.line == "latency_ms" and result.chosen.measurement.dense_low_ms is not None:
        speedup = result.budget.speedup
        beside = "" if speedup is None else f", which is {speedup:g}x the speed of the dense model beside it"
    return (
        f"{name} is {breach.value:.4g} {unit}, {breach.excess:.3g} {unit}{more} over the budget of "
        f"{breach.limit:.4g} {unit}{beside}"
    )
