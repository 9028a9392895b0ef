"""Reports of a fit: tables and sentences for people, one JSON document for programs."""

from __future__ import annotations

from edgeprune.report.bottleneck_lines import HEAD, bottleneck_rows, summary_lines
from edgeprune.report.bottlenecks import bottlenecks
from edgeprune.report.document import bottlenecks_document, document
from edgeprune.report.parts_table import parts_table
from edgeprune.report.table import frontier_table, table, trials_table, verdict_lines

__all__ = [
    "HEAD",
    "bottleneck_rows",
    "bottlenecks",
    "bottlenecks_document",
    "document",
    "frontier_table",
    "parts_table",
    "summary_lines",
    "table",
    "trials_table",
    "verdict_lines",
]
