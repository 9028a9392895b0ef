"""Influence of residual branches: how much each one changes the stream that it is added to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.fx import Interpreter, Node

from edgeprune.graph.capture import Captured
from edgeprune.graph.coupling import Coupling
from edgeprune.graph.depth import Branch, stream_of


def influence(
    captured: Captured, coupling: Coupling, batches: Iterable[tuple[torch.Tensor, ...]]
) -> Mapping[str, float]:
    """Influence of each branch: 1 - cosine(x, x + f(x)), averaged over the batches, 0 where nothing changes.

    batches: inputs in placeholder order. (Block influence, Men et al. 2024, "ShortGPT", over the whole
    tensor of a sample instead of one token.)
    """
    watcher = _Watcher(captured, coupling.branches)
    with torch.no_grad():
        for inputs in (query for batch in batches for query in captured.queries(batch)):
            watcher.run(*inputs)
    return {name: float(torch.cat(found).mean()) for name, found in watcher.found.items()}


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
