"""Translations of the ONNX operators, one file for each kind; their import fills the table."""

from __future__ import annotations

from edgeprune.translate.calls import TABLE
from edgeprune.translate.operators import (  # noqa: F401
    arranging,
    as_given,
    elementwise,
    reducing,
    resizing,
    steps,
    weighted,
)

__all__ = ["TABLE"]
