"""`python -m benchmarks.survey`: all architectures of the installed libraries; rows are kept in a file.

    python -m benchmarks.survey                    those that the file lacks; then the table
    python -m benchmarks.survey --only swin bert   those whose name contains a word, again
    python -m benchmarks.survey --libraries timm   of these libraries alone
    python -m benchmarks.survey --failed           those that are not green, again
    python -m benchmarks.survey --table            the table alone, of the file as it is

Each architecture is tried in a process of its own, with a limit of processor time and memory.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.survey import hub, report
from benchmarks.survey.libraries import LIBRARIES, subjects
from benchmarks.survey.subject import Subject
from benchmarks.survey.trial import Row, measure

SECONDS, GIB = 150, 12  # of one architecture: of a processor, and memory as it is counted by addresses
PATIENCE = 4  # times as long on the clock, where others use the processor too


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.survey", description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], metavar="WORD")
    parser.add_argument("--libraries", nargs="*", default=list(LIBRARIES), choices=LIBRARIES)
    parser.add_argument("--failed", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--no-onnx", action="store_true", help="leave out the longest step")
    parser.add_argument("--rows", type=Path, default=Path("runs/survey.jsonl"), help="the file of rows")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start nothing after these")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # the libraries' own, by the hundred
    logging.disable(logging.ERROR)
    torch.set_num_threads(1)
    rows = read(options.rows)
    if not options.table:
        options.rows.parent.mkdir(parents=True, exist_ok=True)
        run(list(_chosen(options, rows)), options)
        rows = read(options.rows)
    print(report.table(rows.values()))
    return 0 if report.goals(rows.values()) else 1


def _chosen(options: argparse.Namespace, rows: dict[str, Row]) -> Iterable[Subject]:
    for subject in subjects(options.libraries):
        if options.only:
            wanted = any(word.lower() in subject.key.lower() for word in options.only)
        elif options.failed:
            row = rows.get(subject.key)
            wanted = row is not None and row.built == "yes" and not report.green(row)
        else:
            wanted = subject.key not in rows
        if wanted:
            yield subject


def read(path: Path) -> dict[str, Row]:
    """Rows by key, the last one of each."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        row = Row(**json.loads(line))
        found[row.key] = row
    return found


def run(chosen: list[Subject], options: argparse.Namespace) -> None:
    began = time.monotonic()
    measure(
        Subject("warm", "", hub.warm), onnx=not options.no_onnx
    )  # what is imported by this is in every child
    for place, subject in enumerate(chosen):
        if time.monotonic() - began > options.seconds:
            break
        row = _apart(subject, not options.no_onnx)
        with options.rows.open("a") as file:
            file.write(json.dumps(asdict(row)) + "\n")
        print(f"{place + 1}/{len(chosen)} {report.line(row)}", file=sys.stderr, flush=True)


def _apart(subject: Subject, onnx: bool) -> Row:
    """The row of an architecture that is tried in a child, which may be killed: its last row is told then."""
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receiving)

        def tell(row: Row) -> None:
            os.write(sending, f"{json.dumps(asdict(row))}\n".encode())

        _limited(lambda: measure(subject, tell, onnx=onnx))
    os.close(sending)
    told, ended = _heard(receiving, time.monotonic() + PATIENCE * SECONDS)
    if not ended:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    ended = ended and not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU)
    row = Row(**json.loads(told.splitlines()[-1])) if told else Row(subject.key)
    if not ended or status:
        said = f"{SECONDS} s were not enough" if not ended else f"the process ended with {status}"
        row = Row(**{**asdict(row), "crash": said})
    return row


def _heard(pipe: int, until: float) -> tuple[str, bool]:
    """What a child wrote, and whether it ended in time."""
    told = b""
    while (left := until - time.monotonic()) > 0:
        if not select.select([pipe], [], [], left)[0]:
            break
        part = os.read(pipe, 1 << 16)
        if not part:
            os.close(pipe)
            return told.decode(), True
        told += part
    os.close(pipe)
    return told.decode(), False


def _limited(work: Callable[[], object]) -> None:
    """Run in this child and leave it, whatever happens."""
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 2)  # torch prints whole graphs that do not export
    resource.setrlimit(resource.RLIMIT_AS, (GIB << 30, GIB << 30))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
    try:
        work()
    except BaseException:  # the parent tells of it by the status
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
