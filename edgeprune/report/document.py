"""The `--json` document of a fit: its keys are a contract with the programs that read it."""

from __future__ import annotations

from edgeprune.records.codec import JSON, to_json
from edgeprune.records.trial import Candidate, FitResult, Report, Verdict
from edgeprune.search.feasible import Feasible, feasible


def document(result: FitResult) -> dict[str, JSON]:
    """Units are in the keys; sizes are MiB; `chosen` is the candidate that `verdict` is about."""
    return {
        "verdict": result.verdict.kind,
        "breaches": _breaches(result.verdict),
        "feasible": to_json(_feasible(result)),
        "assumptions": list(result.chosen.measurement.assumptions),
        "metric": result.metric,
        "budget": to_json(result.budget),
        "baseline": _measured(result.baseline),
        "chosen": _candidate(result.chosen),
        "frontier": [_candidate(report) for report in result.frontier],
        "trials": [_candidate(report) for report in result.trials],
        "seconds": result.seconds,
        "bundle": result.bundle,
        "profile": result.profile.name,
        "target": result.target.name,
        "runtime": result.runtime,
        "out": result.out,
    }


def _feasible(result: FitResult) -> Feasible | None:
    return feasible(result.trials, result.budget) if result.verdict.kind == "misses" else None


def _measured(report: Report) -> dict[str, JSON]:
    measurement = report.measurement
    latency = measurement.latency
    return {
        "name": report.name,
        "metric": report.metric,
        "latency_ms": {
            "p50": latency.p50_ms,
            "p90": None if measurement.predicted else latency.p90_ms,
            "p99": None if measurement.predicted else latency.p99_ms,
            "bound": latency.bound_ms,
            "runs": latency.runs,
        },
        "memory_mib": measurement.memory_mib,
        "size_mib": measurement.size_mib,
        "params": report.params,
        "macs": report.macs,
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
        "artefact": report.artefact,
        "verdict": report.verdict.kind,
        "breaches": _breaches(report.verdict),
        **({} if report.drop is None else {"drop": to_json(report.drop)}),
    }


def _given_back(candidate: Candidate) -> list[JSON]:
    """Layers left out of INT8, and why: for the metric, for no gain in speed, or by their engine."""
    reasons = (
        ("metric", candidate.float_layers),
        ("slower", candidate.slow_layers),
        ("engine", candidate.engine_layers),
    )
    return [{"layer": layer, "reason": reason} for reason, layers in reasons for layer in layers]


def _precision(report: Report) -> dict[str, JSON]:
    """Layers by what they compute in; a weight-only precision has a key of its own."""
    precision = report.candidate.precision
    counted = "int8" if precision == "float32" else precision
    return {"int8": 0, "float": report.layers_float, counted: report.layers_int8}


def _breaches(verdict: Verdict) -> JSON:
    return [
        {"line": breach.line, "value": breach.value, "limit": breach.limit, "excess": breach.excess}
        for breach in verdict.breaches
    ]
