"""Finished fit as an entry of an experiment tracker: what was asked, what was measured, and the answer.

Names hold the characters that MLflow accepts; values that were not measured are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from edgeprune.records.trial import FitResult, Report, Verdict, speed_up
from edgeprune.report.table import verdict_lines
from edgeprune.results import PAGE, RESULT

_REFUSED = re.compile(r"[^\w\-. ]")  # in names of metrics: what MLflow refuses, and its slash of folders
_LINES = ("latency_ms", "whole_ms", "speedup", "memory_mib", "size_mib", "max_drop", "max_drop_percent")


@dataclass(frozen=True)
class TrackedRun:
    """Entry about one fit. began_ms, ended_ms: since 1970; None in what earlier versions wrote.

    params: as texts. metrics: finite numbers; those of the dense model begin with `dense.`, those of one of
    several budgets with `tier N.`, the largest first. files: in the run folder.
    """

    name: str
    began_ms: int | None
    ended_ms: int | None
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]
    description: str
    files: tuple[Path, ...]


def tracked_run(result: FitResult, folder: Path) -> TrackedRun:
    """Entry about a finished fit. folder: of the run, wherever it lies now."""
    metrics = {f"dense.{name}": value for name, value in _figures(result.baseline, result)}
    metrics.update(_figures(result.chosen, result))
    metrics["speedup"] = speed_up(result.baseline.measurement, result.chosen.measurement)
    metrics["seconds"] = result.seconds
    metrics["trials"] = float(len(result.trials))
    if result.chosen.drop is not None:
        metrics.update({"drop_low": result.chosen.drop.low, "drop_high": result.chosen.drop.high})
    tags = dict(_tags(result))
    for number, tier in enumerate(result.tiers, 1):
        metrics.update({f"tier {number}.{name}": value for name, value in _figures(tier.chosen, result)})
        tags[f"edgeprune.tier {number}"] = f"{tier.name}: {_told(tier.verdict)}, {tier.chosen.name}"
    began_ms = None
    if result.occasion is not None:
        began_ms = round(1e3 * datetime.fromisoformat(result.occasion.date).timestamp())
    return TrackedRun(
        name=folder.resolve().name,
        began_ms=began_ms,
        ended_ms=None if began_ms is None else began_ms + round(1e3 * result.seconds),
        params=dict(_asked(result)),
        metrics=metrics,
        tags=tags,
        description="\n".join(verdict_lines(result)),
        files=tuple(_files(result, folder)),
    )


def _asked(result: FitResult) -> Iterator[tuple[str, str]]:
    """What was asked: the lines of the budget with who said them, and how the model is served."""
    budget, measured = result.budget, result.chosen.measurement
    sources = dict(result.sources)
    for line in (
        "latency_ms",
        "whole_ms",
        "speedup",
        "memory_mib",
        "size_mib",
        "max_drop",
        "max_drop_percent",
    ):
        value = getattr(budget, line)
        if value is not None:
            yield f"budget.{line}", f"{value:.6g}"
        if line in sources:
            yield f"budget.{line}.source", sources[line]
    yield "budget.percentile", f"{budget.percentile}"
    yield from (("target", result.target.name), ("profile", result.profile.name))
    yield from (("threads", f"{measured.threads}"), ("batch", f"{measured.batch}"))
    yield "runtime", result.runtime
    yield "metric", result.metric
    if (occasion := result.occasion) is not None:
        yield from (("device", occasion.device), ("command", occasion.command))
        if occasion.seed is not None:
            yield "seed", f"{occasion.seed}"


def _figures(report: Report, result: FitResult) -> Iterator[tuple[str, float]]:
    """Figures of a model, by name with the unit."""
    measured, latency = report.measurement, report.measurement.latency
    yield f"metric.{_REFUSED.sub('_', result.metric)}", report.metric
    yield "latency_p50_ms", latency.p50_ms
    if latency.runs:  # a prediction has no distribution
        yield from (("latency_p90_ms", latency.p90_ms), ("latency_p99_ms", latency.p99_ms))
        yield "latency_max_ms", latency.max_ms
    if latency.bound_ms is not None:
        yield f"latency_p{latency.percentile}_bound_ms", latency.bound_ms
    queries = next((each for each in result.whole if each.name == report.name), measured.whole)
    if queries is not None:
        yield from (("whole_p50_ms", queries.whole.p50_ms), ("whole_p90_ms", queries.whole.p90_ms))
        if queries.bound_ms is not None:
            yield f"whole_p{queries.percentile}_bound_ms", queries.bound_ms
    yield from (("memory_mib", measured.memory_mib), ("memory_added_mib", measured.added_mib))
    yield "size_mib", measured.size_mib
    yield from (("params", float(report.params)), ("macs", float(report.macs)))
    yield from (("layers_int8", float(report.layers_int8)), ("layers_float", float(report.layers_float)))


def _tags(result: FitResult) -> Iterator[tuple[str, str]]:
    measured, occasion = result.chosen.measurement, result.occasion
    found = {
        "verdict": _told(result.verdict),
        "candidate": result.chosen.name,
        "precision": result.chosen.candidate.precision,
        "target": result.target.name,
        "profile": result.profile.name,
        "runtime": measured.runtime,
        "measured": "predicted" if measured.predicted else "measured",
        "artefact_sha256": measured.artefact_sha256,
    }
    if occasion is not None:
        found |= {"device": occasion.device, "machine": occasion.machine}
        found |= {f"version.{name}": version for name, version in occasion.versions}
    yield from ((f"edgeprune.{name}", value) for name, value in found.items() if value)


def _told(verdict: Verdict) -> str:
    broken = ", ".join(breach.line for breach in verdict.breaches)
    return f"{verdict.kind}{f' ({broken})' if broken else ''}"


def _files(result: FitResult, folder: Path) -> Iterator[Path]:
    """Files of the run folder that are there; a bundle that was written elsewhere is not."""
    bundles = [result.bundle, *(tier.bundle for tier in result.tiers)]
    names = [RESULT, PAGE, *dict.fromkeys(Path(bundle).name for bundle in bundles if bundle is not None)]
    yield from (folder / name for name in names if (folder / name).is_file())
