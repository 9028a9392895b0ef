"""Six tasks on real data (shared/data), each small enough for a fit in minutes on one core.

Weights are published ones where the folder has them; the other networks are trained once, seeded, and kept in
the cache folder.
"""

from __future__ import annotations

import csv
import gzip
import importlib.util
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

import edgeprune
from benchmarks.contract.networks import Bert, MobileNet, ResidualMlp, Vit
from edgeprune.files import write

BATCH = 64
SERVED = 100  # rows that an evaluation hands over at a time
EVALUATED = 4000  # samples at most
RECOVERY = 6000  # samples of an epoch of recovery
CALIBRATION = 256
WORDS, TOKENS = 4000, 32
Arrays = tuple[NDArray[Any], NDArray[Any]]  # inputs, labels


@dataclass(frozen=True)
class Source:
    """Data of a task, shuffled, and its network with trained weights."""

    training: Arrays
    evaluation: Arrays
    network: nn.Module
    metric: str = "top-1"


def load(name: str, data: Path, cache: Path) -> edgeprune.Task:
    """The task `name` of `TABLE`. data: the folder of the data sets. cache: for weights trained here."""
    source = TABLE[name](data, cache)
    inputs, labels = (torch.from_numpy(part[:RECOVERY]) for part in source.training)
    seen, wanted = (part[:EVALUATED] for part in source.evaluation)
    score = _area if source.metric == "AUC" else _top_1

    def outputs(predict: Callable[..., Any]) -> NDArray[Any]:
        parts = [predict(seen[start : start + SERVED]) for start in range(0, len(seen), SERVED)]
        return np.concatenate(parts)

    def samples(predict: Callable[..., Any]) -> NDArray[np.float64]:
        return np.asarray(outputs(predict).argmax(1) == wanted, np.float64)

    return edgeprune.Task(
        model=source.network.eval(),
        example=inputs[:2],
        calibration=[inputs[start : start + BATCH] for start in range(0, CALIBRATION, BATCH)],
        train=list(zip(inputs.split(BATCH), labels.split(BATCH), strict=True)),
        evaluate=lambda predict: score(outputs(predict), wanted),
        metric=source.metric,
        evaluate_samples=samples if source.metric == "top-1" else None,
    )


def eager(network: nn.Module) -> Callable[..., Any]:
    """A network as `Task.evaluate` calls it."""

    def predict(rows: NDArray[Any]) -> Any:
        with torch.no_grad():
            return network(torch.from_numpy(rows)).numpy()

    return predict


def _top_1(outputs: NDArray[Any], labels: NDArray[Any]) -> float:
    return float(np.mean(outputs.argmax(1) == labels))


def _area(outputs: NDArray[Any], labels: NDArray[Any]) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels, outputs[:, 1] - outputs[:, 0]))


# Sources ------------------------------------------------------------------------------------------------


def _resnet20(data: Path, cache: Path) -> Source:
    cifar = _module(data / "load_cifar10.py")
    mean, std = (np.array(value, np.float32)[:, None, None] for value in (cifar.MEAN, cifar.STD))
    network = _module(data / "models.py").CifarResNet(20)
    return _cifar(data, network, "resnet20_cifar10", lambda x: (x / np.float32(255) - mean) / std)


def _resnet8(data: Path, cache: Path) -> Source:
    network = _module(data / "models.py").ResNet8()
    return _cifar(data, network, "resnet8_cifar10", lambda x: x.astype(np.float32))


def _cifar(
    data: Path, network: nn.Module, weights: str, scaled: Callable[[NDArray[Any]], NDArray[Any]]
) -> Source:
    from safetensors.torch import load_file

    cifar = _module(data / "load_cifar10.py")
    network.load_state_dict(load_file(data / f"{weights}.safetensors"))
    found = []
    for file, count in (("cifar10_train_a", RECOVERY), ("cifar10_test", EVALUATED)):
        pixels, labels, _ = cifar.load(data / f"{file}.npz")
        chosen = np.random.default_rng(0).permutation(len(pixels))[:count]
        found.append((scaled(pixels[chosen]), labels[chosen].astype(np.int64)))
    return Source(found[0], found[1], network)


def _mobilenet(data: Path, cache: Path) -> Source:
    return _fashion(data, cache, "mobilenet", MobileNet(), samples=8_000, epochs=4)


def _vit(data: Path, cache: Path) -> Source:
    return _fashion(data, cache, "vit", Vit(), samples=12_000, epochs=4)


def _fashion(data: Path, cache: Path, name: str, network: nn.Module, samples: int, epochs: int) -> Source:
    stored = np.load(data / "fashion_mnist.npz")
    chosen = np.random.default_rng(0).permutation(len(stored["x_train"]))[:samples]
    order = np.random.default_rng(1).permutation(len(stored["x_test"]))
    found = [
        ((stored[f"x_{part}"][rows, None] / 255 - 0.286) / 0.353, stored[f"y_{part}"][rows])
        for part, rows in (("train", chosen), ("test", order))
    ]
    training, evaluation = ((x.astype(np.float32), y.astype(np.int64)) for x, y in found)
    return Source(training, evaluation, _trained(name, network, training, cache, epochs))


def _bert(data: Path, cache: Path) -> Source:
    training, evaluation = (_sentences(data / f"sst2_{part}.tsv.gz") for part in ("train", "dev"))
    # 0 pads, 1 is any other word.
    counts = Counter(word for sentence, _ in training for word in sentence)
    numbers = {word: at for at, (word, _) in enumerate(counts.most_common(WORDS - 2), 2)}

    def coded(rows: list[tuple[list[str], int]], count: int) -> Arrays:
        chosen = np.random.default_rng(0).permutation(len(rows))[:count]
        found = np.zeros((len(chosen), TOKENS), np.int64)
        for at, row in enumerate(chosen):
            words = [numbers.get(word, 1) for word in rows[row][0][:TOKENS]]
            found[at, : len(words)] = words
        return found, np.array([rows[row][1] for row in chosen], np.int64)

    known = coded(training, 16_000)
    return Source(
        known, coded(evaluation, EVALUATED), _trained("bert", Bert(WORDS, TOKENS), known, cache, epochs=3)
    )


def _sentences(path: Path) -> list[tuple[list[str], int]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        next(rows)
        return [(row[0].split(), int(row[-1])) for row in rows]


def _mlp(data: Path, cache: Path) -> Source:
    stored = np.load(data / "uci_credit_default.npz")
    rows, labels, held = stored["X"], stored["y"].astype(np.int64), stored["is_test"]
    mean, std = rows[~held].mean(0), rows[~held].std(0)
    scaled = np.clip((rows - mean) / std, -5, 5).astype(np.float32)
    known, unseen = (
        (scaled[np.flatnonzero(part)][order], labels[part][order])
        for part in (~held, held)
        for order in (np.random.default_rng(0).permutation(int(part.sum())),)
    )
    network = ResidualMlp(rows.shape[1])
    return Source(known, unseen, _trained("mlp", network, known, cache, epochs=2), "AUC")


TABLE: Mapping[str, Callable[[Path, Path], Source]] = {
    "resnet20": _resnet20,
    "resnet8": _resnet8,
    "mobilenet": _mobilenet,
    "vit": _vit,
    "bert": _bert,
    "mlp": _mlp,
}
TITLES: Mapping[str, str] = {
    "resnet20": "ResNet-20, CIFAR-10",
    "resnet8": "MLPerf Tiny ResNet-8, CIFAR-10",
    "mobilenet": "MobileNetV2 (small), Fashion-MNIST",
    "vit": "ViT (4 layers, 64), Fashion-MNIST",
    "bert": "BERT-like (3 layers, 96), SST-2",
    "mlp": "residual MLP (4 blocks, 256), UCI credit",
}


def _trained(name: str, network: nn.Module, training: Arrays, cache: Path, epochs: int) -> nn.Module:
    """The network with weights from the cache, or trained now and put there."""
    from safetensors.torch import load_file, save

    path = cache / "weights" / f"{name}.safetensors"
    if not path.exists():
        _train(network, training, epochs)
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, save({key: value.contiguous() for key, value in network.state_dict().items()}))
    network.load_state_dict(load_file(path))
    return network


def _train(network: nn.Module, training: Arrays, epochs: int) -> None:
    """AdamW, one cycle of the learning rate; seeded by the caller."""
    inputs, labels = (torch.from_numpy(part) for part in training)
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.01)
    steps = epochs * (len(inputs) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    network.train()
    for _ in range(epochs):
        order = torch.randperm(len(inputs))
        for rows in order[: len(inputs) // BATCH * BATCH].split(BATCH):
            optimiser.zero_grad(set_to_none=True)
            F.cross_entropy(network(inputs[rows]), labels[rows]).backward()
            optimiser.step()
            schedule.step()
    network.eval()


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
