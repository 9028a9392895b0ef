"""Shortlist of INT8 variants for a full evaluation, from their errors on a subset."""

from __future__ import annotations

from collections.abc import Sequence

NEAR_BEST = 1.25  # times the smallest error: a subset of a hundred rows does not tell such variants apart
FAR_FROM_BEST = 2.0  # times the smallest error: so much worse on a subset is not better on all rows


def shortlist(errors: Sequence[float], slack: float) -> list[int]:
    """Indices into `errors` of the variants to evaluate in full, in turn until one keeps the metric.

    errors: on the subset, the simplest variant first; lower is better. slack: an error that does no harm.
    The simplest variant that is near the best goes first; the others follow by their error, and those far
    from the best are left out.
    """
    best = max(min(errors), 0.0)
    ranked = sorted(range(len(errors)), key=lambda at: (errors[at], at))
    first = min(at for at in ranked if errors[at] <= NEAR_BEST * best + slack)
    others = [at for at in ranked if at != first and errors[at] <= FAR_FROM_BEST * (best + slack)]
    return [first, *others]
