"""The INT8 form that a fit starts from: chosen by the metric that the runtime measures."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import edgeprune
from edgeprune.bundle.golden import read_golden, read_reference
from edgeprune.errors import DeviceError
from edgeprune.fitting.dense_forms import VARIANTS
from edgeprune.fitting.trials.runner import Trials
from edgeprune.latency.float_layers import Mixture
from edgeprune.records.bundle import GOLDEN, REFERENCE
from edgeprune.records.trial import FitResult
from edgeprune.runtimes import ort
from edgeprune.search.agreement import LARGEST_ERROR, relative_error


def planted(net: Any, channels: slice, factor: float) -> Any:
    """The same function, with some channels between conv1 and conv2 far larger than the others."""
    net = copy.deepcopy(net)
    with torch.no_grad():
        net.conv1.weight[channels] *= factor
        net.conv1.bias[channels] *= factor
        net.conv2.weight[:, channels] /= factor
    return net


class Front(torch.nn.Module):
    """The network behind two small convolutions that let its image through beside a constant of 10,000."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.into, self.out = torch.nn.Conv2d(1, 2, 1), torch.nn.Conv2d(2, 1, 1)
        self.net = net
        with torch.no_grad():
            self.into.weight[:] = torch.tensor([1.0, 0.0]).reshape(2, 1, 1, 1)
            self.into.bias[:] = torch.tensor([0.0, 1e4])
            self.out.weight[:] = torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1)
            self.out.bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(self.out(torch.relu(self.into(x))))


def started(tiny: ModuleType, scripted: ModuleType, out: Path, net: Any, **options: Any) -> FitResult:
    """A fit whose budget INT8 meets and float does not."""
    device = scripted.ScriptedDevice(tiny.latency_ms)
    task = tiny.task(model=net)
    limit_ms = 0.97 * dense_ms(tiny)
    return edgeprune.fit(task, latency_ms=limit_ms, device=device, out=out / "run", **options)


def proven(result: FitResult) -> float:
    """How far the chosen artefact, in exact arithmetic where there is any, is from its reference in torch."""
    artefact = Path(result.out) / result.chosen.artefact
    golden = read_golden(artefact.parent / GOLDEN)
    reference = read_reference(artefact.parent / REFERENCE)
    assert set(reference) == set(golden.outputs)
    found = list(golden.outputs.values())
    if result.runtime == "onnxruntime":  # 8 bits saturate on an x86 without VNNI, golden outputs included
        runner = ort.Runner(str(artefact), 1, exact=True)
        answers = [runner.run(feed) for feed in golden.feeds(1)]
        found = [np.concatenate(parts) for parts in zip(*answers, strict=True)]
    return relative_error(found, reference.values())


def dense_ms(tiny: ModuleType) -> float:
    """The scripted latency of the network in float, as `tiny.latency_ms` makes it up."""
    return 0.1 + 1e-4 * sum(weight.numel() for weight in tiny.task().model.parameters() if weight.dim() > 1)


def test_a_model_with_planted_outliers_is_brought_back(
    tiny: ModuleType, scripted: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = planted(tiny.task().model, slice(0, 3), 1e4)
    with monkeypatch.context() as patched:
        patched.setattr("edgeprune.fitting.dense_forms.VARIANTS", VARIANTS[:1])
        plain = started(tiny, scripted, tmp_path / "plain", net, max_drop=0.01)
    result = started(tiny, scripted, tmp_path, net, max_drop=0.01)
    floor = result.baseline.metric - 0.01
    assert {trial.name: trial for trial in plain.trials}["dense-int8"].metric < floor - 0.02, (
        "nothing to bring back"
    )
    assert result.verdict.kind == "fits"
    assert result.chosen.candidate.precision == "int8"
    assert result.chosen.metric >= floor
    assert result.chosen.candidate.equalised


def counted(tiny: ModuleType, net: Any, log: list[int], **changes: Any) -> edgeprune.Task:
    """The task; every full evaluation goes to `log`, as the number of rows that it asked for."""
    inner = tiny.task().evaluate

    def evaluate(predict: Any) -> float:
        log.append(0)

        def counting(images: Any) -> Any:
            log[-1] += len(images)
            return predict(images)

        return float(inner(counting))

    return edgeprune.Task(**{**vars(tiny.task(model=net)), "evaluate": evaluate, **changes})


def test_forms_are_compared_on_a_subset_and_few_are_evaluated_in_full(
    tiny: ModuleType, scripted: ModuleType, tmp_path: Path
) -> None:
    """Equalised channels are the third of four forms that hold; the first two are never evaluated."""
    evaluated: list[int] = []
    task = counted(tiny, planted(tiny.task().model, slice(0, 3), 1e4), evaluated)
    limit_ms = 0.97 * dense_ms(tiny)
    options: dict[str, Any] = {"latency_ms": limit_ms, "max_drop": 0.01, "out": tmp_path / "run"}
    result = edgeprune.fit(task, device=scripted.ScriptedDevice(tiny.latency_ms), **options)
    assert [trial.name for trial in result.trials] == ["dense", "dense-int8-equalised"]
    # The check of the task itself, its outputs in a wrong order, dense, and the one that holds.
    assert evaluated == 4 * [tiny.TEST_ROWS]
    ledger = (tmp_path / "run" / "ledger.jsonl").read_text()
    assert ledger.count('-screen"') in (
        len(VARIANTS),
        2 * len(VARIANTS),
    )  # each with 7 bits too where they saturate


def test_a_task_that_knows_a_subset_is_asked_for_its_metric_there(
    tiny: ModuleType, scripted: ModuleType, tmp_path: Path
) -> None:
    evaluated: list[int] = []
    images, labels = next(iter(tiny.task().train))
    asked: list[float] = []

    def evaluate_subset(predict: Any) -> float:
        asked.append(float((predict(images.numpy()).argmax(axis=1) == labels.numpy()).mean()))
        return asked[-1]

    net = planted(tiny.task().model, slice(0, 3), 1e4)
    task = counted(tiny, net, evaluated, evaluate_subset=evaluate_subset)
    limit_ms = 0.97 * dense_ms(tiny)
    device = scripted.ScriptedDevice(tiny.latency_ms)
    result = edgeprune.fit(task, latency_ms=limit_ms, max_drop=0.02, device=device, out=tmp_path / "run")
    assert result.chosen.candidate.equalised
    assert result.verdict.kind == "fits"
    assert min(asked) < asked[0] - 0.02, "the subset showed nothing"
    assert len(evaluated) < 2 + len(VARIANTS)


def test_a_comparison_that_was_recorded_is_not_made_again(
    tiny: ModuleType, scripted: ModuleType, tmp_path: Path
) -> None:
    net = planted(tiny.task().model, slice(0, 3), 1e4)
    limit_ms = 0.97 * dense_ms(tiny)

    def lost(request: str, artefact: Path) -> None:
        if request == "time" and artefact.parent.name == "dense-int8-equalised":
            raise DeviceError("The device is gone.", "Look for it.")

    def fit(device: Any, **options: Any) -> FitResult:
        task = tiny.task(model=net)
        return edgeprune.fit(task, latency_ms=limit_ms, device=device, out=tmp_path / "run", **options)

    with pytest.raises(DeviceError, match="gone"):
        fit(scripted.ScriptedDevice(tiny.latency_ms, before=lost))
    again = scripted.ScriptedDevice(tiny.latency_ms)
    whole = edgeprune.fit(
        tiny.task(model=net),
        latency_ms=limit_ms,
        device=scripted.ScriptedDevice(tiny.latency_ms),
        out=tmp_path / "whole",
    )
    resumed = fit(again, resume=True)
    assert resumed.chosen.candidate == whole.chosen.candidate
    assert [trial.name for trial in resumed.trials] == [trial.name for trial in whole.trials]
    steps = [json.loads(line)["key"] for line in _ledger(tmp_path / "run")[1:]]
    assert len(steps) == len(set(steps))


def _ledger(out: Path) -> list[str]:
    return (out / "ledger.jsonl").read_text().splitlines()


@pytest.fixture
def without_other_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeprune.fitting.dense_forms.VARIANTS", (("", "minmax", False),))


@pytest.mark.usefixtures("without_other_forms")
def test_the_layers_that_int8_hurts_go_back_to_float_and_no_more(
    tiny: ModuleType, scripted: ModuleType, tmp_path: Path
) -> None:
    net = Front(tiny.task().model).eval()
    result = started(tiny, scripted, tmp_path, net, max_drop=0.01)
    chosen = result.chosen
    assert chosen.candidate.float_layers == ("into", "out")
    assert chosen.name == "dense-int8-float2"
    assert (chosen.layers_int8, chosen.layers_float) == (4, 2)
    assert chosen.metric >= result.baseline.metric - 0.01


@pytest.mark.usefixtures("without_other_forms")
def test_where_half_of_the_layers_in_float_do_not_help_the_answer_is_float(
    tiny: ModuleType, scripted: ModuleType, tmp_path: Path
) -> None:
    """An evaluation that accepts the float network's answers only, to the bit."""
    task = tiny.task()
    images = torch.stack([x for x, _ in task.train][:1])[0]
    with torch.no_grad():
        wanted = task.model(images).numpy()

    def evaluate(predict: Any) -> float:
        return float(abs(predict(images.numpy()) - wanted).max() < 1e-4)

    device = scripted.ScriptedDevice(tiny.latency_ms)
    result = edgeprune.fit(
        tiny.task(evaluate=evaluate), speedup=1.01, device=device, out=tmp_path / "run", epochs=0
    )
    names = [trial.name for trial in result.trials]
    assert names[:4] == ["dense", "dense-int8", "dense-int8-float1", "dense-int8-float2"]
    assert all(trial.candidate.precision == "float32" for trial in result.trials if "trial" in trial.name)


def test_a_model_of_matrix_products_may_take_its_ranges_from_each_query(
    tiny: ModuleType, scripted: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("edgeprune.fitting.dense_forms.VARIANTS", ())
    linear = torch.nn.Linear
    net = torch.nn.Sequential(torch.nn.Flatten(), linear(64, 256), torch.nn.ReLU(), linear(256, 10)).eval()
    device = scripted.ScriptedDevice(lambda artefact: 1.0 if "int8" in artefact.parent.name else 2.0)
    task = tiny.task(model=net, evaluate=lambda predict: 0.5)
    result = edgeprune.fit(task, latency_ms=1.5, device=device, out=tmp_path / "run")
    assert (result.verdict.kind, result.chosen.name) == ("fits", "dense-int8-dynamic")
    assert result.chosen.candidate.calibrator == "dynamic"
    assert (result.chosen.layers_int8, result.chosen.layers_float) == (2, 0)
    assert proven(result) < LARGEST_ERROR


@pytest.fixture
def perceptron() -> torch.nn.Module:
    torch.manual_seed(0)
    linear, relu = torch.nn.Linear, torch.nn.ReLU()
    return torch.nn.Sequential(
        torch.nn.Flatten(), linear(64, 512), relu, linear(512, 512), relu, linear(512, 10)
    ).eval()


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_where_int8_is_too_large_the_weights_alone_take_four_bits(
    runtime: str, perceptron: Any, tiny: ModuleType, scripted: ModuleType, tmp_path: Path
) -> None:
    pytest.importorskip(runtime)
    device = scripted.ScriptedDevice(lambda artefact: 1.0 if "int" in artefact.parent.name else 2.0)
    task = tiny.task(model=perceptron, evaluate=lambda predict: 0.5)
    result = edgeprune.fit(
        task, latency_ms=5, size_mib=0.28, runtime=runtime, device=device, out=tmp_path / "run"
    )
    assert [trial.name for trial in result.trials] == ["dense", "dense-int8", "dense-int4-weights"]
    chosen = result.chosen
    assert (chosen.name, chosen.candidate.precision) == ("dense-int4-weights", "int4-weights")
    assert (chosen.layers_int8, chosen.layers_float) == (2, 1), "the head has too few weights"
    assert chosen.measurement.size_mib <= 0.28 < result.trials[1].measurement.size_mib
    assert result.verdict.kind == "fits"
    # OpenVINO's processor plug-in may keep activations float where ONNX Runtime rounds them, block by block.
    assert proven(result) < LARGEST_ERROR


def test_where_latency_alone_lacks_weights_that_are_used_often_are_not_tried_on_their_own(
    tiny: ModuleType, scripted: ModuleType, tmp_path: Path
) -> None:
    class PerPixel(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = torch.nn.Linear(8, 16), torch.nn.Linear(16, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.down(torch.relu(self.up(x[:, 0]))).mean(1)

    device = scripted.ScriptedDevice(lambda artefact: 1.0 if "int" in artefact.parent.name else 2.0)
    task = tiny.task(model=PerPixel().eval(), evaluate=lambda predict: 0.5)
    result = edgeprune.fit(task, latency_ms=0.5, device=device, out=tmp_path / "run", recover="none")
    assert result.verdict.kind == "misses"
    assert not [trial for trial in result.trials if "weights" in trial.candidate.precision]


def spread(net: Any, factor: float) -> Any:
    """The same function, its residual stream of channels 1 to `factor` times as large: 8 bits hold few.

    All of its channels are read together; only all that write and read the stream can be rescaled at once.
    """
    net = copy.deepcopy(net)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    size = torch.logspace(0, math.log10(factor), 16)[order]
    with torch.no_grad():
        net.bn.weight *= size
        net.bn.bias *= size
        net.conv2.weight *= size.reshape(-1, 1, 1, 1)
        net.conv2.bias *= size
        net.conv1.weight /= size.reshape(1, -1, 1, 1)
        net.head.weight /= size
    return net


def test_a_residual_stream_is_brought_back_without_training(
    tiny: ModuleType, scripted: ModuleType, tmp_path: Path
) -> None:
    net = spread(tiny.task().model, 150)
    result = started(tiny, scripted, tmp_path, net, max_drop=0.01, epochs=0)
    assert result.verdict.kind == "fits"
    assert result.chosen.candidate.equalised
    assert (result.chosen.layers_int8, result.chosen.layers_float) == (4, 0)
    assert result.chosen.metric >= result.baseline.metric - 0.01


@pytest.fixture
def one_thread() -> Iterator[None]:
    """How training rounds depends on the number of threads; the suite has one, pytest by hand more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_training_brings_back_what_no_form_holds(
    tiny: ModuleType, scripted: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeprune.fitting.dense_forms.VARIANTS", (("", "percentile", False),))
    net = spread(tiny.task().model, 400)
    result = started(tiny, scripted, tmp_path, net, max_drop=0.01, epochs=10)
    floor = result.baseline.metric - 0.01
    untrained = [t for t in result.trials if t.name.startswith("dense-int8") and not t.candidate.qat]
    assert max(trial.metric for trial in untrained) < floor - 0.02, "nothing to bring back"
    assert result.verdict.kind == "fits"
    assert result.chosen.candidate.qat
    assert (result.chosen.layers_int8, result.chosen.layers_float) == (4, 0)
    assert result.chosen.metric >= floor
    ((rung, before, after, kept),) = result.chosen.recovered
    assert (rung, kept) == ("qat", True)
    assert after < before / 2


@pytest.mark.parametrize(
    "options", [{"recover": "none"}, {"recover": "reconstruct"}, {"epochs": 0}], ids=lambda each: str(each)
)
def test_weights_are_not_trained_where_recovery_may_not(
    tiny: ModuleType,
    scripted: ModuleType,
    tmp_path: Path,
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edgeprune.fitting.dense_forms.VARIANTS", (("", "percentile", False),))
    result = started(tiny, scripted, tmp_path, spread(tiny.task().model, 150), max_drop=0.01, **options)
    assert not any(trial.candidate.qat for trial in result.trials)


@pytest.mark.usefixtures("without_other_forms")
def test_a_pruned_candidate_that_breaks_the_metric_in_int8_alone_is_trained_on(
    tiny: ModuleType, scripted: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dense model holds the metric with its INT8 form here; what was pruned holds it in float only."""

    def broken(name: str, metric: float, qat: bool) -> float:
        return metric - 0.3 if name.startswith("final") and not qat else metric

    tested = Trials._test

    def worse(self: Trials, name: str, candidate: Any, *given: Any) -> Any:
        found = tested(self, name, candidate, *given)
        return replace(found, metric=broken(name, found.metric, candidate.qat))

    monkeypatch.setattr(Trials, "_test", worse)
    device = scripted.ScriptedDevice(tiny.latency_ms)
    options: dict[str, Any] = {"speedup": 2.0, "max_drop": 0.1, "epochs": 2, "out": tmp_path / "run"}
    result = edgeprune.fit(tiny.task(), device=device, **options)
    assert result.verdict.kind == "fits"
    assert result.chosen.candidate.qat
    assert result.chosen.name.startswith("final")
    assert result.chosen.name.endswith("-qat")
    assert [rung for rung, *_ in result.chosen.recovered] == ["reconstruct", "statistics", "finetune", "qat"]
    assert result.chosen.params < result.baseline.params
    again = edgeprune.fit(
        tiny.task(), device=scripted.ScriptedDevice(tiny.latency_ms), resume=True, **options
    )
    assert again.chosen == result.chosen


def named_ms(**by_word: float) -> Any:
    """A scripted latency: of the first word that the trial's name contains, else 2 ms."""

    def latency_ms(artefact: Path) -> float:
        return next((ms for word, ms in by_word.items() if word in artefact.parent.name), 2.0)

    return latency_ms


@pytest.fixture
def few_weights() -> torch.nn.Module:
    """So few weights that the Q/DQ nodes of INT8 take more room than its weights save."""
    torch.manual_seed(0)
    conv, relu, flat = torch.nn.Conv2d, torch.nn.ReLU(), torch.nn.Flatten()
    return torch.nn.Sequential(
        conv(1, 4, 3, 2), relu, conv(4, 4, 3), relu, flat, torch.nn.Linear(4, 10)
    ).eval()


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_int8_in_a_larger_file_fits_where_no_size_was_asked(
    runtime: str, few_weights: Any, tiny: ModuleType, scripted: ModuleType, tmp_path: Path
) -> None:
    pytest.importorskip(runtime)
    device = scripted.ScriptedDevice(named_ms(int8=1.0))
    task = tiny.task(model=few_weights, evaluate=lambda predict: 0.5)
    options: dict[str, Any] = {"runtime": runtime, "device": device, "recover": "none"}
    result = edgeprune.fit(task, latency_ms=1.5, out=tmp_path / "run", **options)
    assert (result.verdict.kind, result.chosen.name) == ("fits", "dense-int8")
    larger = result.chosen.measurement.size_mib
    assert larger > result.baseline.measurement.size_mib, "nothing was larger"
    asked = edgeprune.fit(task, latency_ms=1.5, size_mib=0.99 * larger, out=tmp_path / "asked", **options)
    int8 = next(trial for trial in asked.trials if trial.name == "dense-int8")
    assert [breach.line for breach in int8.verdict.breaches] == ["size_mib"], (
        "a size that was asked for binds"
    )


def test_int8_that_is_slower_is_the_answer_where_room_alone_is_short(
    tiny: ModuleType, scripted: ModuleType, tmp_path: Path
) -> None:
    device = scripted.ScriptedDevice(named_ms(int8=3.0))
    size_mib = 0.6 * sum(weight.numel() for weight in tiny.task().model.parameters()) * 4 / 2**20
    options: dict[str, Any] = {"latency_ms": 5, "device": device, "recover": "none"}
    result = edgeprune.fit(tiny.quick(), size_mib=size_mib, max_drop=0.05, out=tmp_path / "run", **options)
    assert (result.verdict.kind, result.chosen.name) == ("fits", "dense-int8")


def test_where_fixed_ranges_gain_nothing_ranges_of_each_query_still_may(
    perceptron: Any, tiny: ModuleType, scripted: ModuleType, tmp_path: Path
) -> None:
    device = scripted.ScriptedDevice(named_ms(dynamic=1.0, int8=3.0))
    task = tiny.task(model=perceptron, evaluate=lambda predict: 0.5)
    result = edgeprune.fit(task, latency_ms=1.5, device=device, out=tmp_path / "run", recover="none")
    assert (result.verdict.kind, result.chosen.name) == ("fits", "dense-int8-dynamic")


@pytest.mark.usefixtures("without_other_forms")
def test_layers_back_in_float_that_hold_every_line_are_not_trained_for_speed(
    tiny: ModuleType, scripted: ModuleType, tmp_path: Path
) -> None:
    """They cost four fifths of what INT8 gains, and nobody asked for that speed."""
    device = scripted.ScriptedDevice(named_ms(float=1.8, int8=1.0))
    task = tiny.task(model=Front(tiny.task().model).eval())
    result = edgeprune.fit(task, latency_ms=1.9, device=device, out=tmp_path / "run", epochs=2)
    assert (result.verdict.kind, result.chosen.name) == ("fits", "dense-int8-float2")
    assert not any(trial.candidate.qat for trial in result.trials)


def test_layers_that_only_time_left_in_float_become_int8_where_size_is_short(
    tiny: ModuleType, scripted: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    slow = Mixture(slow_layers=("conv1", "conv2"))
    monkeypatch.setattr("edgeprune.fitting.dense_forms.Survey.mixture", lambda *given: slow)
    device = scripted.ScriptedDevice(named_ms(whole=1.2, mixed=1.0))
    options: dict[str, Any] = {"device": device, "recover": "none", "max_drop": 0.05}
    roomy = edgeprune.fit(tiny.quick(), latency_ms=1.5, out=tmp_path / "roomy", **options)
    assert roomy.chosen.name == "dense-int8-mixed"
    size_mib = 0.99 * roomy.chosen.measurement.size_mib
    result = edgeprune.fit(tiny.quick(), latency_ms=1.5, size_mib=size_mib, out=tmp_path / "run", **options)
    assert (result.verdict.kind, result.chosen.name) == ("fits", "dense-int8-mixed-whole")
    assert result.chosen.candidate.slow_layers == ()


def test_weights_alone_are_tried_for_room_however_little_of_the_work_they_do(
    tiny: ModuleType, scripted: ModuleType, tmp_path: Path
) -> None:
    """One product with most of the weights, behind convolutions with most of the work."""
    torch.manual_seed(0)
    conv, relu = torch.nn.Conv2d, torch.nn.ReLU()
    front = (
        conv(1, 8, 3, padding=1),
        relu,
        *(each for _ in range(12) for each in (conv(8, 8, 3, padding=1), relu)),
    )
    head = (torch.nn.Flatten(), torch.nn.Linear(512, 256), relu, torch.nn.Linear(256, 10))
    task = tiny.task(model=torch.nn.Sequential(*front, *head).eval(), evaluate=lambda predict: 0.5)
    device = scripted.ScriptedDevice(named_ms(int=1.0))
    result = edgeprune.fit(task, latency_ms=5, size_mib=0.15, device=device, out=tmp_path / "run")
    assert result.chosen.name == "dense-int4-weights"
    assert result.verdict.kind == "fits"
