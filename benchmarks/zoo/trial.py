"""One row of the zoo's table: an architecture pruned from its graph alone, and everything that must hold."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch

from benchmarks.zoo.entry import Entry, Example
from edgeprune.export import export_onnx
from edgeprune.graph.capture import Captured, capture, module_of
from edgeprune.graph.coupling import Coupling, analyse
from edgeprune.graph.surgery import cut
from edgeprune.pruning import once
from edgeprune.pruning.once import Pruned
from edgeprune.quantize.rescale.equalise import equalise
from tests.support import references  # the oracle of the property tests

RATIOS = (0.3, 0.5)
LIMIT = 1e-5  # of the largest output, float32
MOVED = 1e-3  # a cut that changes less than this proves nothing
FROZEN = 0.1  # of all parameters
EQUALISED = 1e-4  # of the largest output: factors of a million move the rounding of float32


@dataclass(frozen=True)
class Row:
    """branches: residual ones that can leave whole. frozen: share of all parameters; held: the operations
    that hold the most. reached: by RATIOS. told: whether the cut graph tells its own shapes, and what reads
    them, the equalisation before INT8, computes the same.

    seconds: analysis and one cut, without torch.export.
    """

    name: str
    params: int
    groups: int
    units: int
    branches: int
    frozen: float
    held: str
    reached: tuple[float, ...]
    error: float
    moved: float
    trains: bool
    reloads: bool
    onnx: bool
    told: bool
    seconds: float

    @property
    def green(self) -> bool:
        enough = all(share >= ratio for share, ratio in zip(self.reached, RATIOS, strict=False))
        exact = self.error <= LIMIT and self.moved > MOVED
        works = self.trains and self.reloads and self.onnx and self.told
        return enough and exact and works and self.frozen < FROZEN


def measure(entry: Entry, *, quick: bool = False) -> Row:
    """Build, analyse, prune and check one architecture; `quick` leaves out the first ratio."""
    model, example = entry.made()
    dense = capture(model, example)
    started = time.perf_counter()
    coupling = analyse(dense)
    cut(dense, coupling, references.random_kept(coupling, 0, 0.5, depth=0.5))
    seconds = time.perf_counter() - started
    # Every kind of unit at once: a quarter of the residual branches, the rest of the ratio in widths.
    few = len(coupling.branches) // 4
    with mock.patch.object(once, "capture", return_value=dense):  # as above: torch.export is the slowest step
        found = [once.prune(model, example, ratio, branches=few) for ratio in RATIOS[quick:]]
    smallest = found[-1]
    subsets = [(coupling, pruned.kept) for pruned in found]
    subsets += [(coupling, references.random_kept(coupling, seed, depth=1 - seed / 2)) for seed in range(2)]
    inside = analyse(dense, inner=frozenset(node.name for node in dense.module.graph.nodes))
    subsets.append((inside, references.random_kept(inside, 2)))
    checks = [_compare(dense, each, kept, seed) for seed, (each, kept) in enumerate(subsets)]
    frozen = Counter[str]()
    for each in coupling.frozen:
        frozen[f"{each.op.removeprefix('aten.')}: {each.reason}"] += each.size
    return Row(
        name=entry.name,
        params=smallest.dense_params,
        groups=len(coupling.groups),
        units=sum(group.units for group in coupling.groups),
        branches=len(coupling.branches),
        frozen=sum(frozen.values()) / smallest.dense_params,
        held="; ".join(reason for reason, _ in frozen.most_common(2)),
        reached=tuple(_reached(pruned) for pruned in found),
        error=max(error for error, _ in checks),
        moved=min(moved for _, moved in checks),
        trains=_trains(dense, smallest.captured),
        reloads=_reloads(smallest.captured),
        onnx=_onnx(smallest.captured),
        told=_told(smallest.captured),
        seconds=seconds,
    )


def _reached(pruned: Pruned) -> float:
    """The share of the prunable parameters that is gone."""
    prunable = pruned.dense_params - sum(each.size for each in pruned.frozen)
    return (pruned.dense_params - pruned.params) / prunable


def other_batch(
    example: Example | tuple[torch.Tensor, ...], size: int, seed: int
) -> tuple[torch.Tensor, ...]:
    """`size` inputs like the example: new noise, and its rows of integers drawn again."""
    source = torch.Generator().manual_seed(seed)
    tensors = example if isinstance(example, tuple) else _flat(example)
    return tuple(
        torch.randn(size, *tensor.shape[1:], generator=source)
        if tensor.is_floating_point()
        else tensor[torch.randint(0, len(tensor), (size,), generator=source)]
        for tensor in tensors
    )


def _flat(example: Example) -> tuple[torch.Tensor, ...]:
    return tuple(example.values()) if isinstance(example, Mapping) else (example,)


def _compare(
    dense: Captured, coupling: Coupling, kept: Mapping[str, tuple[int, ...]], seed: int
) -> tuple[float, float]:
    """How far the cut is from the masked dense graph, and how far that is from the dense graph."""
    inputs = other_batch(dense.inputs, 1 + seed, seed)
    with torch.no_grad():
        found = cut(dense, coupling, kept).run(*inputs)
        whole = dense.run(*inputs)
    return (
        references.difference(found, references.masked(dense, coupling, kept, inputs)),
        references.difference(found, whole),
    )


def _trains(dense: Captured, pruned: Captured) -> bool:
    """Every parameter that is left gets a finite gradient, if it gets one in the dense model."""
    reached = []
    for captured in (dense, pruned):
        captured.module.zero_grad(set_to_none=True)
        sum(out.square().mean() for out in captured.run(*captured.inputs) if out.requires_grad).backward()
        gradients = {name: parameter.grad for name, parameter in captured.module.named_parameters()}
        if any(grad is not None and not grad.isfinite().all() for grad in gradients.values()):
            return False
        reached.append({name for name, grad in gradients.items() if grad is not None})
    left = {name for name, _ in pruned.module.named_parameters()}
    return reached[0] & left == reached[1] != set()


def _reloads(pruned: Captured) -> bool:
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / "pruned.pt2"
        torch.export.save(pruned.program(), path)
        again = pruned.with_module(module_of(torch.export.load(path)))
        inputs = other_batch(pruned.inputs, 3, 0)
        pairs = zip(pruned.run(*inputs), again.run(*inputs), strict=True)
        return all(torch.equal(one, other) for one, other in pairs)


def _told(pruned: Captured) -> bool:
    inputs = other_batch(pruned.inputs, 3, 0)
    with torch.no_grad():
        moved = references.difference(equalise(pruned).run(*inputs), pruned.run(*inputs))
    return moved < EQUALISED and not references.wrong_shapes(pruned, inputs)


def _onnx(pruned: Captured) -> bool:
    """`export_onnx` compares with ONNX Runtime to 1e-4 on two batch sizes, and raises otherwise."""
    with tempfile.TemporaryDirectory() as folder:
        return export_onnx(pruned, Path(folder) / "pruned.onnx").exists()
