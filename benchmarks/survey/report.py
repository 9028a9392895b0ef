"""The survey's table, its summary and what counts as reached."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from benchmarks.survey.libraries import LIBRARIES
from benchmarks.survey.trial import EXACT, EXACT_DOUBLE, FROZEN, RATIO, Row

PRUNED = 0.95  # of what exports is pruned with little frozen
# Reasons that are the model's interface: the width that it returns, and of what is added to that.
RETURNED = ("output: is an output of the model", "embedding: rows are looked up by index")


def exported(row: Row) -> bool:
    return row.exported == "yes"


def good(row: Row) -> bool:
    """Pruned by 30 %, exactly, with under a tenth of the parameters frozen."""
    return exact(row) and not row.crash and row.removed >= RATIO and row.frozen < FROZEN


def exact(row: Row) -> bool:
    rounded = row.double is not None and row.double <= EXACT_DOUBLE
    return row.error is not None and (row.error <= EXACT or rounded)


def green(row: Row) -> bool:
    return good(row) and row.onnx in ("", "yes")


def returned(row: Row) -> bool:
    """Not good for what the model returns alone: without that, under a tenth of the parameters is frozen."""
    own = sum(share for reason, share in row.held if reason in RETURNED)
    return not good(row) and good(replace(row, frozen=row.frozen - own))


def goals(rows: Iterable[Row]) -> bool:
    known = [row for row in rows if row.built == "yes"]
    out = [row for row in known if exported(row)]
    return not any(row.crash for row in known) and sum(map(good, out)) >= PRUNED * len(out)


def line(row: Row) -> str:
    if row.built != "yes":
        return f"{row.key} | not built: {row.built}"
    state = "green" if green(row) else "good" if good(row) else "NOT GOOD"
    said = [value for value in (row.exported, row.pruned, row.onnx, row.crash) if value not in ("", "yes")]
    error = "" if row.error is None else f" error {_error(row)}"
    return (
        f"{row.key} | {state} frozen {row.frozen:.1%}{error} {' '.join(row.unknown)} {' '.join(said)[:300]}"
    )


def table(rows: Iterable[Row]) -> str:
    """The table of what was built, and below it every sentence that was said."""
    known = sorted((row for row in rows if row.built == "yes"), key=lambda row: row.key.lower())
    heads = ("architecture", "parameters", "exported", "30 %", "exact", "ONNX", "frozen", "without a rule")
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for row in known:
        cells = (
            *(_name(row), f"{row.params:,}", _short(row.exported)),
            "-" if not exported(row) else f"{row.removed:.0%}" if row.pruned == "yes" else "no",
            *("-" if row.error is None else _error(row), _short(row.onnx)),
            *("-" if not exported(row) else f"{row.frozen:.1%}", ", ".join(row.unknown)),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*summary(known), "", *lines, "", *sentences(known)])


def _error(row: Row) -> str:
    return f"{row.error:.0e}" if row.double is None else f"{row.double:.0e} (double)"


def _name(row: Row) -> str:
    return row.key.removeprefix("transformers/")


def _short(value: str) -> str:
    return "yes" if value == "yes" else "no" if value else "-"


def summary(known: list[Row]) -> list[str]:
    """A line for each library and one for all; then what the others return."""
    heads = ("library", "built", "export", "of these pruned", "share", "as ONNX, of those tried", "crash")
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    libraries = Counter(_library(row) for row in known)
    for name, _ in libraries.most_common():
        lines.append(_counted(name, [row for row in known if _library(row) == name]))
    lines += [_counted("all", known)] if len(libraries) > 1 else []
    out = [row for row in known if exported(row) and not good(row)]
    return [
        *lines,
        "",
        '"Pruned" is by 30 % exactly with under 10 % frozen, "as ONNX" is written and proven equal. Of the '
        f"{len(out)} others {sum(map(returned, out))} have under 10 % frozen by any other reason than that "
        "the model returns that width.",
    ]


def _library(row: Row) -> str:
    return row.key.partition("/")[0]


def _counted(name: str, rows: list[Row]) -> str:
    out = [row for row in rows if exported(row)]
    pruned, tried = sum(map(good, out)), [row for row in out if row.onnx]
    written = f"{sum(row.onnx == 'yes' for row in tried)} of {len(tried)}"
    share = f"{pruned / len(out):.1%}" if out else "-"
    crashed = sum(bool(row.crash) for row in rows)
    return f"| {name} | {len(rows)} | {len(out)} | {pruned} | {share} | {written} | {crashed} |"


def sentences(known: list[Row]) -> list[str]:
    """What was said of each that is not green, by the step that said it."""
    steps = {
        "Not exported": lambda row: row.exported if row.exported not in ("", "yes") else "",
        "Frozen, not exact or not pruned": _held,
        "No ONNX": lambda row: row.onnx if row.onnx not in ("", "yes") else "",
        "Crashed": lambda row: row.crash,
    }
    lines = []
    for title, said in steps.items():
        told = [f"- {_name(row)}: {_plain(said(row))}" for row in known if said(row)]
        lines += [f"{title}:", "", *told, ""] if told else []
    counted = Counter(op for row in known for op in row.unknown)
    operations = ", ".join(f"`{op}` {count}" for op, count in counted.most_common()) or "none"
    return [*lines, f"Operations without a rule, by the architectures that have them: {operations}."]


def _held(row: Row) -> str:
    if not exported(row) or good(row) or row.crash:
        return ""
    held = "; ".join(f"{reason} ({share:.0%})" for reason, share in row.held[:2])
    error = "" if row.error is None or exact(row) else f", error {_error(row)}"
    refused = f", {row.pruned}" if row.pruned != "yes" else ""
    return f"{row.frozen:.0%} frozen: {held}{error}{refused}"


def _plain(said: str) -> str:
    """A sentence without this machine's folders: files of libraries are named as modules."""
    inside = "|".join(("benchmarks", *LIBRARIES))
    said = re.sub(rf"[^\s(]*/(?:site-packages/|(?=(?:{inside})/))", "", " ".join(said.split()))
    return re.sub(r"(\w+(?:/\w+)+)\.py", lambda found: found[1].replace("/", "."), said)[:330]
