"""Line about a finished trial, for a log of the run: what is kept, the metric, and what each limit leaves."""

from __future__ import annotations

from collections.abc import Mapping

from edgeprune.records.machine import Budget
from edgeprune.records.trial import Line, Measurement, Report, limited_lines

_UNITS: Mapping[Line, str] = {"memory_mib": "MiB of memory", "size_mib": "MiB of files"}


def trial_line(
    report: Report, dense_macs: int, budget: Budget, metric: str, proven: bool, seconds: float
) -> str:
    """One line about a trial.

    dense_macs: of the dense model. proven: whether the measurement is of a proof. seconds: that the trial
    took, or that its proof was timed.
    """
    layers = report.layers_int8 + report.layers_float
    work = f"{report.macs / dense_macs:.1%} of the work" if dense_macs else "no work"
    judged = proven and not report.measurement.predicted
    words = [
        f"proof says {report.verdict.kind}" if judged else "finished",
        f"{work}, {report.layers_int8} of {layers} layers in integers",
        f"{metric} {report.metric:.4g}",
        *_limits(report.measurement, budget),
        f"{seconds:.0f} s",
    ]
    return ", ".join(words)


def _whole(measured: Measurement, budget: Budget) -> str:
    """Clause about the bound of whole queries, where a proof timed them."""
    if measured.whole is None or measured.whole.bound_ms is None or budget.whole_ms is None:
        return ""
    return f" that whole queries leave, which take {measured.whole.bound_ms:.4g} of {budget.whole_ms:.4g} ms"


def _limits(measured: Measurement, budget: Budget) -> list[str]:
    """Each limit of the budget with what was measured; the median where latency has no limit."""
    latency = measured.latency
    shown = f"p50 {latency.p50_ms:.4g} ms"
    words = []
    for line, (value, limit) in limited_lines(measured, budget).items():
        if line != "latency_ms":
            words.append(f"{value:.4g} of {limit:.4g} {_UNITS[line]}")
        elif measured.predicted:
            shown = f"p50 {value:.4g} of {limit:.4g} ms, predicted"
        else:
            what = "slowest run" if latency.bound_ms is None else f"bound of p{latency.percentile}"
            shown = f"{what} {value:.4g} of {limit:.4g} ms{_whole(measured, budget)}"
    return [shown, *words]
