"""JSON document of a fit, for `--json`; programs rely on its keys."""

from __future__ import annotations

from edgeprune.records.codec import JSON, to_json
from edgeprune.records.trial import (
    Candidate,
    CascadeResult,
    DraftReport,
    FitResult,
    LengthTimes,
    Occasion,
    Report,
    TierResult,
    Verdict,
    speed_up,
)
from edgeprune.report.asked import unbound
from edgeprune.report.bottlenecks import Bottlenecks
from edgeprune.report.missed import bests, is_trained
from edgeprune.search.error_bar import open_lines
from edgeprune.search.feasible import Feasible, feasible

DOCUMENT_SCHEMA = 1  # moves when a key goes or changes its meaning


def document(result: FitResult) -> dict[str, JSON]:
    """JSON document of a fit's result; units are in the keys, and `chosen` is the candidate of `verdict`.

    With several budgets there are `tiers` and `cascade`; the other keys are then those of the tier that
    decides the verdict (`records.trial.FitResult`), while `frontier` and `trials` are those of all tiers.
    """
    measured = result.chosen.measurement
    return {
        "schema": DOCUMENT_SCHEMA,
        "verdict": result.verdict.kind,
        "answer": _answer(result),
        "best_of_lines": _bests(result),
        "unbound": unbound(result),
        "open_lines": list(open_lines(measured, result.budget)),
        "breaches": _breaches(result.verdict),
        "unsettled": result.unsettled,
        "feasible": to_json(_feasible(result)),
        "assumptions": list(measured.assumptions),
        "remarks": list(result.remarks),
        "metric": result.metric,
        "lower_is_better": result.lower_is_better,
        "budget": to_json(result.budget),
        "sources": dict(result.sources),
        "baseline": _measured(result.baseline),
        "chosen": _candidate(result.chosen),
        "speedup": _speedup(result),
        "frontier": [_candidate(report) for report in result.frontier],
        "trials": [_candidate(report) for report in result.trials],
        "drafts": [_draft(draft) for draft in result.drafts],
        "whole": [to_json(queries) for queries in result.whole],
        "seconds": result.seconds,
        "bundle": result.bundle,
        "profile": result.profile.name,
        "threads": measured.threads,
        "batch": measured.batch,
        "fixed_batch": result.fixed_batch,
        "lengths": list(result.lengths),
        "at_lengths": [_at_length(each) for each in result.at_lengths],
        "target": result.target.name,
        "runtime": result.runtime,
        "runtime_version": measured.runtime,
        "occasion": _occasion(result.occasion),
        "out": result.out,
        **(_family(result) if result.tiers else {}),
    }


def _at_length(timed: LengthTimes) -> JSON:
    """Latency of a trial at one of the shorter lengths."""
    latency = timed.latency
    told = {} if latency is None else {"p50_ms": latency.p50_ms, "p90_ms": latency.p90_ms}
    return {"name": timed.name, "length": timed.length, **told}


def bottlenecks_document(found: Bottlenecks) -> dict[str, JSON]:
    """JSON document of bottlenecks; units are in the keys."""
    told = to_json(found)
    return {"schema": DOCUMENT_SCHEMA, **(told if isinstance(told, dict) else {})}


def _occasion(occasion: Occasion | None) -> JSON:
    told = to_json(occasion)
    if isinstance(told, dict) and occasion is not None and occasion.project is not None:
        use = occasion.project
        told["project"] = {"file": use.file, "keys": dict(use.keys), "set_aside": dict(use.set_aside)}
    return told


def _speedup(result: FitResult | TierResult) -> JSON:
    """Speed-up of the chosen candidate at the budget's percentile, and what it is at least where proven."""
    measured = result.chosen.measurement
    low_ms, bound_ms = measured.dense_low_ms, measured.latency.bound_ms
    return {
        "percentile": measured.latency.percentile,
        "value": speed_up(result.baseline.measurement, measured),
        "bound": None if low_ms is None or bound_ms is None else low_ms / bound_ms,
    }


def _answer(result: FitResult | TierResult) -> str | None:
    """Name of the candidate that answers a budget; null where `chosen` is not found to hold it."""
    return result.chosen.name if result.verdict.kind in ("fits", "predicted") else None


def _bests(result: FitResult) -> list[JSON]:
    """Best of each line of a budget that is missed."""
    if result.verdict.kind != "misses":
        return []
    return [
        {
            "line": best.line,
            "name": best.draft or best.report.name,
            "value": best.value,
            "limit": best.limit,
            "trained": not best.draft and is_trained(best.report),
            "draft": bool(best.draft),
        }
        for best in bests(result)
    ]


def _family(result: FitResult) -> dict[str, JSON]:
    deciding = next(tier.name for tier in result.tiers if tier.verdict.kind == result.verdict.kind)
    return {
        "tier": deciding,
        "tiers": [_tier(result.of_tier(at), tier) for at, tier in enumerate(result.tiers, 1)],
        "cascade": None if result.cascade is None else _cascade(result.cascade),
        **({} if result.no_cascade is None else {"no_cascade": result.no_cascade}),
    }


def _tier(result: FitResult, tier: TierResult) -> dict[str, JSON]:
    """Document of one tier: the keys of a fit with this budget alone, without those that all tiers share."""
    return {
        "name": tier.name,
        "verdict": tier.verdict.kind,
        "answer": _answer(tier),
        "best_of_lines": _bests(result),
        "unbound": unbound(result),
        "open_lines": list(open_lines(tier.chosen.measurement, tier.budget)),
        "breaches": _breaches(tier.verdict),
        "unsettled": tier.unsettled,
        "assumptions": list(tier.chosen.measurement.assumptions),
        "budget": to_json(tier.budget),
        "sources": dict(tier.sources),
        "baseline": _measured(tier.baseline),
        "chosen": _candidate(tier.chosen),
        "speedup": _speedup(tier),
        "bundle": tier.bundle,
        "profile": tier.profile.name,
        "threads": tier.chosen.measurement.threads,
        "batch": tier.chosen.measurement.batch,
    }


def _cascade(cascade: CascadeResult) -> dict[str, JSON]:
    """Document of a cascade, its stages in the order of asking; the last stage has no `threshold`."""
    return {
        "stages": [
            {"tier": name, "threshold": threshold, "share": share}
            for name, threshold, share in zip(
                cascade.tiers, (*cascade.thresholds, 0.0), cascade.shares, strict=True
            )
        ],
        "metric": cascade.metric,
        "metric_alone": cascade.metric_alone,
        "drop": to_json(cascade.drop),
        "latency_ms": cascade.cost_ms,
        "latency_ms_alone": cascade.cost_alone_ms,
        "saving": cascade.saving,
        "memory_mib": cascade.memory_mib,
        "calibrated_on": cascade.calibrated_on,
        "reported_on": cascade.drop.samples,
    }


def _feasible(result: FitResult) -> Feasible | None:
    return feasible(result.trials, result.budget, result.drafts) if result.verdict.kind == "misses" else None


def _measured(report: Report) -> dict[str, JSON]:
    return {
        **_draft(report),
        "metric": report.metric,
        "params": report.params,
        "macs": report.macs,
    }


def _draft(report: Report | DraftReport) -> dict[str, JSON]:
    measurement = report.measurement
    latency = measurement.latency
    return {
        "name": report.name,
        "latency_ms": {
            "p50": latency.p50_ms,
            "p90": None if measurement.predicted else latency.p90_ms,
            "p99": None if measurement.predicted else latency.p99_ms,
            "bound": latency.bound_ms,
            "runs": latency.runs,
        },
        "memory_mib": measurement.memory_mib,
        "memory_added_mib": measurement.added_mib,
        "size_mib": measurement.size_mib,
    }


def _candidate(report: Report) -> dict[str, JSON]:
    return {
        **_measured(report),
        "precision": _precision(report),
        "calibrator": report.candidate.calibrator,
        "float_layers": list(report.candidate.float_layers),
        "given_back": _given_back(report.candidate),
        "kept": dict(report.kept),
        "recover": [
            {"rung": rung, "before": before, "after": after, "kept": kept}
            for rung, before, after, kept in report.recovered
        ],
        "trained": is_trained(report),
        "training": [to_json(each) for each in report.training],
        "artefact": report.artefact,
        "verdict": report.verdict.kind,
        "breaches": _breaches(report.verdict),
        "error_bar": to_json(report.measurement.error_bar),
        **({} if report.drop is None else {"drop": to_json(report.drop)}),
    }


def _given_back(candidate: Candidate) -> list[JSON]:
    """Layers given back to float, each with the reason: the metric, no gain in latency, or the engine."""
    reasons = (
        ("metric", candidate.float_layers),
        ("slower", candidate.slow_layers),
        ("engine", candidate.engine_layers),
    )
    return [{"layer": layer, "reason": reason} for reason, layers in reasons for layer in layers]


def _precision(report: Report) -> dict[str, JSON]:
    """Number of layers by precision; a weight-only precision has a key of its own."""
    precision = report.candidate.precision
    counted = "int8" if precision == "float32" else precision
    return {"int8": 0, "float": report.layers_float, counted: report.layers_int8}


def _breaches(verdict: Verdict) -> JSON:
    return [
        {"line": breach.line, "value": breach.value, "limit": breach.limit, "excess": breach.excess}
        for breach in verdict.breaches
    ]
