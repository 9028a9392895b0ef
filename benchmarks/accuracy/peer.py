"""Rows of the peer Torch-Pruning (extra `bench`) with a usual recipe and ONNX Runtime's own quantiser.

Its units are chosen over the whole network by its importance with its own defaults, on the example and
the training data that ours has, in steps, and their gradients are taken once. Where a network has layers that
its author would leave alone (attention that keeps its own head counts), they are named to it; where it may as
well keep the residual stream, both are tried, and the better one on training images is taken. Its pruning
ratio is searched until its INT8 model is as fast as the budget.

The training is SGD with momentum 0.9, a learning rate of 0.01 that falls as a cosine, and cross-entropy.
"""

from __future__ import annotations

import copy
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.accuracy.rows import PEERS, Row
from benchmarks.accuracy.subject import Subject
from benchmarks.contract import tasks
from benchmarks.contract.baselines import SAME, Equal, search
from benchmarks.int8.__main__ import quantised_by_ort
from edgeprune.errors import MissingExtraError
from edgeprune.export import export_onnx
from edgeprune.graph.capture import capture

VERSION = "1.6.1"
SCORED = 1024  # training samples, of which gradients are taken
COMPARED = 2000  # training samples, on which sets of layers are compared
SMALLEST = 0.1  # share of the units from which on it cuts no further
BUILDS = 8
MULTIPLE = 16  # of channels, a block of the runtime's INT8 kernels: with 8, 4 or 1 its models are slower
STEPS = 16  # of its cut: in one step, a layer of which all units rank low would be left whole
LEARNING_RATE, MOMENTUM = 0.01, 0.9
Gradients = Mapping[str, torch.Tensor]
Layers = Sequence[nn.Module]


@dataclass(frozen=True)
class Criterion:
    """importance: class of the peer's. squared: it weighs the mean of the samples' squared gradients.

    (`accumulate_grad` of its Hessian keeps the last sample alone in 1.6.1, so the mean is taken here.)
    """

    importance: str
    gradients: bool = False
    squared: bool = False


CRITERIA: Mapping[str, Criterion] = dict(
    zip(
        PEERS,
        (
            Criterion("MagnitudeImportance"),
            Criterion("TaylorImportance", gradients=True),
            Criterion("HessianImportance", gradients=True, squared=True),
        ),
        strict=True,
    )
)


def library() -> Any:
    """The module `torch_pruning`. Raises `MissingExtraError` where it is not installed."""
    try:
        import torch_pruning
    except ImportError as error:
        raise MissingExtraError(
            "The peer Torch-Pruning is not installed.",
            f"Install the extra `bench`, or torch-pruning=={VERSION}; --methods edgeprune leaves it out.",
        ) from error
    return torch_pruning


def trained(subject: Subject, row: Row) -> Row:
    """The peer at the budget's latency: cut, trained, quantised."""
    if row.share is None:
        raise ValueError("a peer at a latency has a share of it")
    criterion = CRITERIA[row.method]
    gradients = gradients_of(subject, criterion)
    reference = subject.reference(subject.workshop(), row.share)
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as name:
        folder = Path(name)

        def ratio(network: nn.Module, sessions: int = 1) -> float:
            load = subject.load(quantised(subject, network, folder))
            return replace(reference, sessions=sessions).ratio(load)

        found = []
        for kept_whole in _left_alone(subject.network):

            def made(share: float, kept_whole: Callable[[nn.Module], Layers] = kept_whole) -> Any:
                return share, pruned(subject, criterion, gradients, 1 - share, kept_whole)

            smallest = made(SMALLEST)[1]
            if (slow := ratio(smallest, reference.sessions)) > SAME.high:
                found.append(Equal(smallest, slow, 1, reached=False))
            else:
                found.append(search(made, ratio, SMALLEST, row.share, BUILDS))
        row = replace(row, builds=sum(each.builds for each in found))
        there = [each for each in found if each.reached]
        if not there:
            return replace(row, out_of_reach=min(each.ratio for each in found))
        network = max(there, key=lambda each: _on_training(subject, each)).made
        before = subject.metric(tasks.eager(network))
        train(network, subject)
        after = subject.metric(tasks.eager(network))
        artefact = quantised(subject, network, folder)
        used = reference.ratio(subject.load(artefact))
        int8 = subject.served(artefact)
    return replace(row, before=before, after=after, int8=int8, ratio=used * row.share, used=used)


def inner(subject: Subject, row: Row) -> Row:
    """Half of the channels inside every residual block, neither reconstructed nor trained."""
    criterion = CRITERIA[row.method]

    def kept_whole(network: nn.Module) -> Layers:
        named = network.named_modules()
        return [layer for name, layer in named if _weighted(layer) and not name.endswith(".conv1")]

    gradients = gradients_of(subject, criterion)
    network = pruned(subject, criterion, gradients, 0.5, kept_whole, together=False, multiple=1)
    return replace(row, before=subject.metric(tasks.eager(network)))


def pruned(
    subject: Subject,
    criterion: Criterion,
    gradients: Gradients,
    ratio: float,
    kept_whole: Callable[[nn.Module], Layers],
    *,
    together: bool = True,
    multiple: int = MULTIPLE,
) -> nn.Module:
    """The network without a share of its units. together: in one ranking of all layers."""
    peer = library()
    network = copy.deepcopy(subject.network)
    for name, parameter in network.named_parameters():
        parameter.grad = gradients[name].clone() if name in gradients else None
    chosen = peer.pruner.BasePruner(
        network,
        subject.task.example,
        importance=getattr(peer.importance, criterion.importance)(),
        global_pruning=together,
        pruning_ratio=ratio,
        round_to=multiple,
        iterative_steps=STEPS,
        ignored_layers=list(kept_whole(network)),
    )
    for _ in range(STEPS):
        chosen.step()
    network.zero_grad(set_to_none=True)
    return network.eval()


def gradients_of(subject: Subject, criterion: Criterion) -> Gradients:
    """Gradients of the cross-entropy by parameter, or the mean of each sample's squared, or none."""
    if not criterion.gradients:
        return {}
    network = copy.deepcopy(subject.network).eval()
    inputs, labels = subject.train.inputs[:SCORED], subject.train.labels[:SCORED]
    size = 1 if criterion.squared else tasks.BATCH
    total = {name: torch.zeros_like(parameter) for name, parameter in network.named_parameters()}
    for rows, wanted in zip(inputs.split(size), labels.split(size), strict=True):
        network.zero_grad(set_to_none=True)
        F.cross_entropy(network(rows), wanted).backward()
        for name, parameter in network.named_parameters():
            if parameter.grad is not None:
                found = parameter.grad.square() if criterion.squared else parameter.grad
                total[name] += found * len(rows) / len(inputs)
    return total


def train(network: nn.Module, subject: Subject) -> None:
    """SGD with a learning rate that falls as a cosine, for the subject's epochs or minutes."""
    optimiser = torch.optim.SGD(network.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    steps = subject.epochs * math.ceil(len(subject.train.labels) / tasks.BATCH)
    started, step = time.monotonic(), 0

    def done() -> float:
        if subject.minutes is None:
            return step / steps if steps else 1.0
        return (time.monotonic() - started) / (60 * subject.minutes)

    network.train()
    while done() < 1:
        for inputs, labels in subject.train:
            if (share := done()) >= 1:
                break
            for group in optimiser.param_groups:
                group["lr"] = 0.5 * LEARNING_RATE * (1 + math.cos(math.pi * share))
            optimiser.zero_grad(set_to_none=True)
            F.cross_entropy(network(inputs), labels).backward()
            optimiser.step()
            step += 1
    network.eval()


def quantised(subject: Subject, network: nn.Module, folder: Path) -> Path:
    """The network's file in INT8, by ONNX Runtime's quantiser and the calibration images of all methods."""
    captured = capture(network, subject.task.example)
    exported = export_onnx(captured, folder / "float.onnx")
    return quantised_by_ort(exported, captured.input_names[0], subject.calibration, folder)


def _left_alone(network: nn.Module) -> list[Callable[[nn.Module], Layers]]:
    """Sets of layers that keep their width, one after another to be tried."""

    def outputs(net: nn.Module) -> Layers:
        """The classifier, and attention, whose forward says how many heads there are."""
        words = ("linear", "classify", "query", "key", "value")
        return [layer for name, layer in net.named_modules() if name.rsplit(".")[-1] in words]

    def stream(net: nn.Module) -> Layers:
        """All but the first convolution of every residual block."""
        named = net.named_modules()
        return [layer for name, layer in named if _weighted(layer) and not name.endswith(".conv1")]

    inside = any(name.endswith(".conv1") for name, _ in network.named_modules())
    return [outputs, stream] if inside else [outputs]


def _weighted(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d | nn.Linear)


def _on_training(subject: Subject, found: Equal[nn.Module]) -> float:
    """Share of training samples that a network classifies rightly before it is trained."""
    inputs, labels = subject.train.inputs[:COMPARED], subject.train.labels[:COMPARED]
    with torch.no_grad():
        answers = torch.cat([found.made(part).argmax(1) for part in inputs.split(tasks.SERVED)])
    return float((answers == labels).float().mean())
