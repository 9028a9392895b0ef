"""Sentences and rows about bottlenecks, as the terminal and the page show them."""

from __future__ import annotations

from collections.abc import Iterator

from edgeprune.report.bottlenecks import NEXT, OPEN, Bottlenecks, Cause, CauseTime
from edgeprune.report.figures import layer_name, milliseconds

HEAD = ("layer", "ms", "share", "held by", "facts")
_MOST_NAMES = 3  # layers of a cause that a sentence names
# Cause -> its name, and what lessens it.
_CAUSES: dict[Cause, tuple[str, str]] = {
    "width": ("width", "units that could still leave, at a cost in {metric}: a tighter budget takes them"),
    "conversions": ("conversions", "operators that only change a number type or a layout"),
    "float": ("float", "layers in float, each for the reason beside it"),
    "launch": (
        "launch",
        "operators near their fixed cost: fewer of them save time, narrower ones do not",
    ),
    "frozen": (
        "frozen",
        "outputs that an operation needs whole, or that are in no group",
    ),
    "narrowest": ("narrowest", "outputs that are as few as is legal"),
    "outside": ("before the first", "what runs before the first layer"),
    "unrecorded": ("not recorded", "layers of which the run recorded the time alone"),
}


def summary_lines(found: Bottlenecks, metric: str) -> list[str]:
    """Sentences about where the next gain could come from, and what holds the rest, most time first."""
    if not found.layers:
        return list(found.lacks)
    could = [each for each in found.causes if each.cause in OPEN]
    held = [each for each in found.causes if each.cause not in OPEN]
    gain = f"The next {NEXT:.0%} of {found.trial} ({milliseconds(found.next_ms)} ms)"
    lines = [f"{gain} could come from{':' if could else ' nothing that edgeprune decides.'}"]
    lines += [_cause_line(each, found, metric) for each in could]
    if held:
        lines += ["The rest is held by:", *(_cause_line(each, found, metric) for each in held)]
    return [*lines, *([found.rates] if found.rates else []), *found.lacks]


def bottleneck_rows(found: Bottlenecks) -> Iterator[tuple[str, ...]]:
    """Rows of a table with `HEAD`, a layer each."""
    for each in found.layers:
        held = _CAUSES[each.cause][0]
        yield layer_name(each.layer), f"{each.ms:.4f}", f"{each.share:.1%}", held, "; ".join(each.facts)


def _cause_line(one: CauseTime, found: Bottlenecks, metric: str) -> str:
    name, remedy = _CAUSES[one.cause]
    count, where = len(one.layers), ""
    if one.cause != "outside":
        names = ", ".join(map(layer_name, one.layers[:_MOST_NAMES])) + ", ..." * (count > _MOST_NAMES)
        where = f" in {count} layer{'s' * (count != 1)} ({names})"
    less = f", all of it less than that {NEXT:.0%}" if one.cause in OPEN and one.ms < found.next_ms else ""
    return f"  {name}, {milliseconds(one.ms)} ms{where}{less}: {remedy.format(metric=metric)}"
