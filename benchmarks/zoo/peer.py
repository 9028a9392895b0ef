"""The same architectures under Torch-Pruning (extra `bench`), without hints about heads or layers.

Run as `python -m benchmarks.zoo.peer NAME`: one architecture in one process, so that a crash or a hang is
its own. Prints one JSON object. It is told which layers make the output, and nothing else; its importance
is its own default (group magnitude). A row counts when the pruned model runs on another batch size, gives
outputs of the same shape, and has lost the share of parameters that it was asked for.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from benchmarks.zoo.entry import Entry

SECONDS = 60
RATIOS = (0.3, 0.5)  # of the parameters


def compare(entry: Entry) -> str:
    """`yes`, or why not, of one architecture in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.zoo.peer", entry.name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"no: {SECONDS} s"
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
        return f"no: {last[:60]}"
    answer: Mapping[str, str] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer["result"]


def attempt(entry: Entry) -> str:
    for wanted in RATIOS:
        removed = 0.0
        for more in range(5):  # a channel ratio says little about parameters: ask for more until it is enough
            removed = _try(entry, wanted + 0.08 * more)
            if removed >= wanted:
                break
        if removed < wanted:
            return f"no: {removed:.0%} of {wanted:.0%} removed"
    return "yes"


def _try(entry: Entry, ratio: float) -> float:
    """The share of the parameters that is gone; raises when the pruned model does not run as before."""
    model, example = entry.made()
    before = _call(model, example)
    total = sum(parameter.numel() for parameter in model.parameters())
    _prune(model, example, ratio, before)
    rows = (
        {name: value[:1] for name, value in example.items()} if isinstance(example, Mapping) else example[:1]
    )
    if [out.shape[1:] for out in before] != [out.shape[1:] for out in _call(model, rows)]:
        raise ValueError("the outputs changed shape")
    return 1 - sum(parameter.numel() for parameter in model.parameters()) / total


def _prune(model: nn.Module, example: Any, ratio: float, outputs: list[torch.Tensor]) -> None:
    import torch_pruning

    sizes = {out.shape[dim] for out in outputs for dim in (1, -1)}
    ignored = [
        layer
        for layer in model.modules()
        if getattr(layer, "out_features", getattr(layer, "out_channels", None)) in sizes
    ]
    pruner = torch_pruning.pruner.BasePruner(
        model,
        example,
        importance=torch_pruning.importance.GroupMagnitudeImportance(),
        pruning_ratio=ratio,
        ignored_layers=ignored,
        forward_fn=(lambda net, inputs: _call(net, inputs)),
    )
    pruner.step()


def _call(model: nn.Module, example: Any) -> list[torch.Tensor]:
    from torch.utils import _pytree as pytree

    found = model(**example) if isinstance(example, Mapping) else model(example)
    return [leaf for leaf in pytree.tree_leaves(found) if isinstance(leaf, torch.Tensor)]


if __name__ == "__main__":
    from benchmarks.zoo import ENTRIES

    chosen = next(entry for entry in ENTRIES if entry.name == sys.argv[1])
    torch.set_num_threads(1)
    print(json.dumps({"result": attempt(chosen)}))
