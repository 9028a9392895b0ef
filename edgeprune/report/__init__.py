"""What a fit found, for people (a table, sentences) and for programs (one JSON document)."""

from __future__ import annotations

from edgeprune.report.document import document
from edgeprune.report.table import frontier_table, table, trials_table, verdict_lines

__all__ = ["document", "frontier_table", "table", "trials_table", "verdict_lines"]
