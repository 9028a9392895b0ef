"""The tables of the budget contract, from the cases that were run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median

from benchmarks.contract.case import Case, Compared
from benchmarks.contract.tasks import TITLES

POINTS = 0.002  # a metric that is worse by more than so much is worse
EQUAL = 0.05  # share of a latency by which two may differ and are as fast


def print_tables(cases: Sequence[Case]) -> None:
    """One line per case, then what must hold over all of them."""
    heads = ("task", "runtime", "budget", "dense float, ms", "INT8, ms", "budget, ms", "verdict")
    heads += ("use", "validated", "builds", "search, s", "training, s", "metric, dense", "chosen")
    _table(heads, (_budget_row(case) for case in cases))
    print()
    compared = [case for case in cases if case.baselines]
    if compared:
        heads = ("task", "runtime", "budget", "dense", "ours", "uniform", "latency", "global L2", "latency")
        _table(heads, map(_metric_row, compared))
        print()
    for line in _summary(cases):
        print(f"- {line}")


def _budget_row(case: Case) -> list[str]:
    checked = ", ".join(
        f"{found.verdict} {found.use:.3f}" if found.use is not None else found.verdict
        for found in case.validations
    )
    return [
        *(TITLES[case.task], case.runtime, f"{case.share:g}"),
        f"{case.float_ms:.3f}",
        "-" if case.int8_ms is None else f"{case.int8_ms:.3f}",
        f"{case.budget_ms:.3f}",
        f"{case.verdict}: {case.chosen}",
        "-" if case.use is None else f"{case.use:.1%}",
        checked,
        str(len(case.builds)),
        f"{case.search_seconds:.0f}",
        f"{case.training_seconds:.0f}",
        f"{case.dense_metric:.4f}",
        f"{case.metric:.4f}" if case.verdict == "fits" else "-",
    ]


def _metric_row(case: Case) -> list[str]:
    found = [
        TITLES[case.task],
        case.runtime,
        f"{case.share:g}",
        f"{case.dense_metric:.4f}",
        f"{case.metric:.4f}",
    ]
    for _, baseline in case.baselines:
        found += [_against(case, baseline), f"{baseline.ratio:.3f}"]
    return found


def _against(case: Case, baseline: Compared) -> str:
    """The baseline's metric, and how much better ours is, with its interval where samples tell."""
    gain = case.metric - baseline.metric
    if baseline.drop is None:
        return f"{baseline.metric:.4f} ({gain:+.4f})"
    return f"{baseline.metric:.4f} ({gain:+.4f}, {baseline.drop.low:+.3f} to {baseline.drop.high:+.3f})"


def _summary(cases: Sequence[Case]) -> Iterable[str]:
    fits = [case for case in cases if case.verdict == "fits"]
    uses = sorted(case.use for case in fits if case.use is not None and case.builds)
    checked = [(case, found) for case in cases for found in case.validations]
    over = [found for _, found in checked if found.verdict == "misses"]
    open_ = [found for _, found in checked if found.verdict == "inconclusive"]
    yield f"{len(cases)} cases: {len(fits)} fit, {', '.join(_others(cases)) or 'no other verdict'}"
    if uses:
        yield f"use of the latency budget by pruned models: median {median(uses):.1%}, worst {uses[0]:.1%}"
        below = [f"{_name(case)} {case.use:.1%}{' (a step)' * case.step}" for case in fits if _low(case)]
        yield f"below 93 %: {', '.join(below) or 'none'}"
    yield f"validations over budget: {len(over)} of {len(checked)} ({len(open_)} inconclusive)"
    counts = [len(case.builds) for case in cases]
    if counts:
        yield f"pruned models built, trained ones too: at most {max(counts)}, median {median(counts):g}"
        yield f"search without training: at most {max(case.search_seconds for case in cases):.0f} s"
    for at, name in enumerate(("uniform", "global L2")):
        yield from _compared(name, [(case, case.baselines[at][1]) for case in cases if case.baselines])


def _compared(name: str, pairs: Sequence[tuple[Case, Compared]]) -> Iterable[str]:
    """Where a baseline is as fast as ours, whose metric is better; then where it is slower or faster."""
    equal = [(case, baseline) for case, baseline in pairs if abs(baseline.ratio - 1) <= EQUAL]
    if equal:
        gains = [case.metric - baseline.metric for case, baseline in equal]
        better = sum(gain > 0 for gain in gains)
        worse = [
            f"{_name(case)} {100 * gain:+.1f}"
            for (case, _), gain in zip(equal, gains, strict=True)
            if gain < -POINTS
        ]
        yield (
            f"against {name} where it is as fast: better in {better} of {len(equal)}, "
            f"mean {100 * sum(gains) / len(gains):+.1f} points; "
            f"worse by more than 0.2: {', '.join(worse) or 'none'}"
        )
    decided = [case.metric > baseline.metric for case, baseline in pairs if _decided(case, baseline)]
    if decided:
        yield (
            f"against {name} where it is as fast, or slower and worse, or faster and better: "
            f"better in {sum(decided)} of {len(decided)}"
        )
    other = [
        f"{_name(case)} {baseline.ratio - 1:+.0%} latency, ours {100 * (case.metric - baseline.metric):+.1f}"
        for case, baseline in pairs
        if (case, baseline) not in equal
    ]
    if other:
        yield f"{name} further from our latency than {EQUAL:.0%}: {'; '.join(other)}"


def _decided(case: Case, baseline: Compared) -> bool:
    """Whether it is plain who is better at equal latency: what is slower and worse is worse."""
    if abs(baseline.ratio - 1) <= EQUAL:
        return True
    slower = baseline.ratio > 1
    return case.metric > baseline.metric if slower else case.metric < baseline.metric


def _low(case: Case) -> bool:
    return case.use is not None and bool(case.builds) and case.use < 0.93


def _others(cases: Sequence[Case]) -> list[str]:
    return [f"{_name(case)} {case.verdict}" for case in cases if case.verdict != "fits"]


def _name(case: Case) -> str:
    return f"{case.task}-{case.runtime}-{case.share:g}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)
