"""`python -m benchmarks.prediction`: latency predicted from the table against latency measured.

Per architecture, runtime and precision: the table is measured once (`latency.measured`), then random
candidates, with a width drawn for every group alone, are measured end to end, batch 1, one thread. None of
them is in the table. A candidate and the dense model take turns until some rounds are near the fastest of
both, so that a busy machine does not pass for a wrong prediction; the quickest blocks of both are compared.
A prediction is held against the dense model's speed at the time, as a fit holds it.

`--keep FOLDER` keeps what was measured there, and takes from there what is already measured: a change of how
curves are fitted is judged on the same measurements.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from statistics import mean, median

import torch

from benchmarks.prediction.measuring import Candidate, Measured, kept, measured
from benchmarks.prediction.subject import DIALECTS, MODELS, PRECISIONS, Subject

CANDIDATES = 12
HEADS = ("model", "runtime", "precision", "dense, ms", "candidates, ms", "table, s")
HEADS += ("mean error", "median", "worst", "candidates")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prediction", description=__doc__)
    parser.add_argument("--only", nargs="*", default=[""], metavar="WORD")
    parser.add_argument("--candidates", type=int, default=CANDIDATES, metavar="N")
    parser.add_argument(
        "--export",
        action="store_true",
        help="cut and export the candidates (resized files have equal shapes)",
    )
    parser.add_argument("--details", action="store_true", help="print every candidate, too")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="of measurements")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(f"| {' | '.join(HEADS)} |\n|{'---|' * len(HEADS)}")
    errors: list[float] = []
    for name in MODELS:
        if any(word.lower() in name.lower() for word in options.only):
            with tempfile.TemporaryDirectory() as folder:
                subject = cache(lambda: Subject(name, Path(folder), options.export))  # noqa: B023 - used here
                for runtime in DIALECTS:
                    for precision in PRECISIONS:
                        found = kept(
                            options.keep,
                            f"{name}, {runtime}, {precision}",
                            lambda: measured(subject(), runtime, precision, options.candidates),  # noqa: B023
                        )
                        _print((name, runtime, precision), found, options.details)
                        errors += _errors(found)
    if errors:
        print(f"\n{len(errors)} candidates: mean error {mean(errors):.1%}, worst {max(errors):.1%}")


def _print(titles: Sequence[str], found: Measured, details: bool) -> None:
    ms = [candidate.ms for candidate in found.candidates]
    sizes = _errors(found)
    cells = [*titles, f"{found.dense_ms:.2f}", f"{min(ms):.2f} - {max(ms):.2f}", f"{found.seconds:.0f}"]
    cells += [f"{mean(sizes):.1%}", f"{median(sizes):.1%}", f"{max(sizes):.1%}", f"{len(sizes)}"]
    print(f"| {' | '.join(cells)} |", flush=True)
    for candidate in found.candidates if details else ():
        _detail(found, candidate)


def _errors(found: Measured) -> list[float]:
    return [abs(found.guess(candidate) / candidate.ms - 1) for candidate in found.candidates]


def _detail(found: Measured, candidate: Candidate) -> None:
    """A candidate, and the nodes that are most wrong: by a profile of its own, scaled to what it took."""
    guess, own, widths = found.guess(candidate), dict(candidate.profile), dict(candidate.widths)
    predicted = found.prediction
    speed, scale = guess / predicted.ms(widths), candidate.ms / sum(own.values())
    off = {
        name: speed * predicted.node_ms(name, widths) - scale * own.get(name, 0.0) for name in predicted.nodes
    }
    worst = sorted(off, key=lambda name: -abs(off[name]))[:3]
    line = f"    measured {candidate.ms:8.3f} ms, predicted {guess:8.3f} ms, {guess / candidate.ms - 1:+.1%}"
    print(line, "of it", ", ".join(f"{name} {off[name] / candidate.ms:+.1%}" for name in worst), flush=True)


if __name__ == "__main__":
    main()
