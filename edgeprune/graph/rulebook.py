"""Table of all coupling rules: its import registers those of every kind of operation."""

from __future__ import annotations

from edgeprune.graph import images, joining, layout, norms, onnx_operator, recurrent, scattering  # noqa: F401
from edgeprune.graph.rules import RULES

__all__ = ["RULES"]
