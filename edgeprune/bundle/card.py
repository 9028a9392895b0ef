"""Model card of a bundle: README.md in Hugging Face's form, with metadata in front.

It states what was measured and how sure that is, and how a program calls the model as it was measured. What
only the maker knows (data, licence, intended use) is left for the maker to write.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence

from edgeprune.bundle.stated import Stated
from edgeprune.devices import Load
from edgeprune.foreign import tame
from edgeprune.records.bundle import GOLDEN, GOLDEN_IN, Port
from edgeprune.records.trial import FitResult, Report
from edgeprune.runtimes import find

_MARKUP = re.compile(r"([\\`*_{}\[\]<>|#&~])")
_PROVEN = "It was proven inside its budget"
_HELD = {
    "fits": "It was measured inside its budget in a search, which is no proof",
    "predicted": "It was predicted to be inside its budget, without a device",
    "inconclusive": "It was not proven inside its budget",
}


def model_card(
    result: FitResult,
    report: Report,
    load: Load,
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    figures: Iterable[Stated],
    name: str,
) -> str:
    """Model card in Markdown.

    load: as the artefact was served. name: of the model, as the maker calls it.
    """
    measured, device = report.measurement, result.occasion
    profile, target = _plain(result.profile.name), _plain(result.target.name)
    answer = (result.verdict.kind, report.name) == ("fits", result.chosen.name)
    held = _PROVEN if answer else _HELD[report.verdict.kind]
    where = "" if device is None or measured.predicted else f" on {_plain(device.machine)}"
    lines = [
        *_metadata(result, report),
        f"# {_plain(name)}",
        "",
        f"{held}{where}: profile {profile}, target {target}, {measured.runtime}, "
        f"threads {measured.threads}, batch {measured.batch}{_lengths(result)}.",
        "",
        "## Measured" if not measured.predicted else "## Predicted",
        "",
        "| | this model | dense model | bounds | budget |",
        "|---|---|---|---|---|",
        *(_row(figure) for figure in figures),
        "",
        "`edgeprune validate` repeats the proof on another device, from this bundle alone.",
        "",
        *_whole_queries(result, report),
        "## What it is",
        "",
        *_made(result, report),
        "",
        "## Use",
        "",
        *_use(load, inputs, outputs),
        "## Limits",
        "",
        "- Latency and memory are those of this machine, runtime and threads, and of one query at a time.",
        *_padding(result),
        f"- {_plain(result.metric)} is that of the maker's evaluation data. What the model was trained on",
        "  and made for, and its licence, edgeprune does not know: the maker adds them here.",
        "",
    ]
    return "\n".join(lines)


def _lengths(result: FitResult) -> str:
    """Words about the lengths of sequences, where they vary."""
    if not result.lengths:
        return ""
    *others, longest = result.lengths
    return f", length {longest} (also proven to compute the same at {', '.join(map(str, others))})"


def _padding(result: FitResult) -> Iterator[str]:
    """Line about queries of other lengths than those that were proven."""
    if result.lengths:
        told = ", ".join(map(str, result.lengths))
        yield f"- Pad a query to the shortest of the lengths {told} that holds it: in between the model"
        yield "  runs, and nothing is proven."


def _metadata(result: FitResult, report: Report) -> Iterator[str]:
    """The head of the card, in YAML: JSON's texts and lists are YAML's, too."""
    pruned = ["pruned"] if report.candidate.kept else []
    tags = ["edgeprune", *pruned, report.candidate.precision]
    yield "---"
    yield f"library_name: {json.dumps(result.runtime)}"
    yield f"tags: {json.dumps(tags)}"
    yield f"metrics: {json.dumps([tame(result.metric)])}"
    yield "---"


def _row(figure: Stated) -> str:
    cells = (
        _plain(figure.title),
        f"{figure.value:.4g}",
        "" if figure.dense is None else f"{figure.dense:.4g}",
        figure.bounds,
        "" if figure.limit is None else f"{figure.limit:.4g}",
    )
    return f"| {' | '.join(cells)} |"


def _whole_queries(result: FitResult, report: Report) -> Iterator[str]:
    """Table of what comes before and after the model, where the maker's program was timed with it."""
    queries = next((each for each in result.whole if each.name == report.name), None)
    if queries is None:
        return
    yield "The maker's program prepares queries and reads answers in Python that is not in this bundle."
    yield f"Timed on the maker's machine, one part after the other, {queries.runs} queries:"
    yield ""
    yield "| | p50, ms | p90, ms |"
    yield "|---|---|---|"
    parts = (("before the model", queries.before), ("the model", queries.model))
    for title, times in (*parts, ("after the model", queries.after), ("whole query", queries.whole)):
        if times is not None:
            yield f"| {title} | {times.p50_ms:.4g} | {times.p90_ms:.4g} |"
    yield ""
    if result.budget.whole_ms is not None and queries.bound_ms is not None:
        yield (
            f"The bound of p{queries.percentile} of whole queries is {queries.bound_ms:.4g} ms, and their "
            f"budget {result.budget.whole_ms:.4g} ms: what that leaves to the model is its budget above."
        )
        yield ""


def _made(result: FitResult, report: Report) -> Iterator[str]:
    """Sentences about what was done to the dense model."""
    dense, candidate = result.baseline, report.candidate
    parameters = f"{report.params:,} of {dense.params:,} parameters"
    work = f"{report.macs:,} of {dense.macs:,} multiply-accumulates"
    yield f"- {'Pruned to' if candidate.kept else 'Not pruned:'} {parameters}, {work}."
    layers = report.layers_int8 + report.layers_float
    integers = f"{report.layers_int8} of {layers} layers with weights on integers"
    yield f"- Precision {candidate.precision}: {integers}."
    if candidate.recover != "none":
        trained = "trained with simulated INT8 after" if candidate.qat else "recovered by"
        yield f"- Accuracy {trained} {candidate.recover}."


def _use(load: Load, inputs: Sequence[Port], outputs: Sequence[Port]) -> Iterator[str]:
    """Lines of Python that serve one query as it was measured."""
    row = find(load.runtime)
    yield from _table("input", inputs)
    yield from _table("output", outputs)
    if not row.call or load.device != row.device:
        yield f"`{row.file}` beside this file is how edgeprune serves it: a `Runner` with `run`.\n"
        return
    yield "```python"
    yield "import numpy as np"
    yield row.call.format(artefact=load.artefact.name, threads=load.threads).rstrip()
    yield f'golden = np.load("{GOLDEN}")  # queries whose answers are known'
    feeds = (f"{port.name!a}: golden[{GOLDEN_IN + port.name!a}][:{load.batch}]" for port in inputs)
    yield f"outputs = run({{{', '.join(feeds)}}})"
    yield "```"
    yield ""


def _table(title: str, ports: Sequence[Port]) -> Iterator[str]:
    yield f"| {title} | type | shape |"
    yield "|---|---|---|"
    for port in ports:
        yield f"| {_plain(port.name)} | {port.dtype} | {_shape(port)} |"
    yield ""


def _shape(port: Port) -> str:
    """Sizes of a port; `<=16` for a dimension whose length varies."""
    return "x".join(f"<={n}" if at in port.length_dims else str(n) for at, n in enumerate(port.shape))


def _plain(text: str) -> str:
    """Text of somebody else as Markdown shows it."""
    return _MARKUP.sub(r"\\\1", tame(text))
