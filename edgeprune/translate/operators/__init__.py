"""Translations of the ONNX operators, one file for each kind; their import fills the table."""

from __future__ import annotations

from edgeprune.translate.calls import TABLE
from edgeprune.translate.operators import arranging, elementwise, reducing, resizing, steps, weighted  # noqa: F401

__all__ = ["TABLE"]
