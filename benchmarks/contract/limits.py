"""`python -m benchmarks.contract.limits`: memory and size that bind, what nothing meets, and repetition.

Without recovery, which moves neither latency nor memory nor size. Per task and runtime:

- *infeasible*: 0.02 of the dense INT8 model's latency, which must miss, with the smallest candidate, and name
  a budget; then *feasible*: a fit of that budget.
- *size*, *memory*, *all*: 0.6 of its file; the middle between its peak memory and the smallest candidate's
  (most of both is the runtime's own); 0.7 of its latency with 0.7 of its file and that memory.
- *again*: the fit of *all* once more from the same measurements of the dense model and the same table.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

import edgeprune
from benchmarks.contract import tasks
from benchmarks.contract.__main__ import cache
from benchmarks.contract.case import TARGETS, Start, ordered
from edgeprune.devices.local import LocalDevice
from edgeprune.records.codec import dumps, from_json, loads, to_json
from edgeprune.records.machine import Budget
from edgeprune.records.trial import FitResult
from edgeprune.search.feasible import feasible

TASKS = ("mlp", "resnet8")
Limits = dict[str, float | None]


@dataclass(frozen=True)
class Row:
    """budget: of the lines that were limited. uses: of what was chosen, measured over allowed.

    named: the budget that a miss says would be met. same: whether a repeated fit chose the same widths first,
    and in the end; None where nothing was repeated.
    """

    task: str
    runtime: str
    kind: str
    budget: tuple[tuple[str, float], ...]
    verdict: str
    chosen: str
    uses: tuple[tuple[str, float], ...]
    builds: int
    named: tuple[tuple[str, float], ...] = ()
    same: tuple[bool, bool] | None = None


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.contract.limits", description=__doc__)
    parser.add_argument("--only", nargs="*", default=[""], metavar="WORD", help="of mlp-openvino")
    parser.add_argument("--data", type=Path, default=os.environ.get("EDGEPRUNE_DATA", "shared/data"))
    parser.add_argument("--work", type=Path, default=cache(), help="where weights and runs are kept")
    parser.add_argument("--table", action="store_true", help="print the results that are there, and no more")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    path = options.work / "limits.jsonl"
    if not options.table:
        for name in TASKS:
            for runtime in TARGETS:
                if any(word in f"{name}-{runtime}" for word in options.only):
                    for row in rows(name, runtime, options.data, options.work, _read(path)):
                        with path.open("a", encoding="utf-8") as file:
                            file.write(dumps(to_json(row)) + "\n")
                        print(row, flush=True)
    print_table(_read(path))


def rows(name: str, runtime: str, data: Path, work: Path, done: list[Row]) -> Iterator[Row]:
    """The rows that are not done yet."""
    torch.manual_seed(0)
    task, device = tasks.load(name, data, work), LocalDevice()
    start = Start.of(name, task, runtime, device, work)
    known = {row.kind: row for row in done if (row.task, row.runtime) == (name, runtime)}

    def fitted(kind: str, limits: Limits, first: Callable[[Path], None] | None = None) -> FitResult:
        out = work / "runs" / f"{name}-{runtime}-{kind}"
        if first is not None and not out.exists():
            first(out)
        lines = {**ordered(device, runtime), "max_drop": 1.0, "recover": "none", **limits}
        return edgeprune.fit(task, **lines, out=out, resume=True)

    def row(kind: str, limits: Limits) -> Iterator[Row]:
        if kind not in known:
            known[kind] = _row(name, runtime, kind, fitted(kind, limits))
            yield known[kind]

    impossible: Limits = {"latency_ms": start.budget_ms(0.02)}
    yield from row("infeasible", impossible)
    if known["infeasible"].named:
        yield from row("feasible", dict(known["infeasible"].named))
    smallest = fitted("infeasible", impossible).chosen.measurement
    memory_mib = (start.memory_mib + smallest.memory_mib) / 2
    together: Limits = {
        "latency_ms": start.budget_ms(0.7),
        "memory_mib": memory_mib,
        "size_mib": 0.7 * start.size_mib,
    }
    yield from row("size", {"latency_ms": 1e3, "size_mib": 0.6 * start.size_mib})
    yield from row("memory", {"latency_ms": 1e3, "memory_mib": memory_mib})
    yield from row("all", together)
    if "again" not in known:
        once = fitted("all", together)
        again = fitted("again", together, lambda out: _rewind(Path(once.out), out))
        yield _row(name, runtime, "again", again, once)


def _row(name: str, runtime: str, kind: str, found: FitResult, once: FitResult | None = None) -> Row:
    measured = found.chosen.measurement
    values = {
        "latency_ms": measured.latency.bound_ms or measured.latency.max_ms,
        "memory_mib": measured.memory_mib,
        "size_mib": measured.size_mib,
    }
    named = feasible(found.trials, found.budget, found.drafts) if found.verdict.kind == "misses" else None
    same = None
    if once is not None:
        first, last = (
            (next((r.candidate for r in fit.trials if r.candidate.kept), None), fit.chosen.candidate)
            for fit in (once, found)
        )
        same = first[0] == last[0], first[1] == last[1]
    budget = dict(_lines(found.budget))
    return Row(
        task=name,
        runtime=runtime,
        kind=kind,
        budget=tuple(budget.items()),
        verdict=found.verdict.kind,
        chosen=found.chosen.name,
        uses=tuple((line, values[line] / limit) for line, limit in budget.items()),
        builds=sum(bool(report.candidate.kept) for report in found.trials),
        named=() if named is None else _lines(named.budget),
        same=same,
    )


def _lines(budget: Budget) -> tuple[tuple[str, float], ...]:
    lines = {line: getattr(budget, line) for line in ("latency_ms", "memory_mib", "size_mib")}
    return tuple((line, limit) for line, limit in lines.items() if limit is not None)


def _rewind(once: Path, out: Path) -> None:
    """A copy of a finished run that has forgotten everything from its first pruned candidate on."""
    shutil.copytree(once, out)
    ledger = out / "ledger.jsonl"
    kept: list[str] = []
    for line in ledger.read_text().splitlines(keepends=True):
        if json.loads(line).get("key", "").startswith("trial"):
            break
        kept.append(line)
    ledger.write_text("".join(kept))


def print_table(found: list[Row]) -> None:
    heads = (
        "task",
        "runtime",
        "limits",
        "budget",
        "verdict",
        "used",
        "builds",
        "would fit",
        "the same widths",
    )
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for row in found:
        cells = [tasks.TITLES[row.task], row.runtime, row.kind, _told(row.budget, "{:.4g}")]
        cells += [f"{row.verdict}: {row.chosen}", _told(row.uses, "{:.1%}"), str(row.builds)]
        cells += [_told(row.named, "{:.4g}"), ""]
        if row.same is not None:
            cells[-1] = f"first {'yes' if row.same[0] else 'no'}, chosen {'yes' if row.same[1] else 'no'}"
        print(f"| {' | '.join(cells)} |")


def _told(lines: tuple[tuple[str, float], ...], form: str) -> str:
    return ", ".join(f"{line} {form.format(value)}" for line, value in lines)


def _read(path: Path) -> list[Row]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [from_json(Row, loads(line.encode(), str(path))) for line in lines]


if __name__ == "__main__":
    main()
