"""INT8 accuracy on CIFAR-10, of networks with published weights, in the runtime that serves them."""

from __future__ import annotations

import copy
import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from edgeprune.devices import agent
from edgeprune.export import export_onnx
from edgeprune.graph.capture import capture
from edgeprune.quantize.calibrate import TABLE as CALIBRATORS
from edgeprune.quantize.calibrate import calibrate
from edgeprune.quantize.correction import correct_means
from edgeprune.quantize.dialects import TABLE as DIALECTS
from edgeprune.quantize.emit import quantise
from edgeprune.quantize.equalise import equalise
from edgeprune.quantize.smooth import smooth

BATCH = 200
RUNTIMES = (("ort", "onnxruntime-x86"), ("ov", "openvino"))


def print_table(data: Path) -> None:
    """One row per network, runtime and calibrator; `data` holds the files that its README lists."""
    from safetensors.torch import load_file

    cifar, models = _module(data / "load_cifar10.py"), _module(data / "models.py")
    mean, std = (np.array(value, np.float32)[:, None, None] for value in (cifar.MEAN, cifar.STD))
    networks: tuple[tuple[str, nn.Module, str, Callable[[Any], Any]], ...] = (
        (
            "ResNet-20",
            models.CifarResNet(20),
            "resnet20_cifar10",
            lambda x: (x / np.float32(255) - mean) / std,
        ),
        ("MLPerf Tiny ResNet-8", models.ResNet8(), "resnet8_cifar10", lambda x: x.astype(np.float32)),
    )
    pixels, labels, _ = cifar.load(data / "cifar10_test.npz")
    training = cifar.load(data / "cifar10_train_a.npz")[0]
    chosen = np.random.default_rng(0).permutation(len(training))[:256]
    heads = ("network", "runtime", "float, %", *(f"{name}, %" for name in CALIBRATORS), "like channels, %")
    print(f"\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for name, net, file, prepared in networks:
        net.load_state_dict(load_file(data / f"{file}.safetensors"))
        images, calibration = prepared(pixels), torch.from_numpy(prepared(training[chosen])).split(64)
        forms = {name: net}
        if isinstance(net, models.CifarResNet):
            forms[f"{name}, planted"] = planted(net)
        for title, form in forms.items():
            for runtime, dialect in RUNTIMES:
                row = _row(form.eval(), calibration, images, labels, runtime, dialect)
                shares = " | ".join(f"{100 * share:.2f}" for share in row)
                print(f"| {title} | {runtime} | {shares} |", flush=True)


def planted(net: nn.Module, channels: int = 2, factor: float = 1e3) -> nn.Module:
    """The same function with outliers: in every block of a CifarResNet the first channels between its
    convolutions are `factor` times as large."""
    net = copy.deepcopy(net)
    with torch.no_grad():
        for block in (
            module for module in net.modules() if hasattr(module, "bn1") and hasattr(module, "conv2")
        ):
            block.bn1.weight[:channels] *= factor
            block.bn1.bias[:channels] *= factor
            block.conv2.weight[:, :channels] /= factor
    return net


def _row(
    net: nn.Module, batches: tuple[torch.Tensor, ...], images: Any, labels: Any, runtime: str, dialect: str
) -> list[float]:
    captured = capture(net, batches[0][:1])
    given = [(batch,) for batch in batches]
    alike = smooth(equalise(captured), given)
    with tempfile.TemporaryDirectory() as folder:
        exported = export_onnx(captured, Path(folder) / "float.onnx")
        found = [_accuracy(runtime, exported, captured.input_names[0], images, labels)]
        forms = [(captured, calibrator) for calibrator in CALIBRATORS]
        for form, calibrator in (*forms, (alike, "minmax")):
            written = exported if form is captured else export_onnx(form, Path(folder) / "alike.onnx")
            ranges = correct_means(form, calibrate(form, given, calibrator), DIALECTS[dialect], given)
            path = quantise(written, ranges, dialect, Path(folder) / "int8.onnx").path
            found.append(_accuracy(runtime, path, captured.input_names[0], images, labels))
    return found


def _accuracy(runtime: str, path: Path, name: str, images: Any, labels: Any) -> float:
    runner = agent.load_module(f"{runtime}.py").Runner(str(path), 1)
    right = 0
    for at in range(0, len(images), BATCH):
        answers = runner.run({name: images[at : at + BATCH]})[0]
        right += int((answers.argmax(1) == labels[at : at + BATCH]).sum())
    return right / len(images)


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
