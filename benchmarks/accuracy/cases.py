"""Cases of the accuracy benchmark: networks, budgets, training data, and what must be reached."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.accuracy.rows import OURS, PEERS, Goal
from benchmarks.contract import tasks
from benchmarks.contract.networks import Cnn, FtTransformer

UNIFORM, GLOBAL_L2 = "uniform", "global L2"
CNN_LEARNT = 20_000  # images
LATENCY = "the dense INT8 model's latency"


@dataclass(frozen=True)
class Case:
    """kind: which function makes its rows (`__main__`). network: of `NETWORKS`.

    goals: by budget, a share of what `budget` says; None where there is none. minutes: goals by budget where
    recovery has `--minutes` and no epochs. images, calibrated: samples at most, of training and of
    calibration. epochs: of recovery.
    """

    name: str
    title: str
    kind: str
    network: str
    goals: Mapping[float | None, Goal]
    methods: tuple[str, ...] = (OURS, UNIFORM, GLOBAL_L2, *PEERS)
    minutes: Mapping[float | None, Goal] = field(default_factory=dict)
    budget: str = LATENCY
    images: int = 0
    epochs: int = 0
    calibrated: int = tasks.CALIBRATION

    def goal(self, share: float | None, minutes: float | None) -> Goal:
        """What must be reached in a setting; nothing where nobody said."""
        return (self.goals if minutes is None else self.minutes).get(share, Goal())


def _cnn(data: Path, cache: Path, samples: int) -> tasks.Source:
    return tasks.fashion(data, cache, "cnn", Cnn(), samples, learnt=CNN_LEARNT, epochs=3)


def _ftt(data: Path, cache: Path, samples: int) -> tasks.Source:
    return tasks.credit(data, cache, "ftt", FtTransformer, epochs=3)


NETWORKS: Mapping[str, Callable[[Path, Path, int], tasks.Source]] = {
    **tasks.TABLE,
    "cnn": _cnn,
    "ftt": _ftt,
}
_SERVED = Goal(speed_up=4, smaller=8, kept=0.99)
_CRITERIA = (OURS, "L2", "Taylor", *PEERS)

CASES = (
    Case(
        "resnet20-inner",
        "ResNet-20, CIFAR-10, inner channels halved, no training",
        "inner",
        "resnet20",
        {None: Goal(reach=84)},
        _CRITERIA,
        images=1024,
        calibrated=1024,
    ),
    Case(
        "resnet20",
        "ResNet-20, CIFAR-10",
        "latency",
        "resnet20",
        {
            0.7: Goal(lost=1, margin=1.5),
            0.5: Goal(lost=3, margin=1.5),
            0.35: Goal(lost=8, margin=1.5),
            0.95: Goal(lost=0.3, used=0.95),
        },
        minutes={0.7: Goal(lost=0.5), 0.5: Goal(lost=1.5), 0.35: Goal(lost=5)},
        images=40_000,
        epochs=3,
    ),
    Case(
        "mobilenet",
        "MobileNetV2 (small), Fashion-MNIST",
        "latency",
        "mobilenet",
        {0.7: Goal(lost=0.3, margin=0), 0.4: Goal(lost=2, margin=0)},
        images=8_000,
        epochs=3,
    ),
    *(
        Case(
            name,
            tasks.TITLES[name],
            "latency",
            name,
            {0.7: Goal(lost=0.5), 0.4: Goal(lost=2.5)},
            images=images,
            epochs=3,
        )
        for name, images in (("vit", 12_000), ("bert", 16_000))
    ),
    *(
        Case(f"credit-{name}", title, "served", name, {None: _SERVED}, (OURS,), images=21_000, epochs=3)
        for name, title in (
            ("mlp", tasks.TITLES["mlp"]),
            ("ftt", "FT-Transformer (3 layers, 64), UCI credit"),
        )
    ),
    Case(
        "cnn",
        "CNN, Fashion-MNIST, distilled",
        "distilled",
        "cnn",
        {share: Goal(lost=0) for share in (0.7, 0.5, 0.3)},
        (OURS,),
        budget="the parameters",
        images=CNN_LEARNT,
        epochs=3,
    ),
    Case(
        "cost",
        "ResNet-50, 224x224: scores and reconstruction from 256 samples",
        "cost",
        "",
        {None: Goal(minutes=3, gib=6)},
        (OURS,),
        images=256,
    ),
)
