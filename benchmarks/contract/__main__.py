"""`python -m benchmarks.contract`: the budget contract of `edgeprune fit`, case by case.

Six architectures on real data, two runtimes, two latency budgets: 0.7 and 0.4 of the dense INT8 model's
latency (of the dense float model's, where that is faster). Each case is a fit, three validations of its
bundle, and two baselines as fast as what was chosen, with the same recovery. A case is one line of JSON in
--results; cases that are there already are skipped, and a case that was interrupted is resumed. `--table`
prints the tables of such a file. `--max-drop 0.01` lets the metric bind, too, `--alone` leaves the baselines
out: give such cases a --work of their own.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from pathlib import Path

import torch

from benchmarks.contract import tasks
from benchmarks.contract.case import MAX_DROP, TARGETS, Case, run
from benchmarks.contract.tables import print_tables
from edgeprune.devices.local import LocalDevice
from edgeprune.records.codec import dumps, from_json, loads, to_json

SHARES = (0.7, 0.4)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.contract", description=__doc__)
    parser.add_argument(
        "--only", nargs="*", default=[""], metavar="WORD", help="cases such as vit-openvino-0.4"
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("EDGEPRUNE_DATA", "shared/data"))
    parser.add_argument("--work", type=Path, default=cache(), help="where weights and runs are kept")
    parser.add_argument("--results", type=Path, metavar="FILE", help="by default WORK/results.jsonl")
    parser.add_argument("--table", action="store_true", help="print the results that are there, and no more")
    parser.add_argument(
        "--prepare", action="store_true", help="train what has no published weights, and no more"
    )
    parser.add_argument("--max-drop", type=float, default=MAX_DROP, help="budget of the metric")
    parser.add_argument("--alone", action="store_true", help="without the baselines")
    options = parser.parse_args()
    results = options.results or options.work / "results.jsonl"
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if options.prepare:
        for name in tasks.TABLE:
            torch.manual_seed(0)
            task = tasks.load(name, options.data, options.work)
            print(f"{name}: {task.metric} {task.evaluate(tasks.eager(task.model)):.4f}", flush=True)
    elif not options.table:
        for name in tasks.TABLE:
            for runtime in TARGETS:
                for share in SHARES:
                    title = f"{name}-{runtime}-{share:g}"
                    if any(word in title for word in options.only) and title not in _done(results):
                        _add(results, _case(name, runtime, share, options))
    print_tables(_read(results))


def _case(name: str, runtime: str, share: float, options: argparse.Namespace) -> Case:
    started = time.monotonic()
    torch.manual_seed(0)
    task = tasks.load(name, options.data, options.work)
    given = (LocalDevice(), options.work, options.max_drop, not options.alone)
    case = run(name, task, runtime, share, *given)
    print(f"{name}-{runtime}-{share:g}: {time.monotonic() - started:.0f} s, {to_json(case)}", flush=True)
    return case


def cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "edgeprune" / "benchmarks"


def _add(path: Path, case: Case) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(dumps(to_json(case)) + "\n")


def _read(path: Path) -> list[Case]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [from_json(Case, loads(line.encode(), str(path))) for line in lines]


def _done(path: Path) -> set[str]:
    return {f"{case.task}-{case.runtime}-{case.share:g}" for case in _read(path)}


if __name__ == "__main__":
    main()
