"""Pruning without a device and without a search: `edgeprune.prune`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch.fx import GraphModule

from edgeprune.errors import InputError
from edgeprune.files import replacing
from edgeprune.graph.capture import Captured, capture, told_fixed
from edgeprune.graph.cost import Cost, count
from edgeprune.graph.coupling import Coupling, FrozenParameter, analyse
from edgeprune.graph.surgery import cut
from edgeprune.limits import check_seed
from edgeprune.meaning.kinds import Said
from edgeprune.meaning.yardstick import Yardstick
from edgeprune.pruning.criteria import DEFAULT, WITHOUT_DATA, Criterion, find_criterion
from edgeprune.pruning.influence import least_missed
from edgeprune.pruning.sequential import refit, rows_of, solving_rows
from edgeprune.pruning.unlabelled import own_yardstick, unlabelled_scores
from edgeprune.records.lengths import LengthDims, Lengths
from edgeprune.records.task import Data
from edgeprune.search.ranking import Choice, Ranking
from edgeprune.tasks.calibration import Calibration
from edgeprune.tasks.items import lengths_of

_log = logging.getLogger(__name__)

Heads = Literal["whole", "inside"]
# Rows on which branches are compared: as many as keep all passes within _WORK multiply-accumulates.
_FEWEST_ROWS, _MOST_ROWS, _ROWS_AT_ONCE = 8, 128, 32
_WORK = 1e12


@dataclass(frozen=True, repr=False)
class Pruned:
    """Pruned model: smaller, dense and trainable.

    module: called like the original; dynamic batch, unless the original has a fixed one (`fixed_batch`);
        parameters keep their names.
    kept: indices of the units kept, by group; none for a residual branch that was dropped.
    frozen: parameters that could not be pruned, and why.
    fixed_batch: sentence about a model that takes one row at a time; empty for any other.
    lengths: of sequences, between which `module` takes any; empty where there is one length.
    """

    module: GraphModule
    kept: Mapping[str, tuple[int, ...]]
    frozen: tuple[FrozenParameter, ...]
    params: int
    macs: int
    dense_params: int
    dense_macs: int
    captured: Captured
    fixed_batch: str = ""
    lengths: tuple[int, ...] = ()

    def __repr__(self) -> str:
        saved = (
            f"{self.dense_params:,} -> {self.params:,} parameters, {self.dense_macs:,} -> {self.macs:,} MACs"
        )
        return f"Pruned({saved}, {len(self.kept)} groups, {len(self.frozen)} parameters frozen)"

    def save(self, path: str | Path) -> Path:
        """Write a `torch.export` file (no pickle); batch and length stay as they are: dynamic, or fixed."""
        destination = Path(path)
        with replacing(destination) as temporary, temporary.open("wb") as stream:
            torch.export.save(self.captured.program(), stream)
        return destination


def prune(
    model: torch.nn.Module,
    example: Any,
    ratio: float = 0.3,
    criterion: str | Criterion | None = None,
    calibration: Data | None = None,
    seed: int = 0,
    *,
    branches: int = 0,
    heads: Heads = "whole",
    outputs: Said = None,
    lengths: Sequence[int] | None = None,
    length_dims: LengthDims | None = None,
) -> Pruned:
    """Remove a share of the prunable parameters, spread over all groups by the criterion.

    example: tensor, tuple or dict of tensors, dimension 0 the batch. ratio: in [0, 1); parameters that
    nothing can be removed from do not count. criterion: importance of units, by name or as a `Criterion`;
    None is "obs" with calibration data, else "l2".
    calibration: inputs like `example`, read as a task's; with them, weights are solved for anew.
    branches: residual branches to drop whole first, one after another the one that the outputs miss least on
    the calibration inputs (without any, on the example); the widths give the rest of the ratio.
    heads: "whole" removes attention heads (KV groups with their queries), "inside" narrows heads.
    outputs: what the outputs are, as in `Task.outputs`, for criteria that look at gradients and for branches.
    lengths, length_dims: as in `Task`; the module then takes any length from the shortest to the longest.
    Raises `InputError` for a ratio or seed out of range, an unknown criterion, too many branches, a model
    that does not export, a batch unlike the example, and a ratio that no layer's tenth allows.
    """
    check_seed(seed)
    _check(ratio, heads)
    usual = WITHOUT_DATA if calibration is None else DEFAULT
    stated = lengths_of(example, lengths, length_dims)
    chosen, dense = find_criterion(criterion or usual), _captured(model, example, stated)
    coupling = _analysed(dense, heads)
    batches = [] if calibration is None else _read(example, calibration, stated)
    measured = cache(lambda: own_yardstick(dense, outputs, batches or [dense.inputs]))
    scores = unlabelled_scores(dense, coupling, chosen, batches, outputs, measured, seed)
    cost = count(dense, coupling)
    dropped = _dropped(dense, coupling, branches, batches or [dense.inputs], measured, cost.macs({}))
    kept = _kept(coupling, cost, scores, ratio, dropped)
    pruned = cut(dense, coupling, kept)
    if batches:
        refit(pruned, dense, coupling, kept, solving_rows(batches, cost.macs({})))
    return Pruned(
        module=pruned.module,
        kept=kept,
        frozen=coupling.frozen,
        params=cost.params(kept),
        macs=cost.macs(kept),
        dense_params=cost.params({}),
        dense_macs=cost.macs({}),
        captured=pruned,
        fixed_batch=told_fixed(dense, example),
        lengths=() if stated is None else stated.values,
    )


def _check(ratio: float, heads: str) -> None:
    if not 0 <= ratio < 1:  # false for NaN, too
        raise InputError(f"The ratio is {ratio}.", "Give a share of the parameters, 0 <= ratio < 1.")
    if heads not in get_args(Heads):
        raise InputError(f"There is no way {heads!r} to prune heads.", "Choose whole or inside.")


def _captured(model: torch.nn.Module, example: Any, lengths: Lengths | None) -> Captured:
    captured = capture(model, example, 1, lengths)
    if captured.fixed_batch:
        _log.warning("%s", told_fixed(captured, example))
    return captured


def _read(example: Any, calibration: Data, lengths: Lengths | None) -> list[tuple[torch.Tensor, ...]]:
    reading = Calibration(example, calibration, lengths=lengths)
    batches = list(reading)
    for remark in reading.remarks():
        _log.warning("%s", remark)
    return batches


def _analysed(dense: Captured, heads: Heads) -> Coupling:
    nodes = frozenset(node.name for node in dense.module.graph.nodes)
    coupling = analyse(dense, inner=nodes if heads == "inside" else frozenset())
    if not coupling.groups:
        raise InputError(
            "Nothing in this model can be pruned: every parameter is frozen.",
            "`edgeprune inspect MODEL` says which operation holds each of them.",
        )
    return coupling


def _kept(
    coupling: Coupling,
    cost: Cost,
    scores: Mapping[str, Any],
    ratio: float,
    dropped: Mapping[str, tuple[int, ...]],
) -> dict[str, tuple[int, ...]]:
    """Units that are kept, by group, so that `ratio` of the prunable parameters leave. dropped: branches."""
    frozen = sum(parameter.size for parameter in coupling.frozen)
    ranking = Ranking(
        tuple(Choice(group.name, scores[group.name], 1, group.least) for group in coupling.groups),
        work=lambda widths: float(cost.params({**widths, **dropped}) - frozen),
    )
    prunable = cost.params({}) - frozen
    kept = {**ranking.keep((1 - ratio) * prunable / (cost.params(dropped) - frozen)), **dropped}
    if cost.params(kept) - frozen > (1 - ratio) * prunable:
        most = 1 - (cost.params({**ranking.smallest(), **dropped}) - frozen) / prunable
        raise InputError(
            f"A ratio of {ratio} cannot be reached: {most:.2f} is the most when every layer keeps a tenth.",
            "Give a smaller ratio.",
        )
    return kept


def _dropped(
    dense: Captured,
    coupling: Coupling,
    count: int,
    batches: Sequence[tuple[torch.Tensor, ...]],
    measured: Callable[[], Yardstick],
    macs: float,
) -> dict[str, tuple[int, ...]]:
    """The `count` residual branches that the outputs miss least, each with no units kept. macs: of a row."""
    if not 0 <= count <= len(coupling.branches):
        raise InputError(
            f"{count} residual branches are to be dropped, and the model has {len(coupling.branches)}.",
            "`edgeprune inspect MODEL` lists them.",
        )
    if count == 0:
        return {}
    affordable = int(_WORK / (count * len(coupling.branches) * max(macs, 1)))
    rows = rows_of(batches, max(_FEWEST_ROWS, min(_MOST_ROWS, affordable)), _ROWS_AT_ONCE)
    return dict.fromkeys(least_missed(dense, coupling, rows, measured().distance, count), ())
