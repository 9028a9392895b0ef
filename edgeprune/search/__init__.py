"""Decisions of a fit, from numbers alone: no torch, no device, no clock.

The allocation of widths, branches and precisions:

    problem.py       decisions with values, tables of costs -> `Problem`
    elimination.py   the largest sum of such tables, and bounds on it
    multipliers.py   Lagrange multipliers at which the bound is the lowest
    moves.py         repair and improvement by single moves
    sweep.py         partial allocations that may still become the best
    allocate.py      all of them: `allocate(problem, limits) -> Allocation`
    width_errors.py  measured errors of a few widths -> an error for each, the value of an option
    ranking.py       without tables: units for a share of the work, by a global ranking

The search around it, and what it finds:

    bracketing.py    the share of work to try next, and the zone of the budget where a search stops
    shortlist.py     INT8 variants to evaluate in full
    agreement.py     whether a runtime computes what an INT8 artefact says
    session_blocks.py  the runs of a session that count
    judge.py         bounds of latency percentiles, and verdicts
    paired.py        the confidence interval of a metric's drop
    frontier.py      the trials that no other dominates
    feasible.py      the budget that would be met, when nothing fits
    cascade.py       thresholds between the models of several budgets
"""
