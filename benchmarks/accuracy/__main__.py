"""`python -m benchmarks.accuracy`: accuracy at equal measured latency, ours beside Torch-Pruning 1.6.1.

Every method gets the same trained network, training samples, epochs and calibration images, and the same
budget: a share of the dense INT8 model's latency, measured in turn with it in one session. A row is appended
to --rows as soon as it is finished, and rows that are there are skipped (`--again` makes them anew; the last
one counts). `--table` prints the tables of such a file.

The peer's ratio is searched until its INT8 model is as fast as the budget; ours is within it. What a peer
cannot reach is said with the latency of its smallest model.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.accuracy import cost, ours, peer
from benchmarks.accuracy.cases import CASES, GLOBAL_L2, UNIFORM, Case
from benchmarks.accuracy.rows import OURS, PEERS, Row, add, read
from benchmarks.accuracy.subject import Subject
from benchmarks.accuracy.tables import printed
from benchmarks.contract.__main__ import cache
from edgeprune.errors import EdgepruneError

Make = Callable[[Subject, Row], Row]
LATENCY: Mapping[str, Make] = {
    OURS: ours.fitted,
    UNIFORM: ours.simple,
    GLOBAL_L2: ours.simple,
    **dict.fromkeys(PEERS, peer.trained),
}
INNER: Mapping[str, Make] = {
    **dict.fromkeys((OURS, *ours.CRITERIA), ours.inner),
    **dict.fromkeys(PEERS, peer.inner),
}
KINDS: Mapping[str, Mapping[str, Make]] = {
    "latency": LATENCY,
    "inner": INNER,
    "served": {OURS: ours.served},
    "distilled": {OURS: ours.distilled},
    "cost": {OURS: lambda subject, row: cost.row_of(row)},
}


def main() -> None:
    options = _parser().parse_args()
    rows = options.rows or options.work / "accuracy.jsonl"
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if not options.table:
        try:
            for case in CASES:
                if not options.only or case.name in options.only:
                    for row in _rows(case, options, rows):
                        add(rows, row)
                        print(row, flush=True)
        except EdgepruneError as error:
            print(error, file=sys.stderr)
            raise SystemExit(2) from error
    print(printed(read(rows)))


def _parser() -> argparse.ArgumentParser:
    names, methods = [case.name for case in CASES], sorted({m for case in CASES for m in case.methods})
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("--only", nargs="*", choices=names, metavar="CASE", help=", ".join(names))
    parser.add_argument("--methods", nargs="*", choices=methods, metavar="METHOD", help=", ".join(methods))
    parser.add_argument("--shares", nargs="*", type=float, metavar="SHARE", help="of the case's budgets")
    parser.add_argument("--images", type=int, help="training samples at most, instead of the case's own")
    parser.add_argument("--epochs", type=int, help="of recovery, instead of the case's own")
    parser.add_argument("--minutes", type=float, help="of recovery, instead of epochs")
    parser.add_argument("--tested", type=int, default=10_000, help="samples to evaluate with at most")
    parser.add_argument("--data", type=Path, default=os.environ.get("EDGEPRUNE_DATA", "../shared/data"))
    parser.add_argument("--work", type=Path, default=cache(), help="where weights and runs are kept")
    parser.add_argument("--rows", type=Path, metavar="FILE", help="by default WORK/accuracy.jsonl")
    parser.add_argument("--again", action="store_true", help="make rows that are there anew")
    parser.add_argument("--table", action="store_true", help="print the rows that are there, and no more")
    return parser


def _rows(case: Case, options: argparse.Namespace, path: Path) -> Iterator[Row]:
    """The rows of a case that are asked for and not there yet."""
    images = options.images or case.images
    epochs = case.epochs if options.epochs is None else options.epochs
    minutes = options.minutes if case.epochs else None
    subject: Subject | None = None
    for share in case.goals:
        for method in case.methods:
            row = Row(case.name, method, share, images, 0 if minutes else epochs, minutes, seconds=0.0)
            asked = (not options.shares or share in options.shares) and (
                not options.methods or method in options.methods
            )
            if not asked or (not options.again and row.key in {done.key for done in read(path)}):
                continue
            if case.network and subject is None:
                given = {"images": images, "tested": options.tested, "epochs": epochs, "minutes": minutes}
                subject = Subject.of(case, options.data, options.work, **given)
            yield _made(case, subject, row)


def _made(case: Case, subject: Subject | None, row: Row) -> Row:
    torch.manual_seed(0)
    row = replace(row, version=f"torch-pruning {peer.VERSION}" if row.method in PEERS else _version())
    if subject is not None:
        row = replace(row, dense=subject.dense)
    started = time.monotonic()
    row = KINDS[case.kind][row.method](subject, row)
    return replace(row, seconds=row.seconds or time.monotonic() - started)


def _version() -> str:
    """The commit of this checkout, with a + where it was changed."""
    here = Path(__file__).parent
    ask = ["git", "-C", str(here), "describe", "--always", "--dirty=+", "--exclude=*"]
    done = subprocess.run(ask, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
