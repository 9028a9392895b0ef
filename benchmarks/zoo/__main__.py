"""`python -m benchmarks.zoo`: every architecture, pruned from its graph alone; one table.

    python -m benchmarks.zoo                 all of them, beside Torch-Pruning when it is installed
    python -m benchmarks.zoo --only vit gpt  those whose name contains a word
Ends with status 1 when a row is not green.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import warnings

import torch

from benchmarks.zoo import ENTRIES, Entry
from benchmarks.zoo.trial import Row, measure

HEADS = (
    *(
        "architecture",
        "parameters",
        "groups",
        "units",
        "branches",
        "frozen",
        "30 %",
        "50 %",
        "exact",
        "trains",
        "reloads",
    ),
    *("ONNX", "seconds", "Torch-Pruning 1.6.1"),
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=__doc__)
    parser.add_argument("--only", nargs="*", default=[""], metavar="WORD")
    parser.add_argument("--no-peer", action="store_true", help="leave Torch-Pruning out")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # the libraries' own, by the hundred
    torch.set_num_threads(1)
    peer = not options.no_peer and importlib.util.find_spec("torch_pruning") is not None
    chosen = [entry for entry in ENTRIES if any(word.lower() in entry.name.lower() for word in options.only)]
    print(f"| {' | '.join(HEADS)} |\n|{'---|' * len(HEADS)}")
    rows = [_one(entry, peer) for entry in chosen]
    green = [row for row in rows if row is not None and row.green]
    print(f"\n{len(green)} of {len(chosen)} architectures are green.")
    for row in rows:
        if row is not None and row.frozen:
            print(f"{row.name}: {row.frozen:.2%} frozen ({row.held})")
    return 0 if len(green) == len(chosen) else 1


def _one(entry: Entry, peer: bool) -> Row | None:
    if entry.needs is not None and importlib.util.find_spec(entry.needs) is None:
        print(f"| {entry.name} | needs {entry.needs} |", flush=True)
        return None
    other = "not installed"
    if peer:
        from benchmarks.zoo.peer import compare

        other = compare(entry)
    try:
        row = measure(entry)
    except Exception as error:  # a benchmark goes on to the next architecture and ends with status 1
        print(f"| {entry.name} | {type(error).__name__}: {str(error)[:200]} | {other} |", flush=True)
        return None
    cells = (
        *(
            row.name,
            f"{row.params:,}",
            str(row.groups),
            str(row.units),
            str(row.branches),
            f"{row.frozen:.2%}",
        ),
        *(f"{share:.0%}" for share in row.reached),
        f"{row.error:.0e}",
        *("yes" if good else "no" for good in (row.trains, row.reloads, row.onnx)),
        *(f"{row.seconds:.2f}", other),
    )
    print(f"| {' | '.join(cells)} |", flush=True)
    return row


if __name__ == "__main__":
    sys.exit(main())
