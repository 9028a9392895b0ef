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
    return as_task(TABLE[name](data, cache, RECOVERY), RECOVERY, EVALUATED)


def as_task(source: Source, trained: int, evaluated: int, calibrated: int = CALIBRATION) -> edgeprune.Task:
    """The task of a source. trained, evaluated, calibrated: samples at most."""
    inputs, labels = (torch.from_numpy(part[:trained]) for part in source.training)
    seen, wanted = (part[:evaluated] for part in source.evaluation)
    score = _area if source.metric == "AUC" else _top_1

    def outputs(predict: Callable[..., Any]) -> NDArray[Any]:
        parts = [predict(seen[start : start + SERVED]) for start in range(0, len(seen), SERVED)]
        return np.concatenate(parts)

    def samples(predict: Callable[..., Any]) -> NDArray[np.float64]:
        return np.asarray(outputs(predict).argmax(1) == wanted, np.float64)

    return edgeprune.Task(
        model=source.network.eval(),
        example=inputs[:2],
        calibration=[inputs[start : start + BATCH] for start in range(0, calibrated, BATCH)],
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


def _resnet20(data: Path, cache: Path, samples: int) -> Source:
    cifar = _module(data / "load_cifar10.py")
    mean, std = (np.array(value, np.float32)[:, None, None] for value in (cifar.MEAN, cifar.STD))
    network = _module(data / "models.py").CifarResNet(20)
    return _cifar(data, network, "resnet20", lambda x: (x / np.float32(255) - mean) / std, samples)


def _resnet8(data: Path, cache: Path, samples: int) -> Source:
    network = _module(data / "models.py").ResNet8()
    return _cifar(data, network, "resnet8", lambda x: x.astype(np.float32), samples)


def _cifar(
    data: Path,
    network: nn.Module,
    weights: str,
    scaled: Callable[[NDArray[Any]], NDArray[Any]],
    samples: int,
) -> Source:
    from safetensors.torch import load_file

    cifar = _module(data / "load_cifar10.py")
    network.load_state_dict(load_file(data / f"{weights}_cifar10.safetensors"))

    def part(file: str, count: int | None = None) -> Arrays:
        pixels, labels, _ = cifar.load(data / f"cifar10_{file}.npz")
        chosen = np.random.default_rng(0).permutation(len(pixels))[:count]
        return scaled(pixels[chosen]), labels[chosen].astype(np.int64)

    images, labels = part("train_a", samples)
    if samples > len(images):
        more = part("train_b", samples - len(images))
        images, labels = np.concatenate([images, more[0]]), np.concatenate([labels, more[1]])
    return Source((images, labels), part("test"), network)


def _mobilenet(data: Path, cache: Path, samples: int) -> Source:
    return fashion(data, cache, "mobilenet", MobileNet(), samples, learnt=8_000, epochs=4)


def _vit(data: Path, cache: Path, samples: int) -> Source:
    return fashion(data, cache, "vit", Vit(), samples, learnt=12_000, epochs=4)


def fashion(
    data: Path, cache: Path, name: str, network: nn.Module, samples: int, *, learnt: int, epochs: int
) -> Source:
    """Fashion-MNIST for a network that learns it from its first `learnt` images."""
    stored = np.load(data / "fashion_mnist.npz")
    chosen = np.random.default_rng(0).permutation(len(stored["x_train"]))[: max(learnt, samples)]
    order = np.random.default_rng(1).permutation(len(stored["x_test"]))
    found = [
        ((stored[f"x_{part}"][rows, None] / 255 - 0.286) / 0.353, stored[f"y_{part}"][rows])
        for part, rows in (("train", chosen), ("test", order))
    ]
    training, evaluation = ((x.astype(np.float32), y.astype(np.int64)) for x, y in found)
    first = (training[0][:learnt], training[1][:learnt])
    return Source(training, evaluation, _trained(name, network, first, cache, epochs))


def _bert(data: Path, cache: Path, samples: int) -> Source:
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

    learnt = 16_000
    known = coded(training, max(learnt, samples))
    network = _trained("bert", Bert(WORDS, TOKENS), (known[0][:learnt], known[1][:learnt]), cache, epochs=3)
    return Source(known, coded(evaluation, len(evaluation)), network)


def _sentences(path: Path) -> list[tuple[list[str], int]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        next(rows)
        return [(row[0].split(), int(row[-1])) for row in rows]


def _mlp(data: Path, cache: Path, samples: int) -> Source:
    return credit(data, cache, "mlp", ResidualMlp, epochs=2)


def credit(data: Path, cache: Path, name: str, network: Callable[[int], nn.Module], *, epochs: int) -> Source:
    """UCI credit, all of its training rows, for a network of so many columns."""
    stored = np.load(data / "uci_credit_default.npz")
    rows, labels, held = stored["X"], stored["y"].astype(np.int64), stored["is_test"]
    mean, std = rows[~held].mean(0), rows[~held].std(0)
    scaled = np.clip((rows - mean) / std, -5, 5).astype(np.float32)
    known, unseen = (
        (scaled[np.flatnonzero(part)][order], labels[part][order])
        for part in (~held, held)
        for order in (np.random.default_rng(0).permutation(int(part.sum())),)
    )
    trained = _trained(name, network(rows.shape[1]), known, cache, epochs)
    return Source(known, unseen, trained, "AUC")


# data folder, cache folder, samples to train on at least
TABLE: Mapping[str, Callable[[Path, Path, int], Source]] = {
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
