"""Tables of the accuracy benchmark, from its rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.accuracy.cases import CASES, Case
from benchmarks.accuracy.rows import OURS, Goal, Row, peers_of

HEADS = ("method", "before, %", "after, %", "INT8, %", "lost", "latency", "budget used", "s", "must", "held")


def printed(rows: Sequence[Row]) -> str:
    """A table per case and budget, the dense model's figures above it."""
    parts = []
    for case in CASES:
        for share in case.goals:
            found = [row for row in rows if row.case == case.name and row.share == share]
            for setting in dict.fromkeys((row.images, row.epochs, row.minutes) for row in found):
                alike = [row for row in found if (row.images, row.epochs, row.minutes) == setting]
                parts.append(_table(case, share, alike))
    return "\n\n".join(parts)


def _table(case: Case, share: float | None, rows: Sequence[Row]) -> str:
    """Methods in the order of the case; a figure that was not measured is "-"."""
    ordered = sorted(rows, key=lambda row: case.methods.index(row.method))
    lines = [_title(case, share, ordered), "", f"| {' | '.join(HEADS)} |", f"|{'---|' * len(HEADS)}"]
    lines += [f"| {' | '.join(_cells(case, row, rows))} |" for row in ordered]
    return "\n".join(lines)


def _title(case: Case, share: float | None, rows: Sequence[Row]) -> str:
    first = rows[0]
    words = [f"**{case.title}**"]
    if share is not None:
        words.append(f"{share:g} of {case.budget}")
    if first.images:
        words.append(f"{first.images:,} training samples")
    if first.minutes is not None:
        words.append(f"{first.minutes:g} minutes of training")
    elif first.epochs:
        words.append(f"{first.epochs} epochs")
    if first.dense is not None:
        words.append(f"dense {100 * first.dense:.2f}")
    return ", ".join(words)


def _cells(case: Case, row: Row, rows: Sequence[Row]) -> list[str]:
    method = f"{row.method} ({row.version})" if row.version else row.method
    if row.out_of_reach is not None:
        reached = f"its smallest takes {row.out_of_reach:.2f}x the budget"
        return [method, "-", "-", "-", "-", reached, "-", f"{row.seconds:.0f}", "", ""]
    goal = case.goal(row.share, row.minutes) if row.method == OURS else Goal()
    demands = goal.parts(row, peers_of(row, rows))
    return [
        method,
        *(_percent(value) for value in (row.before, row.after, row.int8)),
        "-" if row.lost is None else f"{row.lost:+.2f}",
        _latency(row),
        "-" if row.used is None else f"{row.used:.1%}",
        f"{row.seconds:.0f}",
        "; ".join(words for words, _ in demands),
        _held(demands),
    ]


def _latency(row: Row) -> str:
    found = [] if row.ratio is None else [f"{row.ratio:.3f}"]
    if row.speed_up is not None:
        found.append(f"{row.speed_up:.2f}x as fast as float")
    if row.size_ratio is not None:
        found.append(f"{1 / row.size_ratio:.2f}x smaller")
    if row.peak_gib is not None:
        found.append(f"{row.peak_gib:.2f} GiB")
    return ", ".join([*found, *([row.note] if row.note else [])]) or "-"


def _held(demands: Iterable[tuple[str, bool | None]]) -> str:
    answers = [met for _, met in demands]
    words = {True: "yes", False: "no", None: "not measured"}
    return "; ".join(words[met] for met in answers)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"
