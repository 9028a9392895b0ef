"""Best of each budget line: the reports that come nearest to every line alone, told when nothing fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeprune.records.direction import Direction
from edgeprune.records.machine import Budget
from edgeprune.records.trial import DraftReport, Line, Report, limited_lines


@dataclass(frozen=True)
class BestOfLine:
    """The report that is best in one budget line, with its value there and the limit.

    draft: name of a draft that is better there than any report; empty where none is.
    """

    line: Line
    report: Report
    value: float
    limit: float
    draft: str = ""


def best_of_lines(
    reports: Sequence[Report],
    budget: Budget,
    direction: Direction,
    baseline_metric: float,
    drafts: Sequence[DraftReport] = (),
) -> tuple[BestOfLine, ...]:
    """Best of each line of a resolved budget; the metric's last, in which drafts have no part.

    direction: of the metric.
    """
    found = []
    for line in limited_lines(reports[0].measurement, budget):
        values = {report: limited_lines(report.measurement, budget)[line] for report in reports}
        best = min(reports, key=lambda report: values[report][0])
        drafted = [(*limited_lines(each.measurement, budget)[line], each.name) for each in drafts]
        value, limit, name = min([(*values[best], ""), *drafted], key=lambda each: each[0])
        found.append(BestOfLine(line, best, value, limit, name))
    best = min(reports, key=lambda report: direction.cost(report.metric))
    limit = direction.limit(baseline_metric, budget.max_drop)
    return (*found, BestOfLine("metric", best, best.metric, limit))
