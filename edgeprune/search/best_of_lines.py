"""Best of each budget line: the reports that come nearest to every line alone, told when nothing fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeprune.records.direction import Direction
from edgeprune.records.machine import Budget
from edgeprune.records.trial import Line, Report, limited_lines


@dataclass(frozen=True)
class BestOfLine:
    """The report that is best in one budget line, with its value there and the limit."""

    line: Line
    report: Report
    value: float
    limit: float


def best_of_lines(
    reports: Sequence[Report], budget: Budget, direction: Direction, baseline_metric: float
) -> tuple[BestOfLine, ...]:
    """Best of each line of a resolved budget; the metric's last. direction: of the metric."""
    found = []
    for line in limited_lines(reports[0].measurement, budget):
        values = {report: limited_lines(report.measurement, budget)[line] for report in reports}
        best = min(reports, key=lambda report: values[report][0])
        found.append(BestOfLine(line, best, *values[best]))
    best = min(reports, key=lambda report: direction.cost(report.metric))
    limit = direction.limit(baseline_metric, budget.max_drop)
    return (*found, BestOfLine("metric", best, best.metric, limit))
