"""Which forms are worth a full evaluation, once all of them were compared on a subset."""

from __future__ import annotations

from collections.abc import Sequence

NEAR = 1.25  # times the smallest error: a subset of a hundred rows does not tell such forms apart
FAR = 2.0  # times the smallest error: what is that much worse on a subset is not better on everything


def shortlist(errors: Sequence[float], slack: float) -> list[int]:
    """The forms to evaluate in full, in turn until one holds: indices into `errors`.

    errors: on the subset, the simplest form first; lower is better. slack: an error that does no harm.
    The simplest form that is near the best goes first; the others follow by their error, and those far
    from the best are left out.
    """
    best = max(min(errors), 0.0)
    ranked = sorted(range(len(errors)), key=lambda at: (errors[at], at))
    first = min(at for at in ranked if errors[at] <= NEAR * best + slack)
    worth = [at for at in ranked if at != first and errors[at] <= FAR * (best + slack)]
    return [first, *worth]
