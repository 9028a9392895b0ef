"""Widths of groups, dense and kept, along the network, and the layers that stay float."""

from __future__ import annotations

from dataclasses import dataclass

from edgeprune.records.trial import Candidate, Report


@dataclass(frozen=True)
class GroupWidth:
    """Units of one group in the dense model and in a candidate; 0 kept where it left with its branch."""

    name: str
    dense: int
    kept: int


def group_widths(baseline: Report, chosen: Report) -> tuple[GroupWidth, ...]:
    """Widths of all groups, in the order of the network."""
    kept = dict(chosen.kept)
    return tuple(GroupWidth(name, units, kept.get(name, units)) for name, units in baseline.kept)


def branches_left(baseline: Report, chosen: Report) -> tuple[str, ...]:
    """Names of the branches that a candidate is without."""
    known = {name for name, _ in baseline.kept}
    return tuple(name for name, units in chosen.kept if name not in known and not units)


def float_layers(candidate: Candidate) -> tuple[tuple[str, str], ...]:
    """Layers that stay float in an INT8 artefact, each with the reason."""
    reasons = (
        ("INT8 harms the metric most here for its work", candidate.float_layers),
        ("INT8 is no quicker here on this device", candidate.slow_layers),
        ("the engine runs it in float all the same", candidate.engine_layers),
    )
    return tuple((layer, reason) for reason, layers in reasons for layer in layers)
