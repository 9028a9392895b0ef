"""Importance of residual branches: how much the model's outputs, or its stream, lose without each one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.fx import Interpreter, Node

from edgeprune.graph.capture import Captured
from edgeprune.graph.coupling import Coupling
from edgeprune.graph.depth import Branch, dead_nodes, drop_branches, stream_of

Inputs = tuple[torch.Tensor, ...]  # in placeholder order
Tensors = Sequence[torch.Tensor]


def output_loss(
    captured: Captured,
    coupling: Coupling,
    batches: Sequence[Inputs],
    distance: Callable[[Tensors, Tensors], torch.Tensor],
    without: Iterable[Branch] = (),
) -> Mapping[str, float]:
    """Distance of the outputs from the model's own when a branch is skipped, by branch.

    A mean over the batches; one forward pass of them for each branch. distance: of outputs from the model's
    own. without: branches that are skipped already, with all that is part of them.
    (Layer importance by the loss, as in "Shortened LLaMA", Kim et al. 2024, arXiv:2402.02834; the distance
    takes the place of perplexity and needs no labels.)
    """
    gone = tuple(without)
    dead = dead_nodes(captured.module.graph, gone)
    skipping = {
        branch.name: _skipping(captured, (*gone, branch))
        for branch in coupling.branches
        if branch not in gone and branch.add not in dead
    }
    total = dict.fromkeys(skipping, 0.0)
    with torch.no_grad():
        for inputs in batches:
            whole = captured.run(*inputs)
            for name, shorter in skipping.items():
                total[name] += float(distance(shorter.run(*inputs), whole)) / len(batches)
    return total


def least_missed(
    captured: Captured,
    coupling: Coupling,
    batches: Sequence[Inputs],
    distance: Callable[[Tensors, Tensors], torch.Tensor],
    count: int,
) -> list[str]:
    """Names of `count` branches that can be dropped together, each the one that the outputs miss least.

    One after another, each in the model without those before it: a branch may be spared only while its
    neighbour is there. (As in SLEB, Song et al. 2024, arXiv:2402.09025.)
    """
    by_name = {branch.name: branch for branch in coupling.branches}
    gone: dict[str, Branch] = {}
    for _ in range(count):
        lost = output_loss(captured, coupling, batches, distance, gone.values())
        # None is left when all others are parts of those that are gone.
        least = min(lost, key=lambda name: lost[name], default=next(n for n in by_name if n not in gone))
        gone[least] = by_name[least]
    return list(gone)


def influence(captured: Captured, coupling: Coupling, batches: Iterable[Inputs]) -> Mapping[str, float]:
    """Influence of each branch: 1 - cosine(x, x + f(x)), averaged over the batches, 0 where nothing changes.

    One forward pass for all branches. (Block influence, Men et al. 2024, "ShortGPT", arXiv:2403.03853, over
    the whole tensor of a sample instead of one token.)
    """
    watcher = _Watcher(captured, coupling.branches)
    with torch.no_grad():
        for inputs in (query for batch in batches for query in captured.queries(batch)):
            watcher.run(*inputs)
    return {name: float(torch.cat(found).mean()) for name, found in watcher.found.items()}


def _skipping(captured: Captured, branches: Collection[Branch]) -> Captured:
    """The model without these branches, on the same weights."""
    module = captured.module
    shorter = captured.copy(borrowed=[*module.parameters(), *module.buffers()])
    drop_branches(shorter.module, branches)
    shorter.module.recompile()
    return shorter


class _Watcher(Interpreter):
    def __init__(self, captured: Captured, branches: Iterable[Branch]) -> None:
        super().__init__(captured.module)
        self._branches = {branch.add: branch for branch in branches}
        self.found: dict[str, list[torch.Tensor]] = {branch.name: [] for branch in self._branches.values()}

    def run_node(self, n: Node) -> Any:
        branch = self._branches.get(n.name)
        if branch is None:
            return super().run_node(n)
        before = self.env[stream_of(n, branch)].clone()  # an addition in place would overwrite it
        after = super().run_node(n)
        cosine = torch.nn.functional.cosine_similarity(before.flatten(1).double(), after.flatten(1).double())
        self.found[branch.name].append(1 - cosine)
        return after
