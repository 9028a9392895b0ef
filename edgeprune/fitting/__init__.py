"""The fit: from a task, a target and a budget to a proven, packed artefact."""

from edgeprune.fitting.loop import fit

__all__ = ["fit"]
