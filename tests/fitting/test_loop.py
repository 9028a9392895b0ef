"""The fit on a scripted device: real models, real artefacts, made-up latencies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import edgeprune
from edgeprune.bundle import open_bundle, read_golden
from edgeprune.errors import DeviceError, InputError
from edgeprune.fitting.loop import AT_A_STEP
from edgeprune.fitting.trials.comparison import FEWEST
from edgeprune.records.bundle import EVIDENCE, GOLDEN
from edgeprune.records.progress import Event
from edgeprune.records.trial import FitResult
from edgeprune.results import load_result
from edgeprune.tasks.calibration import CHANGED


@pytest.fixture
def fit(tiny: ModuleType, scripted: ModuleType, tmp_path: Path) -> Callable[..., FitResult]:
    def run(**options: Any) -> FitResult:
        defaults = {
            "device": scripted.ScriptedDevice(tiny.latency_ms),
            "out": tmp_path / "run",
            "epochs": 2,
        }
        task = options.pop("task", None) or tiny.quick()
        return edgeprune.fit(task, **{**defaults, **options})

    return run


@pytest.fixture(scope="module")
def pruned(tiny: ModuleType, scripted: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> FitResult:
    """One fit to twice the speed that several tests look at."""
    device = scripted.ScriptedDevice(tiny.latency_ms)
    out = tmp_path_factory.mktemp("pruned") / "run"
    return edgeprune.fit(tiny.quick(), speedup=2.0, max_drop=0.05, device=device, out=out, epochs=2)


def test_a_dense_model_that_fits_is_not_compressed(fit: Callable[..., FitResult]) -> None:
    result = fit(latency_ms=50)
    assert (result.verdict.kind, result.chosen.name, len(result.trials)) == ("fits", "dense", 1)


def test_an_answer_knows_what_was_asked_of_whom_and_by_what(
    fit: Callable[..., FitResult], scripted: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["/opt/bin/edgeprune", "fit", "my model.py"])
    result = fit(latency_ms=50, max_drop="2%")
    assert dict(result.sources) == {"latency_ms": "flag", "percentile": "profile", "max_drop_percent": "flag"}
    occasion = result.occasion
    assert occasion is not None
    assert (occasion.device, occasion.machine) == ("scripted", scripted.MACHINE.words)
    assert occasion.command == "edgeprune fit 'my model.py'"
    assert datetime.fromisoformat(occasion.date).tzinfo is not None
    assert result.seconds > 0
    assert load_result(Path(result.out)) == result
    again = fit(latency_ms=50, max_drop="2%", resume=True)
    assert replace(again, seconds=0.0, occasion=occasion) == replace(result, seconds=0.0)
    with open_bundle(Path(result.bundle or "")) as verified:
        evidence = (verified.folder / EVIDENCE).read_text()
    assert "my model" not in evidence, "a bundle tells nothing of who ran the fit"


def test_int8_comes_before_pruning(fit: Callable[..., FitResult]) -> None:
    result = fit(speedup=1.15)
    # On a processor without VNNI the plain form may saturate.
    assert (result.verdict.kind, result.chosen.name.removesuffix("-7bit")) == ("fits", "dense-int8")
    assert result.chosen.params == result.baseline.params


def test_the_chosen_candidate_is_compared_with_the_original_sample_by_sample(
    fit: Callable[..., FitResult], tiny: ModuleType
) -> None:
    plain = tiny.quick()
    seen: list[float] = []

    def evaluate_samples(predict: Any) -> np.ndarray:
        share = plain.evaluate(predict)
        seen.append(share)
        return (np.arange(tiny.TEST_ROWS) < round(share * tiny.TEST_ROWS)).astype(float)

    result = fit(task=tiny.quick(evaluate_samples=evaluate_samples), speedup=1.15)
    drop = result.chosen.drop
    assert result.chosen.name.removesuffix("-7bit") == "dense-int8"
    assert drop is not None
    assert drop.value == pytest.approx(result.baseline.metric - result.chosen.metric)
    assert drop.samples == tiny.TEST_ROWS
    asked_before, shuffled, *compared = seen
    assert shuffled < asked_before, "outputs in a wrong order, to see that the scores look at them"
    assert len(compared) == 2, "the original and the chosen one, once each"
    assert result.chosen in result.trials
    assert load_result(Path(result.out)) == result


def test_a_random_evaluation_is_repeated_until_the_floor_is_certain(
    fit: Callable[..., FitResult], tiny: ModuleType
) -> None:
    numbers = np.random.default_rng(0)
    scored: list[float] = []

    def evaluate_samples(predict: Any) -> np.ndarray:
        scores = tiny.scores(predict) * (numbers.random(tiny.TEST_ROWS) < 0.9)
        scored.append(scores.mean())
        return scores

    task = tiny.quick(
        evaluate=lambda predict: float(evaluate_samples(predict).mean()),
        evaluate_samples=evaluate_samples,
    )
    result = fit(task=task, speedup=1.15, max_drop=0.2)
    # On a processor without VNNI the plain form may saturate.
    assert (result.verdict.kind, result.chosen.name.removesuffix("-7bit")) == ("fits", "dense-int8")
    questioned = 3  # by the metric in a wrong order, by the scores of samples in both
    assert len(scored) == 3 + questioned + 2 * FEWEST, (
        "evaluated as the original, dense and in INT8, then compared"
    )


def test_pruning_lands_just_inside_the_budget_and_everything_holds(pruned: FitResult) -> None:
    result = pruned
    chosen, budget = result.chosen, result.budget
    assert result.verdict.kind == "fits"
    assert budget.latency_ms == pytest.approx(result.baseline.measurement.latency.bound_ms / 2)
    bound = chosen.measurement.latency.bound_ms
    assert bound is not None
    assert 0.7 * budget.latency_ms <= bound <= budget.latency_ms
    assert chosen.metric >= result.baseline.metric - budget.max_drop
    assert chosen.measurement.latency.runs >= 662
    assert chosen.params < result.baseline.params
    assert chosen.macs < result.baseline.macs
    assert sum(units for _, units in chosen.kept) == sum(len(units) for _, units in chosen.candidate.kept)


def test_a_fit_leaves_a_bundle_that_opens_and_a_model_that_loads(pruned: FitResult) -> None:
    result = pruned
    assert result.bundle is not None
    with open_bundle(Path(result.bundle)) as verified:
        assert verified.manifest.candidate == result.chosen.name
        assert verified.manifest.budget == result.budget
        assert verified.manifest.pace == result.pace is not None
        golden = read_golden(verified.folder / GOLDEN)
    assert {name: array.shape for name, array in golden.reference.items()} == {"output": (16, 10)}
    assert load_result(Path(result.out)) == result
    program = torch.export.load(Path(result.out) / result.chosen.name / "model.pt2")
    params = sum(tensor.numel() for name, tensor in program.named_parameters())
    assert params == result.chosen.params


def test_a_budget_that_nothing_meets_is_a_result_with_the_line_that_broke(
    fit: Callable[..., FitResult],
) -> None:
    result = fit(latency_ms=0.05)
    assert result.verdict.kind == "misses"
    assert result.bundle is None
    (breach, *_) = result.verdict.breaches
    assert (breach.line, breach.limit) == ("latency_ms", 0.05)
    fastest = min(r.measurement.latency.bound_ms or 0 for r in result.trials)
    assert result.chosen.measurement.latency.bound_ms == fastest


def test_memory_and_size_bind_like_latency(
    fit: Callable[..., FitResult], scripted: ModuleType, tiny: ModuleType, tmp_path: Path
) -> None:
    device = scripted.ScriptedDevice(tiny.latency_ms, lambda artefact: artefact.stat().st_size / 2**10)
    dense = fit(latency_ms=50, device=device, out=tmp_path / "dense").baseline.measurement
    limit = 0.3 * dense.memory_mib
    result = fit(latency_ms=50, memory_mib=limit, max_drop=0.2, device=device)
    assert result.verdict.kind == "fits"
    assert result.chosen.name != "dense"
    assert result.chosen.measurement.memory_mib <= limit


def test_a_metric_below_the_floor_misses_by_name(fit: Callable[..., FitResult]) -> None:
    result = fit(speedup=3.5, max_drop=0.0, recover="none")
    assert result.verdict.kind == "misses"
    assert "metric" in {breach.line for breach in result.verdict.breaches}


def test_the_same_seed_gives_the_same_result(fit: Callable[..., FitResult], pruned: FitResult) -> None:
    again = fit(speedup=2.0, max_drop=0.05)
    place = {"seconds": 0.0, "out": "", "bundle": None, "occasion": None}
    assert replace(again, **place) == replace(pruned, **place)


def test_another_order_is_not_resumed(fit: Callable[..., FitResult]) -> None:
    fit(latency_ms=50)
    with pytest.raises(InputError, match="latency_ms"):
        fit(latency_ms=40, resume=True)


def test_a_device_that_vanishes_is_a_failure_and_the_run_resumes(
    fit: Callable[..., FitResult], scripted: ModuleType, tiny: ModuleType
) -> None:
    def vanish(request: str, artefact: Path) -> None:
        if artefact.parent.name == "dense-int8":
            raise DeviceError("The device is gone.", "Look for it.")

    with pytest.raises(DeviceError, match="gone"):
        fit(speedup=1.15, device=scripted.ScriptedDevice(tiny.latency_ms, before=vanish))
    assert fit(speedup=1.15, resume=True).verdict.kind == "fits"


def test_a_session_that_drifts_never_becomes_a_lucky_fit(
    fit: Callable[..., FitResult], scripted: ModuleType, tiny: ModuleType
) -> None:
    device = scripted.ScriptedDevice(tiny.latency_ms, speed=lambda block: 1.0 + 0.4 * (block % 40 > 20))
    result = fit(speedup=1.0, device=device)
    bound = result.chosen.measurement.latency.bound_ms
    assert result.budget.latency_ms is not None
    assert bound is not None
    assert result.verdict.kind in ("inconclusive", "fits")
    assert result.verdict.kind == "inconclusive" or bound <= result.budget.latency_ms


def test_a_model_without_a_layer_for_int8_and_without_groups_misses_instead_of_failing(
    fit: Callable[..., FitResult], tiny: ModuleType
) -> None:
    class Gain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = torch.nn.Parameter(torch.ones(64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1) * self.gain

    task = replace(tiny.quick(), model=Gain().eval(), train=None, evaluate=lambda predict: 1.0)
    result = fit(task=task, latency_ms=1e-6)
    assert (result.verdict.kind, result.chosen.name) == ("misses", "dense")


def test_calibration_that_is_shuffled_is_told_and_its_run_is_resumed(
    fit: Callable[..., FitResult], tiny: ModuleType
) -> None:
    class Shuffled:
        def __iter__(self) -> Iterator[torch.Tensor]:
            batches = tiny.task().calibration
            return (batches[0][order] for order in [torch.randperm(len(batches[0]))])

    told: list[Event] = []
    task = tiny.quick(calibration=Shuffled())
    first = fit(task=task, latency_ms=1000.0, listen=told.append)
    assert first.verdict.kind == "fits"
    assert [event.doing for event in told if event.stage == "data"] == [CHANGED]
    assert fit(task=task, latency_ms=1000.0, resume=True).chosen == first.chosen
    other = tiny.quick(calibration=list(tiny.task().calibration))
    with pytest.raises(InputError, match="another order: model was"):
        fit(task=other, latency_ms=1000.0, resume=True)


def test_more_epochs_and_another_recovery_train_again_and_measure_nothing_else_again(
    fit: Callable[..., FitResult], scripted: ModuleType, tiny: ModuleType
) -> None:
    device = scripted.ScriptedDevice(tiny.latency_ms)
    asked = {"speedup": 2.0, "max_drop": 0.5, "device": device}
    first = fit(**asked, epochs=1, recover="distill")

    def again(epochs: int, recover: str) -> tuple[FitResult, set[str]]:
        before = len(device.artefacts)
        result = fit(**asked, epochs=epochs, recover=recover, resume=True)
        return result, {path.parent.name for path in device.artefacts[before:]}

    assert first.chosen.name.startswith("final")
    same, started = again(1, "distill")
    assert (same.chosen, started - {first.chosen.name}) == (first.chosen, set()), "golden vectors alone"
    longer, started = again(3, "distill")
    assert started == {"dense", first.chosen.name}, "measured and proven in turn with the dense model"
    assert longer.chosen.kept == first.chosen.kept
    assert [each.epochs for each in (*first.chosen.training, *longer.chosen.training)] == [1, 3]
    assert longer.baseline.measurement == first.baseline.measurement
    other, started = again(3, "finetune")
    assert started == {"dense", first.chosen.name}
    assert (other.chosen.candidate.recover, other.chosen.kept) == ("finetune", first.chosen.kept)
    assert again(3, "finetune")[0].chosen == other.chosen


def test_an_evaluation_that_fails_leaves_nothing_behind(
    fit: Callable[..., FitResult], tiny: ModuleType, tmp_path: Path
) -> None:
    def evaluate(predict: Any) -> float:
        raise ValueError("no labels")

    with pytest.raises(InputError, match="no labels"):
        fit(task=replace(tiny.quick(), evaluate=evaluate))
    assert not (tmp_path / "run").exists()


def test_a_machine_that_is_slower_during_the_search_does_not_mislead_it(
    fit: Callable[..., FitResult], pruned: FitResult, scripted: ModuleType, tiny: ModuleType
) -> None:
    """Half as fast from the second trial on, and itself again for the proof."""
    device = scripted.ScriptedDevice(tiny.latency_ms)

    def note(request: str, artefact: Path) -> None:
        folder = artefact.parent.name
        slow = folder.startswith("trial") or (device.slow and folder == "dense")
        device.slow = slow if request == "start" else device.slow

    device.slow, device.before = False, note
    device.speed = lambda block: 2.0 if device.slow else 1.0
    result = fit(speedup=2.0, max_drop=0.05, device=device)
    assert result.verdict.kind == "fits"
    # What sessions differ by stays free, so it may end smaller, never larger.
    assert all(
        mine <= steady for (_, mine), (_, steady) in zip(result.chosen.kept, pruned.chosen.kept, strict=True)
    )


def test_a_budget_is_set_by_the_median_of_three_sessions_of_the_dense_model(
    fit: Callable[..., FitResult], scripted: ModuleType, tiny: ModuleType
) -> None:
    """One of them is disturbed: it neither widens nor narrows what a speed-up means."""
    device = scripted.ScriptedDevice(tiny.latency_ms)
    speeds = iter([1.0, 1.0, 1.6, 1.6, 1.1, 1.1])  # of a session's artefact and its reference

    def note(request: str, artefact: Path) -> None:
        if request == "start":
            device.factor = next(speeds, 1.1)

    device.factor, device.before = 1.0, note
    device.speed = lambda block: device.factor
    result = fit(speedup=1.15, device=device)
    dense_ms = tiny.latency_ms(Path(result.out) / "dense" / "model.onnx")
    assert result.budget.latency_ms == pytest.approx(1.1 * dense_ms / 1.15)


def test_what_disturbs_the_reference_of_the_dense_model_alone_misleads_no_search(
    fit: Callable[..., FitResult], pruned: FitResult, scripted: ModuleType, tiny: ModuleType
) -> None:
    device = scripted.ScriptedDevice(tiny.latency_ms)

    def note(request: str, artefact: Path) -> None:
        if request == "start":
            device.turn, device.alone = 0, device.alone and artefact.parent.name == "dense"
        if request == "time":  # a session's artefact and its reference, in turn
            device.factor = 1.4 if device.alone and device.turn % 2 else 1.0
            device.turn += 1

    device.alone, device.turn, device.factor, device.before = True, 0, 1.0, note
    device.speed = lambda block: device.factor
    result = fit(speedup=2.0, max_drop=0.05, device=device)
    dense = result.baseline.measurement
    assert dense.reference_ms == pytest.approx(dense.latency.p50_ms)
    assert result.chosen.kept == pruned.chosen.kept


def test_a_session_in_which_the_machine_is_slower_than_usual_is_repeated(
    fit: Callable[..., FitResult], pruned: FitResult, scripted: ModuleType, tiny: ModuleType
) -> None:
    """The first of a trial: steady, and 1.4 times as slow as all others."""
    device = scripted.ScriptedDevice(tiny.latency_ms)

    def note(request: str, artefact: Path) -> None:
        if request == "start" and artefact.parent.name == "trial-01":
            device.sessions += 1
            device.factor = 1.4 if device.sessions == 1 else 1.0

    device.sessions, device.factor, device.before = 0, 1.0, note
    device.speed = lambda block: device.factor
    result = fit(speedup=2.0, max_drop=0.05, device=device)
    first = next(report for report in result.trials if report.name == "trial-01")
    assert first.measurement.reference_ms == pytest.approx(result.baseline.measurement.reference_ms)
    assert result.chosen.kept == pruned.chosen.kept


def test_what_a_session_saw_within_the_budget_is_proven_before_it_is_a_miss(
    fit: Callable[..., FitResult], scripted: ModuleType, tiny: ModuleType, tmp_path: Path
) -> None:
    """The machine gets quicker by a tenth after the dense models, which tell its usual speed."""
    smallest = fit(latency_ms=1e-6, recover="none", out=tmp_path / "least").chosen
    bound = smallest.measurement.latency.bound_ms
    device = scripted.ScriptedDevice(tiny.latency_ms)

    def note(request: str, artefact: Path) -> None:
        if request == "start" and artefact.parent.name.startswith("trial"):
            device.factor = 1.0

    device.factor, device.before = 1.1, note
    device.speed = lambda block: device.factor
    assert bound is not None
    result = fit(latency_ms=1.03 * bound, max_drop=1.0, recover="none", device=device)
    assert (result.verdict.kind, result.chosen.kept) == ("fits", smallest.kept)


def test_without_training_the_proven_candidate_is_the_answer(fit: Callable[..., FitResult]) -> None:
    told: list[str] = []
    result = fit(
        speedup=2.0,
        max_drop=1.0,
        recover="none",
        listen=lambda event: told.append(f"{event.stage}: {event.doing}"),
    )
    assert result.verdict.kind == "fits"
    assert result.chosen.name.startswith("trial-")
    assert not [each for each in told if each.startswith("final")], "nothing is built again"
    for trial in result.trials:
        (line,) = (each for each in told if each.startswith(f"{trial.name}: finished, "))
        assert f", {result.metric} {trial.metric:.4g}, bound of p90 " in line
    proofs = [each.split(",")[0] for each in told if ": proof says" in each]
    assert proofs[-1] == f"{result.chosen.name}: proof says fits"


@pytest.mark.parametrize(("speedup", "step"), [(1.6, False), (2.0, True)], ids=["lands", "steps past"])
def test_a_fit_says_when_the_table_has_nothing_nearer_to_the_budget(
    fit: Callable[..., FitResult], tiny: ModuleType, scripted: ModuleType, speedup: float, step: bool
) -> None:
    """`conv1` with 16 units takes 86 % of half of the dense model's time, with 24 more than all of it."""
    lasting: list[str] = []
    result = fit(
        speedup=speedup,
        max_drop=1.0,
        recover="none",
        device=scripted.ScriptedDevice(tiny.summed_ms, operators=tiny.operators),
        listen=lambda event: lasting.append(event.doing) if event.lasting else None,
    )
    bound, allowed = result.chosen.measurement.latency.bound_ms, result.budget.latency_ms
    assert bound is not None
    assert allowed is not None
    told = f"{result.chosen.name} uses {bound / allowed:.1%} of its budget: {AT_A_STEP}"
    assert lasting == [told] * step


def test_int8_that_is_slower_is_not_used(
    fit: Callable[..., FitResult], scripted: ModuleType, tiny: ModuleType
) -> None:
    def slow_int8(artefact: Path) -> float:
        return tiny.latency_ms(artefact) * (3.0 if artefact.parent.name.startswith("dense-int8") else 1.0)

    result = fit(speedup=1.5, max_drop=0.05, device=scripted.ScriptedDevice(slow_int8))
    assert result.chosen.candidate.precision == "float32"
    assert result.verdict.kind == "fits"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"latency_ms": -1.0}, "latency_ms is -1.0"),
        ({"latency_ms": 1.0, "speedup": 2.0}, "Both"),
        ({"criterion": "l3"}, "no criterion 'l3'"),
        ({"recover": "prayer"}, "no recovery 'prayer'"),
        ({"epochs": -1}, "epochs is -1"),
        ({"target": "jetsn"}, "jetsn"),
        ({"runtime": "tflite"}, "tflite"),
        ({"profile": "raspberry-pi-4", "device": None}, "no memory_bandwidth, and a prediction needs it"),
        ({"target": "arm"}, "is aarch64, and scripted is x86_64"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_order_is_refused_before_anything_is_written(
    fit: Callable[..., FitResult], tmp_path: Path, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        fit(**options)
    assert not (tmp_path / "run").exists()


def test_training_needs_labels(fit: Callable[..., FitResult], tiny: ModuleType) -> None:
    with pytest.raises(InputError, match="no `train`"):
        fit(task=replace(tiny.quick(), train=None), recover="finetune")


def test_without_labels_the_original_teaches(fit: Callable[..., FitResult], tiny: ModuleType) -> None:
    result = fit(task=replace(tiny.quick(), train=None), speedup=2.0, max_drop=0.1)
    assert result.verdict.kind == "fits"
    assert "distill" in {rung for rung, *_ in result.chosen.recovered}
