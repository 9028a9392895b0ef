"""Reports of a fit: tables and sentences for people, one JSON document for programs."""

from __future__ import annotations

from edgeprune.report.document import document
from edgeprune.report.parts_table import parts_table
from edgeprune.report.table import frontier_table, table, trials_table, verdict_lines

__all__ = ["document", "frontier_table", "parts_table", "table", "trials_table", "verdict_lines"]
