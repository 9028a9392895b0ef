"""Answer of `edgeprune prune`, to a file or to a folder: sizes before and after, and where it was written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from edgeprune.cli.output import console, emit_json, table


class Sizes(Protocol):
    """Parameters and multiply-accumulates of a model before and after."""

    @property
    def params(self) -> int: ...
    @property
    def macs(self) -> int: ...
    @property
    def dense_params(self) -> int: ...
    @property
    def dense_macs(self) -> int: ...


def tell_pruned(
    pruned: Sizes,
    place: Path,
    more: Mapping[str, Any],
    changed: Mapping[str, tuple[int, int]],
    sentences: Iterable[str],
    *,
    as_json: bool,
) -> None:
    """Print what was pruned, and where it is.

    more: of the JSON document. changed: further rows of the table, before and after.
    """
    sizes = {
        "parameters": (pruned.dense_params, pruned.params),
        "MACs": (pruned.dense_macs, pruned.macs),
    }
    if as_json:
        names = zip(("params", "macs"), sizes.values(), strict=True)
        told = {name: {"dense": old, "pruned": new} for name, (old, new) in names}
        emit_json({"output": str(place), **told, **more})
        return
    rows = [(name, f"{old:,}", f"{new:,}") for name, (old, new) in {**sizes, **changed}.items()]
    out = console(stderr=False)
    out.print(table("", "dense", "pruned", rows=rows, right=("dense", "pruned")))
    for sentence in (*sentences, f"written to {place}"):
        out.print(sentence, markup=False)
