"""Subject of the accuracy benchmark: a network with its data, and the latency of the dense INT8 model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import torch

import edgeprune
from benchmarks.accuracy.cases import NETWORKS, Case
from benchmarks.contract import tasks
from benchmarks.contract.baselines import Ours
from benchmarks.contract.case import Start, ordered, timed_inputs
from edgeprune.devices import Device, Load
from edgeprune.devices.artefact import artefact_size_mib
from edgeprune.devices.local import LocalDevice
from edgeprune.devices.predict import predictor
from edgeprune.fitting.loop import workshop_for
from edgeprune.fitting.order import Order, resolve_orders
from edgeprune.make import Workshop
from edgeprune.options import FitOptions
from edgeprune.records.task import Predict

RUNTIME = "onnxruntime"


@dataclass(frozen=True)
class Shuffled:
    """Batches of (inputs, labels), in an order of its own for every pass."""

    inputs: torch.Tensor
    labels: torch.Tensor
    passes: Iterator[int] = field(default_factory=count)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        generator = torch.Generator().manual_seed(next(self.passes))
        for rows in torch.randperm(len(self.labels), generator=generator).split(tasks.BATCH):
            yield self.inputs[rows], self.labels[rows]


@dataclass(frozen=True)
class Subject:
    """What all methods of a case share. work: where runs and measurements are kept."""

    case: Case
    network: torch.nn.Module
    task: edgeprune.Task
    train: Shuffled
    work: Path
    epochs: int
    minutes: float | None
    device: Device = field(default_factory=LocalDevice)

    @classmethod
    def of(
        cls,
        case: Case,
        data: Path,
        work: Path,
        *,
        images: int,
        tested: int,
        epochs: int,
        minutes: float | None,
    ) -> Subject:
        """images, tested: samples at most, of training and of evaluation."""
        torch.manual_seed(0)
        source = NETWORKS[case.network](data, work, images)
        inputs, labels = (torch.from_numpy(part[:images]) for part in source.training)
        train = Shuffled(inputs, labels)
        task = replace(tasks.as_task(source, images, tested, case.calibrated), train=train)
        return cls(case, task.model.eval(), task, train, work / "accuracy", epochs, minutes)

    @cached_property
    def dense(self) -> float:
        """The dense model's metric in float."""
        return self.metric(tasks.eager(self.network))

    @cached_property
    def start(self) -> Start:
        """Latencies of the dense model, which set the budgets; its INT8 artefact stays in the work folder."""
        return Start.of(self.case.network, self.task, RUNTIME, self.device, self.work)

    @cached_property
    def calibration(self) -> list[torch.Tensor]:
        return list(self.task.calibration)

    def metric(self, predict: Predict) -> float:
        return float(self.task.evaluate(predict))

    def served(self, artefact: Path) -> float:
        """The metric of an artefact in the runtime."""
        with self.device.start(self.load(artefact)) as session:
            return self.metric(predictor(session))

    def order(self, **more: Any) -> Order:
        """The order of a fit with the settings that all methods share."""
        (found,), _ = resolve_orders(FitOptions(**self.options(**more)))
        return found

    def options(self, **more: Any) -> dict[str, Any]:
        """Options of a fit that all methods share."""
        spent = {"epochs": self.epochs} if self.minutes is None else {"minutes": self.minutes}
        return {**ordered(self.device, RUNTIME), **spent, **more}

    def workshop(self, **more: Any) -> Workshop:
        return workshop_for(self.task, self.order(**more))

    @cached_property
    def threads(self) -> int:
        return self.order().profile.threads

    def load(self, artefact: Path) -> Load:
        return Load(RUNTIME, artefact, self.threads)

    def reference(self, workshop: Workshop, share: float) -> Ours:
        """A share of the dense INT8 model's latency, to compare others with."""
        if self.start.int8_ms is None:
            raise RuntimeError(f"nothing of {self.case.network} is INT8")
        percentile = self.order().budget.percentile
        return Ours(self.device, self.load(self._dense("int8")), timed_inputs(workshop), percentile, share)

    @property
    def float_mib(self) -> float:
        """Size of the dense float model's file."""
        return artefact_size_mib(self._dense("float32"))

    def _dense(self, precision: str) -> Path:
        """The dense model's file, which measuring its latency left."""
        (found,) = (self.work / "runs" / f"{self.case.network}-{RUNTIME}" / precision).glob("*.onnx")
        return found
